"""Prune-and-retrain rounds: planned, rehearsed, priced and done."""
