"""Sums that merge by adding, and the figures that are made of them. It imports core alone."""
