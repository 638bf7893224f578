"""Datasets as uint8 tensors, or photos as files: decoded, normalised and augmented in batches."""
