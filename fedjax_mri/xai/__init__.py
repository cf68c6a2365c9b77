"""Explanations of a function from images to scores; no file here knows a network.

A method is built from its settings (`methods.METHODS`) and takes the function itself: what it needs of the layers
inside, it reads off the traced function (`trace.py`).
"""
