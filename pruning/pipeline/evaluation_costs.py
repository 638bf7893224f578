"""The cost of each evaluation of a job, in forward passes of one image."""

from __future__ import annotations

from pruning.analysis.job_size import EstimatesUnits, JobSize
from pruning.errors import ParameterError
from pruning.evaluations import evaluations
from pruning.pipeline.evaluation_traits import list_evaluations


def estimate_evaluation_units(job_size: JobSize) -> dict[str, int]:
    """The work of each evaluation of a job by name, in forward passes of one image; 0 for one that
    does not say.

    Evaluations that share what they measure are counted as if each were alone. Raises
    `ParameterError` for parameters with which there is nothing to do.
    """
    methods = list_evaluations(
        job_size.recipe,
        segmentation=job_size.segmentation,
        has_shifted_sets=bool(job_size.shifted),
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
