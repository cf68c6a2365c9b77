"""Attacks by clients that take part: what an attacker trains on, what it sends, and who sees what.

`contract.py` says what an attack is. `--fed.attack` names a settings class of this room, and `--attack.*` its settings.
Attacks on a finished run, such as membership inference, are in the room `attack/` of the package.
"""
