"""The tests mirror the packages; what they share stands in `tests/support`."""
