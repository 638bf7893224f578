"""The computations of evaluations: differences between networks, shifts, findings of the papers."""
