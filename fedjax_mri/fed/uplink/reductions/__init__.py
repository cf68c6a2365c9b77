"""Reductions of a cohort's updates, one a file: a function that makes a `Reduce`, and its settings."""
