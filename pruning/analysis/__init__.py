"""The computations behind evaluations: distances between networks, tightness of bounds, changes of
the loss, shifts.
"""
