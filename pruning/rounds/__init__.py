"""A prune-and-retrain round: planned, rehearsed, priced and done."""
