"""A prune-and-retrain round: its plan, a dry run with random scores, its cost, and the pruning
itself.
"""
