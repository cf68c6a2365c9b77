"""Networks in Flax NNX, one file a family, as plain functions on trees of arrays. It imports core alone."""
