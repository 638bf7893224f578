"""The cost of each evaluation of a job, in forward passes of one image."""

from __future__ import annotations

from pruning.analysis.applicability import asks_how_pruned, fits_task, runs_only_if_asked
from pruning.analysis.job_size import EstimatesUnits, JobSize
from pruning.errors import ParameterError
from pruning.evaluations import evaluations
from pruning.schemas.recipe import Method


def estimate_evaluation_units(job_size: JobSize) -> dict[str, int]:
    """The work of each evaluation of a job by name, in forward passes of one image; 0 for one that
    does not say.

    Evaluations that share what they measure are counted as if each were alone. Raises
    `ParameterError` for parameters with which there is nothing to do.
    """
    methods = job_size.recipe.evaluations
    if methods is None:
        methods = tuple(
            Method(name=name) for name in evaluations.names() if _runs_unasked(name, job_size)
        )
    units = {}
    for index, method in enumerate(methods):
        try:
            evaluation = evaluations.create(method.name, method.params)
            units[method.name] = 0
            if isinstance(evaluation, EstimatesUnits):
                units[method.name] = int(evaluation.units(job_size))
        except ParameterError as error:
            raise ParameterError(error.message, pointer=f"/evaluations/{index}/params") from None
    return units


def _runs_unasked(name: str, job_size: JobSize) -> bool:
    """Whether an evaluation runs where the recipe does not list evaluations."""
    evaluation = evaluations.get(name)
    if runs_only_if_asked(evaluation) or (
        asks_how_pruned(evaluation) and not job_size.recipe.prunes
    ):
        return False
    return fits_task(evaluation, segmentation=job_size.segmentation)
