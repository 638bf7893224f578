"""Traits of the evaluations of a job, declared by attributes of their classes."""

from __future__ import annotations

from pruning.analysis.applicability import fits_task
from pruning.evaluations import evaluations
from pruning.evidence.criterion import PredictsLossChange
from pruning.rounds.method import PruningMethod
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
    return recipe.evaluations is None or _names_evaluation_with(recipe, "reads_unretrained")


def reads_losses(recipe: Recipe) -> bool:
    """Whether an evaluation of the job reads the losses on training images before and after each
    pruning.

    Where a recipe names no evaluations, those that read them apply to several criteria, and to one
    that predicts the change of the loss.
    """
    if recipe.evaluations is not None:
        return _names_evaluation_with(recipe, "reads_losses")
    return len(recipe.criteria) > 1 or any(
        isinstance(PruningMethod.of(recipe, method).criterion, PredictsLossChange)
        for method in recipe.criteria
        if recipe.prunes
    )


def _names_evaluation_with(recipe: Recipe, trait: str) -> bool:
    """Whether the recipe names an evaluation whose class has a true attribute of this name."""
    known = evaluations.names()
    return any(
        getattr(evaluations.get(method.name), trait, False)
        for method in recipe.evaluations or ()
        if method.name in known
    )
