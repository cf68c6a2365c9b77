"""Explanations of `(apply, params, x)`: functions that know neither task nor federation."""
