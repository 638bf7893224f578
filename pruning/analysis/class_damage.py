"""Checkpoints compared with their dense control by class and by group of the test images.

Of all images of a class, McNemar's exact test asks whether the two networks err equally often, and
a second test whether the error rises more than in the other classes. All tests of a job are
adjusted together (Holm), so that no claim of the section is false with a probability of 95 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from pruning import wording
from pruning.analysis.job_record import JobRecord, RoundRecord
from pruning.data.groups import CLUSTER
from pruning.measurement.intervals import binomial_interval
from pruning.measurement.measure import Measured
from pruning.measurement.paired import adjust_holm
from pruning.measurement.subgroups import (
    Subgroup,
    compare_subgroups,
    find_detectable_increase,
    group_identical,
)
from pruning.schemas.class_damage import Damage, Finding

ALPHA = 0.05
LEAST = 1e-6
"""The smallest p-value that is reported: the normal distribution holds no further."""
AT_ONCE = 128
"""The number of images whose pixels are looked at together."""
CLASS = "class"
"""The column of the classes, beside those of the dataset."""


@dataclass(frozen=True)
class Column:
    """A division of the test images: by class, or by a column of the dataset."""

    name: str
    values: tuple[str, ...]
    codes: Tensor
    """int64 (test images,): the index of each image's value, -1 where it has none."""


@dataclass(frozen=True)
class ComparedGroup:
    """A checkpoint and its control on the images of one class or group, with the outcome."""

    column: str
    value: str
    damage: Damage

    @property
    def increase(self) -> float:
        """Error of the checkpoint less that of the control."""
        return self.damage.increase.value


def find_control(record: JobRecord, row: RoundRecord) -> Measured:
    """The measurements of the dense control that a checkpoint is compared with."""
    control = record.find_control(row)
    assert control is not None  # the controls of checkpoints are measured
    return control.measured


def list_columns(record: JobRecord) -> list[Column]:
    """The classes, and the columns of the dataset but for that of clusters."""
    data = record.data
    columns = [Column(CLASS, data.classes, data.test.labels.cpu())]
    for name, groups in data.groups.items():
        if name != CLUSTER:
            columns.append(Column(name, groups.values, data.test_groups(name)))
    return columns


def find_clusters(record: JobRecord) -> tuple[Tensor | None, str]:
    """The cluster of each test image, int64 (test images,), or None where each stands alone, and a
    sentence that says which images count once.

    Clusters are those of the dataset's column, else images of the same pixels.
    """
    if CLUSTER in record.data.groups:
        codes = record.data.test_groups(CLUSTER)
        alone = len(codes) + torch.arange(len(codes)) + int(codes.max())
        column = torch.where(codes < 0, alone, codes)
        count = len(set(column.tolist()))
        return column, f"Images of a cluster count once: {len(codes)} images in {count} clusters."
    clusters = group_identical(record.data.test.iterate_pixels(AT_ONCE))
    limit = (
        "Near-duplicates count as independent images unless a column 'cluster' of the dataset "
        "names them; where there are many, too much is found."
    )
    if clusters is None:
        return None, limit
    different = wording.count_of(len(set(clusters.tolist())), "different picture")
    sentence = f"Images of the same pixels count once: {len(clusters)} images are of {different}."
    return clusters, f"{sentence} {limit}"


def compare_checkpoints(
    networks: Mapping[str, tuple[Tensor, Tensor]],
    columns: Sequence[Column],
    clusters: Tensor | None,
) -> list[ComparedGroup]:
    """Compare the errors of each checkpoint, by its id, with those of its control, in every class
    and group that has images.

    The errors are bool (test images,). The p-values of both tests of all rows are adjusted together
    (Holm), and the intervals of the increases hold together (Bonferroni).
    """
    places = []
    subgroups = []
    for checkpoint, (pruned, control) in networks.items():
        for column in columns:
            compared = compare_subgroups(
                pruned, control, column.codes, len(column.values), clusters
            )
            for value, subgroup in zip(column.values, compared, strict=True):
                if subgroup is not None:
                    places.append((checkpoint, column.name, value))
                    subgroups.append(subgroup)
    if not subgroups:
        return []
    adjusted = adjust_holm(
        [subgroup.p_value for subgroup in subgroups]
        + [subgroup.p_value_above_rest for subgroup in subgroups]
    )
    rates = _pool_rates(places, subgroups)
    count = len(subgroups)
    z = NormalDist().inv_cdf(1 - ALPHA / (2 * count))
    rows = []
    for index, (place, subgroup) in enumerate(zip(places, subgroups, strict=True)):
        checkpoint, column_name, value = place
        p_values = (adjusted[index], adjusted[count + index])
        # The level of the first of Holm's steps, which a loss in one class alone has to pass.
        level = ALPHA / (2 * count)
        detectable = find_detectable_increase(subgroup.tested.n, rates[checkpoint], level)
        damage = _describe_damage(checkpoint, subgroup, p_values, detectable, z)
        rows.append(ComparedGroup(column_name, value, damage))
    return rows


def _pool_rates(
    places: Sequence[tuple[str, str, str]], subgroups: Sequence[Subgroup]
) -> dict[str, float]:
    """The share of units of all classes that only the control gets wrong, by checkpoint."""
    counts: dict[str, tuple[int, int]] = {}
    for (checkpoint, column, _), subgroup in zip(places, subgroups, strict=True):
        if column == CLASS:
            only_control, units = counts.get(checkpoint, (0, 0))
            tested = subgroup.tested
            counts[checkpoint] = (only_control + tested.only_second, units + tested.n)
    return {
        checkpoint: (only_control + 0.5) / (units + 1)
        for checkpoint, (only_control, units) in counts.items()
    }


def _describe_damage(
    checkpoint: str,
    subgroup: Subgroup,
    p_values: tuple[float, float],
    detectable: float | None,
    z: float,
) -> Damage:
    errors = subgroup.errors
    return Damage(
        checkpoint=checkpoint,
        n=errors.n,
        only_pruned=errors.only_first,
        only_control=errors.only_second,
        error_pruned=binomial_interval(subgroup.wrong_first, errors.n),
        error_control=binomial_interval(subgroup.wrong_second, errors.n),
        increase=subgroup.estimate_increase(z),
        adjusted_p_value=_round_p_value(p_values[0]),
        adjusted_p_value_above_others=_round_p_value(p_values[1]),
        detectable_increase=detectable,
        finding=_judge(subgroup, p_values),
    )


def _round_p_value(p_value: float) -> float:
    """Three digits, and at least `LEAST`: a smaller one tells no more.

    >>> _round_p_value(0.123456), _round_p_value(1e-30)
    (0.123, 1e-06)
    """
    return max(LEAST, float(f"{p_value:.3g}"))


def _judge(subgroup: Subgroup, p_values: tuple[float, float]) -> Finding:
    """The outcome of both tests at 95 %."""
    p_value, p_value_above_others = p_values
    rises = subgroup.tested.increase > 0 and subgroup.errors.increase > 0
    if p_value > ALPHA or not (rises or subgroup.tested.increase < 0):
        return "not distinguished"
    if not rises:
        return "gains"
    return "loses more than the others" if p_value_above_others <= ALPHA else "loses"
