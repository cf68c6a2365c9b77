"""Differential privacy: what each level adds to a simulation, and the accountant.

`contract.py` says what a level of privacy is; `--fed.privacy` names a settings class.
"""
