"""Scaling laws: the error of densities and networks nobody ran, with bands, inverses and refusals.
Needs no torch.
"""
