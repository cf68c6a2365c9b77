"""The predictions of a trained classifier on files, explained, measured and marked for review.

It imports run, report, convert and what they import.
"""
