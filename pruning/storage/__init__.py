"""Files: sparse checkpoints, the stages of a job, tensors kept for later jobs."""
