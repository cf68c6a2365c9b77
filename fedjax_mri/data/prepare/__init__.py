"""Scans made ready for training: functions on arrays [H, W] or [D, H, W], one file for each step."""
