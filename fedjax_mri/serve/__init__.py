"""A web page to convert, explain, watch and train, and the same over DICOMweb.

It imports run, report, convert, explain and what they import. Only the worker, a process of its own, runs models.
"""
