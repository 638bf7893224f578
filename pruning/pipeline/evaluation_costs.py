"""What each evaluation of a job costs, in forward passes of one image."""

from __future__ import annotations

from pruning.analysis.applicability import fits_task, runs_only_if_asked
from pruning.analysis.job_size import EstimatesUnits, JobSize
from pruning.errors import ParameterError
from pruning.evaluations import evaluations
from pruning.schemas.recipe import Method


def estimate_evaluation_units(scale: JobSize) -> dict[str, int]:
    """The work of each evaluation of a job by name, in forward passes of one image; 0 where one
    does not say.

    Evaluations that share what they measure are counted as if each were alone. Raises
    `ParameterError` for parameters with which there is nothing to do.
    """
    wanted = scale.recipe.evaluations
    if wanted is None:
        kinds = {name: evaluations.get(name) for name in evaluations.names()}
        wanted = tuple(
            Method(name=name)
            for name, kind in kinds.items()
            if not runs_only_if_asked(kind) and fits_task(kind, segmentation=scale.segmentation)
        )
    found = {}
    for index, method in enumerate(wanted):
        try:
            evaluation = evaluations.create(method.name, method.params)
            found[method.name] = (
                int(evaluation.units(scale)) if isinstance(evaluation, EstimatesUnits) else 0
            )
        except ParameterError as error:
            raise ParameterError(error.message, pointer=f"/evaluations/{index}/params") from None
    return found
