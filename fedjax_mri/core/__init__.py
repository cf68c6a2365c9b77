"""Errors, pytrees, random keys, atomic files, code digests and compiled programs. Core imports no other room."""
