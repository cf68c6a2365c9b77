"""From a simulation to hospitals: an experiment as a ServerApp and ClientApps of Flower.

A hospital computes `train_client` of `fed/engine/remote.py` on its own data, and the server `aggregate_round`; Flower
carries the messages. `flower.py` and `node.py` import Flower (extra `flower`), the others do not.
"""
