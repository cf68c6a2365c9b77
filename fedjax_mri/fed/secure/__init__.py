"""Secure aggregation in the round: the server takes the sum of updates as whole numbers, masked or not.

`contract.py` says what a choice is; `--fed.secure` names a settings class. The protocol between machines is the room
`fedjax_mri/secure/`.
"""
