"""Rounds and records with chosen losses and errors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pruning.analysis.job_record import ControlRecord, JobRecord, RoundRecord
from pruning.measurement.measure import Measured
from pruning.rounds.pruning import StageLoss
from pruning.schemas.recipe import Method
from pruning.schemas.report import Section
from tests.support import cases
from tests.support.stored_rounds import RoundInMemory

IMAGES = 400

MAX = torch.finfo(torch.float32).max


def flag_first(errors: int, n: int = 100) -> Tensor:
    """Flags of `n` images, the first `errors` of them wrong."""
    return torch.arange(n) < errors


def make_measured(errors: int, val_errors: int | None = None) -> Measured:
    return Measured(
        flag_first(errors),
        torch.full((100,), errors / 10),
        flag_first(errors if val_errors is None else val_errors),
    )


def around(mean: float, seed: int = 0, spread: float = 0.1) -> Tensor:
    """Losses with exactly this mean."""
    noise = torch.randn(IMAGES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (mean + spread * (noise - noise.mean())).float()


def make_round(
    label: str,
    target: float = 0.8,
    *,
    name: str | None = None,
    params: dict[str, Any] | None = None,
    before: Tensor | float = 0.2,
    after: Tensor | float = 0.5,
    pruned: int = 40,
    retrained: int | None = 20,
    val: int | None = None,
    number: int = 1,
    stages: tuple[StageLoss, ...] = (),
    requested: bool = True,
) -> RoundRecord:
    stored = RoundInMemory(
        loss_before=before if isinstance(before, Tensor) else around(before),
        loss_after=after if isinstance(after, Tensor) else around(after, seed=1),
    )
    return RoundRecord(
        criterion=Method(name=name or label.partition("-")[0], params=params or {}),
        label=label,
        round=number,
        sparsity=target,
        density=1 - target,
        target=target if requested else None,
        retrain_epochs=1,
        stored=stored,
        pruned=make_measured(pruned, val),
        retrained=None if retrained is None else make_measured(retrained, val),
        stages=stages,
    )


def make_record(*rounds: RoundRecord, control: int = 10, seed: int = 0) -> JobRecord:
    return JobRecord(
        data=cases.make_data(),
        dense=cases.mlp,
        given_measured=make_measured(control),
        controls=[
            ControlRecord(
                name="control",
                rounds=tuple(round_record.round for round_record in rounds),
                retrainings=1,
                retrain_epochs=1,
                measured=make_measured(control),
                network=cases.mlp,
            )
        ],
        rounds=rounds,
        recipe=cases.recipe(seed=seed),
    )


def find_note(section: Section, text: str) -> str:
    """The only note that holds the text."""
    notes = [note for note in section.notes if text in note]
    assert len(notes) == 1, (text, section.notes)
    return notes[0]
