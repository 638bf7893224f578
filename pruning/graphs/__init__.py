"""Networks as torch.fx graphs: traced, BatchNorm folded, and evaluated again only at the positions
that a changed part of an image reaches.
"""
