"""The section on the scaling law through the points of all replicates."""

from __future__ import annotations

from collections.abc import Sequence

from pruning import wording
from pruning.evaluations._law_points import LawPoints
from pruning.evaluations.scaling_law import ScalingLaw, describe_unpruned
from pruning.laws.seeds import ENOUGH_SEEDS
from pruning.measurement.guessing import guessing_error
from pruning.replicates.finished import Finished
from pruning.schemas.recipe import Method, Recipe
from pruning.schemas.report import Checkpoint, Section

LAW = "scaling_law"


def build_law_section(
    recipe: Recipe, finished: Sequence[Finished], checkpoints: Sequence[Checkpoint]
) -> Section | None:
    """Build the section; None where no replicate has one."""
    if not any(LAW in replicate.report.sections for replicate in finished):
        return None
    asked = next((method for method in recipe.named_evaluations if method.name == LAW), None)
    evaluation = ScalingLaw(**(asked.params if asked is not None else {}))
    labels = {checkpoint.label: checkpoint.criterion for checkpoint in checkpoints}
    by_label = {
        label: _gather_points(recipe, criterion, finished) for label, criterion in labels.items()
    }
    section = evaluation.describe(by_label, asked_for=False)
    controls = finished[0].report.controls
    reference = describe_unpruned([control.retrainings for control in controls])
    notes = (_describe_trials(finished), *section.notes, *reference)
    return section.model_copy(update={"notes": notes})


def _gather_points(recipe: Recipe, criterion: Method, finished: Sequence[Finished]) -> LawPoints:
    """The points of a criterion in every replicate, each with the unpruned error of its own run."""
    targets_alone = recipe.when == "before_training" or recipe.retrain.mode == "gradual"
    rows = [
        (replicate, row)
        for replicate in finished
        for row in sorted(replicate.report.rounds, key=lambda row: row.sparsity)
        if row.criterion == criterion and (row.target or not targets_alone)
    ]
    labels = finished[0].images.labels
    assert labels is not None  # the law takes classification alone
    return LawPoints(
        criterion=criterion,
        densities=[row.density for _, row in rows],
        errors=[(row.retrained or row.pruned).error for _, row in rows],
        unpruned=[replicate.report.control.error.value for replicate, _ in rows],
        images=finished[0].report.data.test,
        seed=recipe.seed,
        guessing_error=guessing_error(labels, len(finished[0].report.data.classes)),
        trial=[replicate.seed for replicate, _ in rows],
    )


def _describe_trials(finished: Sequence[Finished]) -> str:
    """The number of runs behind the law, and where the effect of a seed comes from."""
    runs = wording.count_of(len(finished), "replicate")
    text = f"One law through the points of {runs}: the errors of a density are averaged. "
    if len(finished) > ENOUGH_SEEDS:
        return text + "The effect of a seed on a whole curve is that of these replicates."
    return text + (
        f"With fewer than {ENOUGH_SEEDS + 1} replicates the effect of a seed on a whole curve is "
        "the paper's."
    )
