"""How a federation learns: clients, uplink, algorithms, sampling, the simulated world and the engine.

It imports core, metrics, data and tasks.
"""
