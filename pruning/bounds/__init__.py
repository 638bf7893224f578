"""Approximation bounds: how far sampled weights may be from the sum they stand for."""
