"""Errors, trees of arrays, random keys, files written whole and compiled programs. It imports no other room."""
