"""Federated training of medical-imaging models over thousands of simulated hospitals, as one compiled program."""

__version__ = "0.1.0"
