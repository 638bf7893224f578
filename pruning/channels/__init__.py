"""Channels that are removed as a whole: coupled, cut out, and the smaller network that remains."""
