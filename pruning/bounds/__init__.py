"""Approximation bounds: how far a layer's outputs, and with them the logits, can be from those of
the dense network when weights are sampled.
"""
