"""Which checkpoint to ship, whether the gates hold, and whether the dense network is one."""
