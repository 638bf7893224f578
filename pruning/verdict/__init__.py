"""Verdicts: which checkpoint to ship, whether the gates hold, whether the baseline is sound."""
