"""What happens to updates on their way from clients to the server: weighting, stages, and one reduction.

`contract.py` says what a stage and a reduction are. Every settings class in `stages/` may be named after
`--fed.uplink.stages`, every one in `reductions/` after `--fed.uplink.reduce`.
"""
