"""Training and retraining under fixed masks, resumable to the same bytes."""

from pruning.training.loop import Controls, Teacher, train_

__all__ = ["Controls", "Teacher", "train_"]
