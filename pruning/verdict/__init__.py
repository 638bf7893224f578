"""The verdict on a job: which checkpoint to ship, whether the gates hold, and whether its dense
network is better than guessing.
"""
