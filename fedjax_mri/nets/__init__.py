"""Networks in Flax NNX, one file per family, split into plain trees of arrays at the boundary."""
