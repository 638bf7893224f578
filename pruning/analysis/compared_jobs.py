"""Finished jobs on one dataset, compared image by image; imports no torch.

Source of the test: McNemar, Psychometrika 12 (1947), exact; Holm, Scandinavian Journal of
Statistics 6 (1979).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pruning.errors import DataError
from pruning.measurement.intervals import bounded_mean_interval, difference_interval
from pruning.measurement.paired import (
    PairedErrors,
    adjust_holm,
    count_paired_errors,
    mcnemar_p_value,
)
from pruning.schemas.comparison import (
    COSTS,
    ComparedNetwork,
    Comparison,
    Cost,
    NetworkName,
    PairedDifference,
    ParetoFront,
)
from pruning.schemas.report import Checkpoint, Latency, Network, Report
from pruning.schemas.targets import RequestedIncrease
from pruning.schemas.verdicts import PairedCounts

Array = NDArray[Any]
SIGNIFICANCE = 0.05
"""The probability with which any of two equal networks of a comparison is called better."""
GIVEN = "given"


@dataclass(frozen=True)
class ComparedJob:
    """A finished job, by its report and the errors of its networks on each image."""

    report: Report
    tensors: Mapping[str, Array] = field(default_factory=dict)
    """The tensors of the file `report.images.safetensors`, see `ImageErrors`; empty where only
    fronts are wanted.
    """

    @property
    def id(self) -> str:
        """The job's id."""
        return self.report.job_id

    @property
    def indices(self) -> Array:
        """The index of each test image in the dataset's own test split."""
        return self.tensors["indices"]

    def wrong(self, network: str) -> Array:
        """The errors of a network on each test image."""
        return self.tensors[f"wrong/{network}"]

    @property
    def recommended(self) -> str | None:
        """The checkpoint that the report recommends."""
        return self.report.recommendation.checkpoint


def compare_jobs(jobs: Sequence[ComparedJob], *, paired: bool = True) -> Comparison:
    """Compare jobs on one dataset: their networks, paired differences and Pareto fronts.

    Differences are between the first job and each other one, on the test images that all have;
    `paired` says whether to form them. Raises `DataError` where the jobs are on different datasets,
    or share no test image.
    """
    first = jobs[0]
    for other in jobs[1:]:
        if other.report.data.sha256 != first.report.data.sha256:
            raise DataError(
                f"{first.id} and {other.id} are on different datasets, {first.report.data.name} "
                f"and {other.report.data.name}: their errors cannot be compared"
            )
    notes = _describe_splits(jobs)
    dense_ms = _find_dense_latency(jobs)
    if dense_ms is None:
        notes.append(
            "Latencies are not compared: they are ratios to the dense network, which the jobs do "
            "not share or ran on different machines."
        )
    networks = [
        _describe_network(job, name, network, dense_ms)
        for job in jobs
        for name, network in _list_networks(job)
    ]
    differences: list[PairedDifference] = []
    images = None
    if paired and len(jobs) > 1:
        places = _find_common_images(jobs)
        images = len(places[0])
        differences = _form_differences(jobs, places)
    return Comparison(
        jobs=tuple(job.id for job in jobs),
        images=images,
        networks=tuple(networks),
        differences=tuple(differences),
        fronts=tuple(front for cost in COSTS if (front := _find_front(networks, cost)) is not None),
        notes=tuple(notes),
    )


def _describe_splits(jobs: Sequence[ComparedJob]) -> list[str]:
    notes = ["Fronts are by validation errors, so that test errors report and do not choose."]
    val_images = {job.report.data.val for job in jobs}
    seeds = {job.report.spec.get("seed", 0) for job in jobs}
    if len(val_images) > 1 or len(seeds) > 1:
        notes.append(
            "The jobs may have drawn different validation images (other seeds or limits): between "
            "jobs, validation errors differ by that too."
        )
    return notes


def _list_networks(job: ComparedJob) -> list[tuple[str, Network]]:
    """The network as given, and the checkpoints, by name."""
    checkpoints = [(checkpoint.id, checkpoint) for checkpoint in job.report.checkpoints]
    return [(GIVEN, job.report.baseline), *checkpoints]


def _find_dense_latency(jobs: Sequence[ComparedJob]) -> float | None:
    """The milliseconds of the dense network in the first job; None where the jobs do not share it
    or ran on different machines.
    """
    machines = {job.report.environment.device_name for job in jobs}
    models = {job.report.model.sha256 for job in jobs}
    row = _choose_latency(jobs[0].report.baseline)
    if len(machines) > 1 or len(models) > 1 or models == {None} or row is None:
        return None
    return row.p50


def _choose_latency(network: Network) -> Latency | None:
    """The latency of the smallest batch with the fewest threads in PyTorch, where it was taken."""
    rows = [row for row in network.latency_ms if row.runtime == "torch"]
    return min(rows, key=lambda row: (row.batch, row.threads)) if rows else None


def _describe_network(
    job: ComparedJob, name: str, network: Network, dense_ms: float | None
) -> ComparedNetwork:
    # Moments differ between jobs; the ratio to the dense network, measured in turn, does not.
    row = _choose_latency(network)
    ratio = 1.0 if name == GIVEN else None if row is None else row.against_given
    return ComparedNetwork(
        job=job.id,
        network=name,
        target=network.removal if isinstance(network, Checkpoint) else None,
        recommended=name == job.recommended,
        error=network.error,
        val_error=network.val_error,
        sparsity=network.sparsity,
        size_bytes=network.size_bytes["sparse"],
        flops=network.flops,
        latency_ms=None if ratio is None or dense_ms is None else ratio * dense_ms,
    )


def _find_common_images(jobs: Sequence[ComparedJob]) -> list[Array]:
    """The places of the test images that all jobs have, in each job's own order of them."""
    common = jobs[0].indices
    for job in jobs[1:]:
        common = np.intersect1d(common, job.indices)
    if not len(common):
        raise DataError("the jobs share no test image: their limits drew different ones")
    common = np.sort(common)
    places = []
    for job in jobs:
        order = np.argsort(job.indices, kind="stable")
        places.append(order[np.searchsorted(job.indices, common, sorter=order)])
    return places


def _form_differences(
    jobs: Sequence[ComparedJob], places: Sequence[Array]
) -> list[PairedDifference]:
    """The differences between the first job and each other one, with adjusted p-values."""
    first = jobs[0]
    names, errors = [], []
    for job, own_places in zip(jobs[1:], places[1:], strict=True):
        for own, other in _pair_networks(first, job):
            names.append(
                (NetworkName(job=first.id, network=own), NetworkName(job=job.id, network=other))
            )
            errors.append((first.wrong(own)[places[0]], job.wrong(other)[own_places]))
    if not errors or errors[0][0].dtype != np.bool_:
        return [
            _average_difference(pair, *wrong) for pair, wrong in zip(names, errors, strict=True)
        ]
    counts = [count_paired_errors(*wrong) for wrong in errors]
    p_values = adjust_holm([mcnemar_p_value(count) for count in counts])
    return [
        _test_difference(pair, count, p_value)
        for pair, count, p_value in zip(names, counts, p_values, strict=True)
    ]


def _average_difference(
    names: tuple[NetworkName, NetworkName], first: Array, second: Array
) -> PairedDifference:
    """The difference of mean errors of images (segmentation)."""
    gaps = first.astype(np.float64) - second.astype(np.float64)
    estimate = bounded_mean_interval(
        float(gaps.sum()), float((gaps**2).sum()), n=len(gaps), least=-1.0, unit="points"
    )
    return PairedDifference(
        first=names[0], second=names[1], difference=estimate, counts=None, p_value=None, lower=None
    )


def _test_difference(
    names: tuple[NetworkName, NetworkName], counts: PairedErrors, p_value: float
) -> PairedDifference:
    """The difference of two error rates, and which is the smaller one where that is proven."""
    lower: Literal["first", "second"] | None = None
    if p_value <= SIGNIFICANCE:
        lower = "first" if counts.only_first < counts.only_second else "second"
    return PairedDifference(
        first=names[0],
        second=names[1],
        difference=difference_interval(counts.only_first, counts.only_second, counts.n),
        counts=PairedCounts(
            only_checkpoint=counts.only_first, only_reference=counts.only_second, n=counts.n
        ),
        p_value=p_value,
        lower=lower,
    )


def _pair_networks(first: ComparedJob, second: ComparedJob) -> list[tuple[str, str]]:
    """The checkpoints of equal targets, and the recommended ones, each pair once."""
    pairs = [
        (own.id, other.id)
        for own, other in product(first.report.checkpoints, second.report.checkpoints)
        if _name_target(own) == _name_target(other)
    ]
    if first.recommended is not None and second.recommended is not None:
        pairs.append((first.recommended, second.recommended))
    return list(dict.fromkeys(pairs))


def _name_target(checkpoint: Checkpoint) -> tuple[str, float]:
    """The quantity that a target counts, and the share of it that was to go; a limit on the error
    as it is.
    """
    requested = checkpoint.requested
    if isinstance(requested, RequestedIncrease):
        return requested.quantity, requested.value
    quantity = requested.quantity if requested else "sparsity"
    return quantity, round(checkpoint.removal, 9)


def _find_front(networks: Sequence[ComparedNetwork], cost: Cost) -> ParetoFront | None:
    """The networks than which none is as good in one of error and cost and better in the other."""
    rows = [(getattr(network, cost), network.val_error.value, network) for network in networks]
    if any(row[0] is None for row in rows):
        return None
    chosen = [
        (own_cost, error, network)
        for own_cost, error, network in rows
        if not any(
            other_cost <= own_cost
            and other_error <= error
            and (other_cost, other_error) != (own_cost, error)
            for other_cost, other_error, _ in rows
        )
    ]
    chosen.sort(key=lambda row: row[:2])
    names = tuple(NetworkName(job=row[2].job, network=row[2].network) for row in chosen)
    return ParetoFront(cost=cost, networks=names)
