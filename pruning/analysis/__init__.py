"""Computations of the evaluations: distances between networks, tightness of bounds, changes of the
loss, errors under shift.
"""
