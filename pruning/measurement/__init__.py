"""Measured errors, losses and costs of networks, with confidence intervals."""
