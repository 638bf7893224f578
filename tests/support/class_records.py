"""Records of jobs whose errors by class are planted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from pruning.analysis.job_record import ControlRecord, JobRecord, RoundRecord
from pruning.data.groups import GroupColumn
from pruning.data.tensors import Data, Split
from pruning.measurement.measure import Answers, Measured
from pruning.schemas.recipe import Method
from tests.support import cases
from tests.support.stored_rounds import RoundInMemory


def make_classes(sizes: Sequence[int]) -> Tensor:
    """Labels of test images, class after class, with this number of each."""
    return torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))


def measure_wrong(labels: Tensor, wrong: Tensor, confidences: Tensor | None = None) -> Measured:
    """The measurements of a network that errs on these images: it answers the next class."""
    answers = torch.where(wrong, (labels + 1) % (int(labels.max()) + 1), labels)
    if confidences is None:
        confidences = torch.full((len(labels),), 0.5)
    return Measured(
        wrong=wrong,
        losses=wrong.float(),
        val_wrong=torch.zeros(10, dtype=torch.bool),
        answers=Answers(answers.to(torch.int32), confidences),
    )


def make_checkpoint(
    measured: Measured, target: float = 0.8, label: str = "magnitude", number: int = 1
) -> RoundRecord:
    """A target whose network was measured, not retrained."""
    return RoundRecord(
        criterion=Method(name=label),
        label=label,
        round=number,
        sparsity=target,
        density=1 - target,
        target=target,
        retrain_epochs=0,
        stored=RoundInMemory(),
        pruned=measured,
        retrained=None,
    )


def make_class_record(
    labels: Tensor,
    control: Measured,
    rounds: Sequence[RoundRecord],
    groups: Mapping[str, Sequence[int]] | None = None,
) -> JobRecord:
    """A job on test images of different pixels, with columns of numbered groups."""
    count = len(labels)
    images = torch.arange(count, dtype=torch.int32).view(torch.uint8).reshape(count, 1, 2, 2)
    small = cases.make_data(shape=(1, 2, 2))
    columns = {
        name: GroupColumn(tuple(map(str, range(max(codes) + 1))), np.array(codes, np.int32))
        for name, codes in (groups or {}).items()
    }
    data = Data(
        fit=small.fit,
        val=small.val,
        test=Split(images, labels),
        classes=tuple(f"class{index}" for index in range(int(labels.max()) + 1)),
        mean=small.mean,
        std=small.std,
        groups=columns,
    )
    return JobRecord(
        data=data,
        dense=cases.mlp,
        given_measured=control,
        controls=[
            ControlRecord(
                name="control",
                rounds=tuple(row.round for row in rounds),
                retrainings=1,
                retrain_epochs=1,
                measured=control,
                network=cases.mlp,
            )
        ],
        rounds=rounds,
        recipe=cases.recipe(0.8),
    )
