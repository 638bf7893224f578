"""Measurements of single networks (error, loss, FLOPs, latency), with confidence intervals."""
