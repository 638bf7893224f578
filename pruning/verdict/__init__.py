"""Verdicts: which checkpoint to ship, whether the limits a user set (gates) hold, and
whether the dense network has been trained at all.
"""
