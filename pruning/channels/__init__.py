"""Removal of whole channels: which are coupled and go together, and the smaller network without
them.
"""
