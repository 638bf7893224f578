"""Networks as torch.fx graphs: traced, BatchNorm folded, evaluated again only where an image
changed.
"""
