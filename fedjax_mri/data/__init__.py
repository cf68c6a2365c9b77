"""Where examples come from, how they are divided among clients and how a local step reads them.

It imports core alone.
"""
