"""What a network loses and what it costs, with confidence intervals."""
