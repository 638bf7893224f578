"""The evaluations that a job runs, and what they read: declared by attributes of their classes."""

from __future__ import annotations

from pruning.analysis.applicability import asks_how_pruned, fits_recipe, fits_task
from pruning.evaluations import evaluations
from pruning.schemas.gates import EVALUATION_OF_GATE
from pruning.schemas.recipe import Method, Recipe


def list_pixel_evaluations() -> list[str]:
    """The names of the evaluations that support segmentation.

    >>> "accuracy" in list_pixel_evaluations(), "bounds" in list_pixel_evaluations()
    (True, False)
    """
    return [
        name for name in evaluations.names() if fits_task(evaluations.get(name), segmentation=True)
    ]


def list_evaluations(
    recipe: Recipe, *, segmentation: bool, has_shifted_sets: bool
) -> tuple[Method, ...]:
    """The evaluations of a job: those that its recipe names.

    With `all`, they are those that the task and the recipe allow. Where the recipe says nothing,
    they are among these the ones that run by default, those that its gates read, and in a job with
    shifted sets or `shifts` those that ask about shifts.

    >>> recipe = Recipe.model_validate({"targets": {"sparsity": [0.5]}})
    >>> runs = list_evaluations(recipe, segmentation=False, has_shifted_sets=False)
    >>> [method.name for method in runs]
    ['accuracy', 'class_damage', 'scaling_law']
    """
    if recipe.names_evaluations:
        return recipe.named_evaluations
    read = {EVALUATION_OF_GATE.get(gate) for gate in recipe.gates.list_set()}
    about_shifts = has_shifted_sets or recipe.shifts is not None
    return tuple(
        Method(name=name)
        for name in evaluations.names()
        if fits_task(evaluations.get(name), segmentation=segmentation)
        and (recipe.prunes or not asks_how_pruned(evaluations.get(name)))
        and fits_recipe(evaluations.get(name), recipe)
        and (
            recipe.evaluations == "all"
            or name in read
            or getattr(evaluations.get(name), "by_default", False)
            or (about_shifts and getattr(evaluations.get(name), "asks_about_shifts", False))
        )
    )


def reads_unretrained(recipe: Recipe) -> bool:
    """Whether an evaluation of the job reads networks as they are right after pruning."""
    return _runs_evaluation_with(recipe, "reads_unretrained")


def reads_losses(recipe: Recipe) -> bool:
    """Whether an evaluation of the job reads the losses on training images before and after each
    pruning.
    """
    return _runs_evaluation_with(recipe, "reads_losses")


def _runs_evaluation_with(recipe: Recipe, trait: str) -> bool:
    """Whether the job may run an evaluation whose class has a true attribute of this name."""
    known = evaluations.names()
    methods = list_evaluations(recipe, segmentation=False, has_shifted_sets=True)
    return any(
        getattr(evaluations.get(method.name), trait, False)
        for method in methods
        if method.name in known
    )
