"""Reductions of a cohort's updates, one in each file: a function that returns a `Reduce`, and its settings."""
