"""The settings of a job's criteria beside each other, for the evaluation `loss_model`: their loss
changes against their errors, and the penalty lambda chosen on training images of its own.

Source: Laurent et al., Revisiting loss modelling for unstructured pruning, 2020: the locality
penalty is searched by the loss change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pruning import wording
from pruning.analysis.job_record import RoundRecord
from pruning.analysis.loss_changes import LossChange, compare_draws
from pruning.criteria import criteria
from pruning.evaluations._loss_rounds import RoundLoss
from pruning.evidence.local_models import Locality
from pruning.measurement.measure import estimate_error
from pruning.measurement.objective import LARGEST_LOSS
from pruning.schemas.report import Curve
from pruning.seeding import generator

FEWEST_POINTS = 3
"""The fewest settings of a target whose loss changes and errors are drawn."""
LOSS_CHANGE = "size of the change of the training loss since the first round began"


def draw_scatter(targets: Sequence[RoundLoss]) -> dict[str, Curve]:
    """Draw the error of every setting against the size of its loss change.

    The curves are `scatter/<target>/<criterion>`, all settings of a criterion in one; settings off
    the scale are left out.
    """
    curves: dict[str, Curve] = {}
    for sparsity in sorted({target.round.target or 0.0 for target in targets}):
        rows = [
            target
            for target in targets
            if target.round.target == sparsity and target.total.magnitude < math.inf
        ]
        if len(rows) < FEWEST_POINTS:
            continue
        retrained = all(row.round.retrained is not None for row in rows)
        when = "after retraining" if retrained else "right after pruning"
        for name in dict.fromkeys(row.round.criterion.name for row in rows):
            of_criterion = [row for row in rows if row.round.criterion.name == name]
            of_criterion.sort(key=lambda row: row.total.magnitude)
            curves[f"scatter/{sparsity!r}/{name}"] = Curve(
                x=tuple(row.total.magnitude for row in of_criterion),
                y=tuple(estimate_error(row.round.measured.wrong) for row in of_criterion),
                x_label=LOSS_CHANGE,
                y_label=f"error {when}, {wording.short_percent(sparsity)} sparsity",
                x_unit="nats_difference",
                y_unit="fraction",
                drawn="points",
            )
    return curves


@dataclass(frozen=True, kw_only=True)
class ChosenPenalty:
    """The lambda of a criterion with the smallest |loss change| on half of the training images, and
    its loss change on the other half.
    """

    round: RoundRecord
    """The round of the chosen setting."""
    penalty: float
    penalties: tuple[float, ...]
    """The lambdas that the job has tried, all else being equal."""
    on_choice: float
    """|Delta L| on the images that chose, which flatters."""
    change: LossChange
    """Delta L on the others."""
    images: tuple[int, int]
    """The numbers of images that chose, and of the others."""

    def row(self) -> dict[str, Any]:
        """The row of the table of chosen penalties."""
        return {
            "criterion": self.round.label,
            "target_sparsity": self.round.target,
            "lambda": self.penalty,
            "lambdas_tried": list(self.penalties),
            "loss_change_where_chosen": self.on_choice,
            "loss_change": self.change.document(),
            "images_that_chose": self.images[0],
            "images": self.images[1],
        }

    def sentence(self) -> str:
        """The choice in words."""
        change = "overflows"
        if self.change.estimate is not None:
            change = f"changes by {wording.nats(self.change.estimate, plus=True)}"
        ends = ""
        if self.penalty in (self.penalties[0], self.penalties[-1]) and self.penalty > 0:
            ends = " (at the end of those tried)"
        return (
            f"{self.round.criterion.name} at {wording.short_percent(self.round.target or 0.0)}: of "
            f"{wording.count_of(len(self.penalties), 'lambda')}, {self.penalty:g}{ends} has the "
            f"smallest loss change on {wording.count_of(self.images[0], 'training image')}; on "
            f"{wording.count(self.images[1])} others the loss of {self.round.label} {change}."
        )


def choose_penalties(
    targets: Sequence[RoundLoss], rounds: Sequence[RoundRecord], seed: int
) -> list[ChosenPenalty]:
    """Choose lambda for every criterion and target with several lambdas, all else being equal.

    Half of the training images whose losses are known choose, the others tell the loss change of
    the choice: a minimum over settings is too small on the images that it is taken over.
    """
    groups: dict[tuple[Any, ...], list[tuple[float, RoundRecord]]] = {}
    for target in targets:
        method = target.round.criterion
        criterion = criteria.create(method.name, method.params)
        if isinstance(criterion, Locality):
            key = (method.name, replace(criterion, lambda_=0.0), target.round.target)
            groups.setdefault(key, []).append((criterion.lambda_, target.round))
    return [
        _choose_penalty(settings, rounds, seed)
        for settings in groups.values()
        if len({penalty for penalty, _ in settings}) > 1
    ]


def _choose_penalty(
    settings: Sequence[tuple[float, RoundRecord]], rounds: Sequence[RoundRecord], seed: int
) -> ChosenPenalty:
    ordered = sorted(settings, key=lambda setting: setting[0])
    losses = [(penalty, row, *_read_losses(rounds, row)) for penalty, row in ordered]
    count = len(losses[0][2])
    order = torch.randperm(count, generator=generator(seed, "lambda search"))
    choosing, others = order[: count // 2], order[count // 2 :]
    sizes = [_measure_size(before, after, choosing) for *_, before, after in losses]
    best = min(range(len(sizes)), key=lambda index: sizes[index])
    penalty, row, before, after = losses[best]
    return ChosenPenalty(
        round=row,
        penalty=penalty,
        penalties=tuple(dict.fromkeys(penalty for penalty, _ in ordered)),
        on_choice=sizes[best],
        change=_change(before, after, others),
        images=(len(choosing), len(others)),
    )


def _read_losses(rounds: Sequence[RoundRecord], row: RoundRecord) -> tuple[Tensor, Tensor]:
    """The losses before the first round of a criterion, and right after the pruning of `row`."""
    first = min(
        (other for other in rounds if other.label == row.label), key=lambda other: other.round
    )
    return first.losses()[0], row.losses()[1]


def _measure_size(before: Tensor, after: Tensor, images: Tensor) -> float:
    """|Delta L| on these images; infinite where the network overflows on one."""
    if bool((torch.maximum(before, after)[images] >= LARGEST_LOSS).any()):
        return math.inf
    return abs(float((after - before)[images].double().mean()))


def _change(before: Tensor, after: Tensor, images: Tensor) -> LossChange:
    return compare_draws(after[images][None], before[images][None])
