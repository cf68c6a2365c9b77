"""Stages of the uplink, one a file: a function that makes a `Stage`, and its settings."""
