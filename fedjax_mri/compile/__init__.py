"""Compiles a config's programs for machines that are not here, and estimates what a run would take on them."""
