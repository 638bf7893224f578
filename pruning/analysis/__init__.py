"""What evaluations compute: differences between networks, shifts, findings of the papers."""
