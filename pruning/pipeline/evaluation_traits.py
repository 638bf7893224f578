"""Traits of the evaluations of a job, declared by attributes of their classes."""

from __future__ import annotations

from pruning.analysis.applicability import fits_task
from pruning.evaluations import evaluations
from pruning.schemas.recipe import Recipe


def list_pixel_evaluations() -> list[str]:
    """The names of the evaluations that support segmentation.

    >>> "accuracy" in list_pixel_evaluations(), "bounds" in list_pixel_evaluations()
    (True, False)
    """
    return [
        name for name in evaluations.names() if fits_task(evaluations.get(name), segmentation=True)
    ]


def reads_unretrained(recipe: Recipe) -> bool:
    """Whether an evaluation of the job reads networks as they are right after pruning.

    A recipe that names no evaluations may run any.
    """
    if recipe.evaluations is None:
        return True
    known = evaluations.names()
    return any(
        getattr(evaluations.get(method.name), "reads_unretrained", False)
        for method in recipe.evaluations
        if method.name in known
    )
