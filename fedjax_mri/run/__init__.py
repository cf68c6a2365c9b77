"""One run from its config to its results: settings, folder, checkpoints, training, restoring.

It imports all rooms above it.
"""
