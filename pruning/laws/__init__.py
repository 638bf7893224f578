"""Scaling laws: errors of densities and networks that were not run, with bands,
or a refusal where no prediction holds.

This package needs no torch.
"""
