"""Which evaluations apply to a job."""

from __future__ import annotations

from typing import ClassVar, Protocol, runtime_checkable

from pruning.analysis.job_record import JobRecord
from pruning.errors import ParameterError
from pruning.schemas.report import Section


class Evaluation(Protocol):
    """One question asked of all networks of a job.

    Optional class attributes: `reads` names evaluations whose sections it reads, which are done
    before it; `of_pixels` is True where it knows segmentation, else it is left out there, and
    refused where it is asked for; `runs_only_if_asked` is True where it runs only if a recipe names
    it. One with `units` says what it costs; see `pruning.analysis.job_size`.
    """

    version: ClassVar[int]

    def evaluate(self, trial: JobRecord) -> Section:
        """The answer."""


@runtime_checkable
class Conditional(Protocol):
    """An evaluation that not every job has a use for: where the recipe lists none, it runs only
    where it applies.
    """

    def applies(self, trial: JobRecord) -> bool:
        """Whether it has something to say of this job."""


def runs_only_if_asked(evaluation: Evaluation | type[Evaluation]) -> bool:
    """Whether it takes so long that it has to be asked for by name."""
    return bool(getattr(evaluation, "asked_only", False))


def fits_task(evaluation: object, *, segmentation: bool) -> bool:
    """Whether it knows the labels of the job: all know those of images, some those of pixels."""
    return not segmentation or bool(getattr(evaluation, "of_pixels", False))


def applies_to(evaluation: Evaluation, trial: JobRecord) -> bool:
    """Whether an evaluation that was not asked for by name should run."""
    if runs_only_if_asked(evaluation) or not fits_task(
        evaluation, segmentation=trial.data.segmentation
    ):
        return False
    return not isinstance(evaluation, Conditional) or evaluation.applies(trial)


def check_task(
    evaluation: object, name: str, *, segmentation: bool, pointer: str | None = None
) -> None:
    """Raise `ParameterError` for an evaluation of one answer an image that is asked of a
    segmentation job.
    """
    if not fits_task(evaluation, segmentation=segmentation):
        raise ParameterError(
            f"the evaluation {name!r} is of networks that name one class an image; for "
            "segmentation there "
            "are accuracy, comparison, robustness, prune_potential and noise_similarity",
            pointer=pointer,
        )
