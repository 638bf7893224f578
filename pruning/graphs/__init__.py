"""Networks as computational graphs: traced, folded, and evaluated only where something changed."""
