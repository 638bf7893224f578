"""Pruning as a plain library: methods, retraining, evaluations, bounds and laws; no web, queue or
database.
"""
