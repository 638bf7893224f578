"""The interface of evaluations, and which of them apply to a job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol, runtime_checkable

from pruning.analysis.job_record import JobRecord
from pruning.errors import ParameterError
from pruning.schemas.recipe import Recipe
from pruning.schemas.report import Section


class Evaluation(Protocol):
    """A question about all networks of a job.

    Optional class attributes: `reads` names evaluations whose sections it reads, which are done
    before it; an evaluation without a true `supports_segmentation` is left out for segmentation,
    and refused where a recipe names it; `by_default` is True where it runs in a job that does not
    say which evaluations to run, `asks_about_shifts` where it does so in a job with shifted sets or
    `shifts`; `reads_unretrained` is True where it reads networks as they are right after pruning,
    `reads_losses` where it reads the losses on training images before and after each pruning. A
    class method `fits_recipe` says whether it has a use in jobs of a recipe that does not name it.
    `asks_how_pruned` is True where it has nothing to say of networks that were pruned elsewhere.
    An evaluation with `units` estimates its cost; see `pruning.analysis.job_size`.
    """

    version: ClassVar[int]

    def evaluate(self, record: JobRecord) -> Section:
        """Return the answer as a section of the report."""


@runtime_checkable
class Conditional(Protocol):
    """An evaluation that not every job has a use for: where a recipe does not name it, it runs only
    where it applies.
    """

    def applies(self, record: JobRecord) -> bool:
        """Whether the evaluation has something to say about this job."""


def asks_how_pruned(evaluation: object) -> bool:
    """Whether an evaluation asks how networks were pruned, which a job that is given pruned
    networks cannot tell.
    """
    return bool(getattr(evaluation, "asks_how_pruned", False))


def fits_task(evaluation: object, *, segmentation: bool) -> bool:
    """Whether an evaluation supports the job's labels: all support those of images, some those of
    pixels.
    """
    return not segmentation or bool(getattr(evaluation, "supports_segmentation", False))


def fits_recipe(evaluation: object, recipe: Recipe) -> bool:
    """Whether an evaluation has a use in jobs of this recipe, as far as the recipe tells."""
    check = getattr(evaluation, "fits_recipe", None)
    return check is None or bool(check(recipe))


def applies_to(evaluation: Evaluation, record: JobRecord) -> bool:
    """Whether an evaluation that the recipe does not name should run."""
    if not fits_task(evaluation, segmentation=record.data.segmentation):
        return False
    return not isinstance(evaluation, Conditional) or evaluation.applies(record)


def check_task(
    evaluation: object,
    name: str,
    *,
    segmentation: bool,
    alternatives: Sequence[str],
    pointer: str | None = None,
) -> None:
    """Raise `ParameterError` where a segmentation job names an evaluation for classification.

    `alternatives` are the evaluations that support segmentation.
    """
    if not fits_task(evaluation, segmentation=segmentation):
        raise ParameterError(
            f"the evaluation {name!r} is for networks that name one class for each image; for "
            f"segmentation there are {', '.join(alternatives)}",
            pointer=pointer,
        )
