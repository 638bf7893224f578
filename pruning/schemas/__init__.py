"""Wire documents of the science: what is asked for (recipe) and what was found (report). Free of
torch.
"""
