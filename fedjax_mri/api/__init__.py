"""What Python programs and notebooks use: train a config or a study, and read what came of it.

It imports the rooms of runs, studies, reports, conversion and explanation.
"""
