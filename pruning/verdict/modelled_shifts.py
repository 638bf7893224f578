"""Shifts that are declared to be modelled in training, where no training of the job sees any."""

from __future__ import annotations

from pruning.schemas.recipe import Recipe


def list_shift_warnings(recipe: Recipe) -> list[str]:
    """The warning that shifts are declared `modelled` and the job trains on no corruption.

    >>> from pruning.schemas.recipe import Shifts, Targets
    >>> recipe = Recipe(targets=Targets(sparsity=(0.5,)), shifts=Shifts(knowledge="modelled"))
    >>> [warning[:55] for warning in list_shift_warnings(recipe)]
    ['shifts: declared to be modelled in training, and no tra']
    """
    if recipe.shifts is None or recipe.shifts.knowledge != "modelled":
        return []
    trainings = (recipe.train, recipe.retrain)
    if any(training is not None and training.corrupt is not None for training in trainings):
        return []
    if not recipe.prunes:
        return [
            "shifts: declared to be modelled in training, and this job does not see how networks "
            "were trained: unless the pruned ones were trained on corrupted images, too, the "
            "guideline to prune as the nominal data allow does not hold"
        ]
    return [
        "shifts: declared to be modelled in training, and no training of this job sees corrupted "
        "images: unless the network as given was trained on them and retraining keeps that, the "
        "guideline to prune as the nominal data allow does not hold; set `corrupt` in train and "
        "retrain, or declare `partly_modelled` or `unexpected`"
    ]
