"""Federated algorithms, one in each file, with the paper in its docstring."""
