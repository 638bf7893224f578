"""Datasets as uint8 tensors: decoded once, normalised and augmented in batches on the device."""
