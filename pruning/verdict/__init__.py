"""Verdicts: which checkpoint to ship, whether the limits a user set (gates) hold, and the
baseline.
"""
