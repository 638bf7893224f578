"""Scaling laws: errors of densities and networks that were not run, with bands and refusals.

This package needs no torch.
"""
