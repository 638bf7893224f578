"""The processes that a worker starts: a job, one turn of a family, a helper for what needs
torch.
"""
