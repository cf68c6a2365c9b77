"""Secure aggregation between machines: a server learns the sum of its clients' vectors, and none of the vectors.

Bonawitz et al. 2017 (Practical Secure Aggregation, CCS) in five steps, R0 to R4, as pure functions of each side and
message. `wire.py` says how messages are written, `client.py` and `server.py` what each side does with them, and
`network.py` carries them over sockets. Imports the core, NumPy and `cryptography` alone.
"""
