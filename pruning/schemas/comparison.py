"""Jobs compared: their checkpoints side by side, on the same images."""

from __future__ import annotations

from typing import Literal

from pruning.schemas.base import Document
from pruning.schemas.estimates import Estimate
from pruning.schemas.verdicts import PairedCounts

Cost = Literal["size_bytes", "flops", "latency_ms"]
"""A cost that errors are traded against."""
COSTS: tuple[Cost, ...] = ("size_bytes", "flops", "latency_ms")


class NetworkName(Document):
    """A network of a job: `given`, the dense network as uploaded, or a checkpoint by its id."""

    job: str
    network: str


class ComparedNetwork(NetworkName):
    """The error and the costs of a network, as its own report has them."""

    target: float | None
    """The share of what the job's targets count that was to be removed; of a
    network that was pruned elsewhere its sparsity to a percent; `null` for `given`.
    """
    recommended: bool
    """Whether the report of its job recommends it."""
    error: Estimate
    """The error on the test images."""
    val_error: Estimate
    """The error on the validation images of its job, by which the fronts are drawn."""
    sparsity: float
    size_bytes: int
    """The size of the file in the format `sparse`."""
    flops: int
    latency_ms: float | None
    """One forward pass in PyTorch with the smallest batch: the median of the dense network in the
    first job, times the ratio to it that the network's own job measured in turn. `null` where the
    jobs do not share their dense network, ran on different machines or did not measure it.
    """


class PairedDifference(Document):
    """The error of a network minus that of another, on the test images that both jobs have."""

    first: NetworkName
    second: NetworkName
    difference: Estimate
    """The error of the first minus that of the second, with a 95 % interval for itself alone."""
    counts: PairedCounts | None
    """`only_checkpoint` are the images that the first alone gets wrong, `only_reference` those of
    the second; `null` for segmentation.
    """
    p_value: float | None
    """The exact p-value against equal errors (McNemar), Holm-adjusted for all differences of the
    comparison; `null` for segmentation.
    """
    lower: Literal["first", "second"] | None
    """The network with the smaller error, where the adjusted p-value is at most .05; `null` where
    the images do not tell.
    """


class ParetoFront(Document):
    """The networks that no other one beats in both validation error and a cost, cheapest first."""

    cost: Cost
    networks: tuple[NetworkName, ...]


class Comparison(Document):
    """Jobs on one dataset, compared."""

    jobs: tuple[str, ...]
    images: int | None
    """The number of test images that all the jobs have; `null` where no differences are formed."""
    networks: tuple[ComparedNetwork, ...]
    differences: tuple[PairedDifference, ...]
    """Between the first job and each other one: of checkpoints with equal targets, and of the
    recommended ones.
    """
    fronts: tuple[ParetoFront, ...]
    notes: tuple[str, ...] = ()
