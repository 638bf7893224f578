"""The processes that a worker starts: a job, one turn of a family, and the helper."""
