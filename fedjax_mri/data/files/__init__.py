"""Readers of image files, one file a format, shared by training, convert and explain. It imports core and data."""
