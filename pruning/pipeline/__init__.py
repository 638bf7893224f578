"""A job from the dense network to the report; every stage is saved."""

from pruning.pipeline.pipeline import Networks, Pipeline

__all__ = ["Networks", "Pipeline"]
