"""What the collection of tests leaves out."""

collect_ignore = ["chaos_plugin.py"]
"""It puts its own function in place of one of ours when it is imported."""
