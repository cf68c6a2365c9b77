"""The way of updates from clients to the server: weighting, stages, and one reduction.

`contract.py` says what a stage and a reduction are. `--fed.uplink.stages` names settings classes of `stages/`, and
`--fed.uplink.reduce` one of `reductions/`.
"""
