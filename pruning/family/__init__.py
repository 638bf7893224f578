"""A family of networks as one job: its members, its law, what to run next, and its answers.

Only `sizes` needs torch.
"""
