"""A family of networks as one job: its members, the law through all of them, what
to run next, and the answers to the questions that its spec asks.

Only `sizes` needs torch.
"""
