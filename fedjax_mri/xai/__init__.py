"""Explanations of `(apply, params, x)`: the place for them; there are none yet."""
