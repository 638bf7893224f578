"""A family of networks as one job: its members, its law, what to run next, and what it answers. No
torch but in `sizes`.
"""
