"""Files of a job: sparse checkpoints, saved stages, tensors kept for later jobs."""
