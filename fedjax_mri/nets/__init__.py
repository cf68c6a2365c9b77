"""Networks in Flax NNX, one file a family with its settings; it imports core alone.

`conv/` holds how convolutions are computed, `layers.py` makes layers of them, `functional.py` turns a network into two
pure functions on plain trees of arrays. All networks are called alike:

- `x`: images float32 [B, H, W, C].
- `present` [B]: above 0 for an example, 0 for padding that fills the batch up, which BatchNorm leaves out; None: all.
- `train`: whether BatchNorm uses the batch's statistics and updates the running ones.
- `key`: the randomness of what drops out; None: nothing does.
"""
