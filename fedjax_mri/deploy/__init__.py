"""From a simulation to hospitals: an experiment as a ServerApp and ClientApps of Flower.

A hospital computes `fed/engine/remote.py: client_part` on its own data, and the server `server_part`; Flower carries
the messages. `flower.py` and `node.py` import Flower (extra `flower`), the others do not.
"""
