"""The evaluation `noise_similarity` by hand, and the second dense network it may train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import pruning.pipeline.second_network
from pruning.analysis.job_record import NO_SEPARATE
from pruning.analysis.shifts import (
    draw_sample,
)
from pruning.evaluations.noise_similarity import NoiseSimilarity, compute_deviation
from pruning.measurement.crossed import crossed_mean
from pruning.pipeline.results import Results
from pruning.training.loop import train_
from tests.support import cases
from tests.support.finished_records import evaluate_job, finish_job, make_record
from tests.support.pipelines import MODES
from tests.support.shifted_jobs import draw_slow_noise


def test_similarity_by_hand(cascade: Results) -> None:
    record, levels = make_record(cascade), (0.0, 0.7)
    section = NoiseSimilarity(
        levels=(0.7, 0.0, 0.7), draws=4, images=12, against="control"
    ).evaluate(record)
    split = draw_sample(record, 12)
    inputs = record.data.normalize(split.images)
    rows = {(row["network"], row["noise"]): row for row in section.details["similarity"]}
    assert len(rows) == 2 * 7
    for level in levels:
        noise = [
            level * draw_slow_noise(split, record.seed, "noise_similarity", draw, level)
            for draw in range(4)
        ]
        for round_record in record.rounds:
            same, far, agrees = [], [], []
            with torch.no_grad():
                for extra in noise:
                    a, b = (
                        net(inputs + extra).double().softmax(1)
                        for net in (round_record.network(), record.control.network())
                    )
                    agrees.append((a.argmax(1) == b.argmax(1)).double())
                    same.append(float(agrees[-1].mean()))
                    far.append(float((a - b).square().sum(1).sqrt().mean()))
            row = rows[round_record.id, level]
            for key, values in (("agreement", same), ("softmax_distance", far)):
                assert row[key] == pytest.approx(np.mean(values), abs=1e-6)
                assert row[f"{key}_standard_deviation"] == pytest.approx(
                    np.std(values, ddof=1), abs=1e-6
                )
            place = levels.index(level)
            similarity = section.curves[f"matching/{round_record.id}"].y[place]
            assert similarity == crossed_mean(
                torch.stack(agrees), torch.ones(12).double(), proportion=True
            )
    assert section.curves["matching/random-0.9"].x == levels
    assert "At a noise level of 0.7" in section.notes[0]


def test_draws_without_noise_do_not_deviate() -> None:
    """Rounding in the mean of three equal numbers is no deviation."""
    equal = torch.full((3,), 0.05755678901234567, dtype=torch.float64)
    assert compute_deviation(equal) == 0.0
    assert compute_deviation(torch.tensor([1.0, 2.0, 3.0]).double()) == 1.0


def test_a_network_is_like_itself(tmp_path: Path) -> None:
    section = NoiseSimilarity(levels=(0.0, 3.0), draws=2).evaluate(
        make_record(finish_job(cases.recipe(0.5, **MODES["none"]), tmp_path))
    )
    assert {y.value for y in section.curves["matching/control"].y} == {1.0}
    assert {y.value for y in section.curves["softmax_distance/control"].y} == {0.0}
    assert section.curves["softmax_distance/magnitude-0.5"].y[0].value > 0


def seeded_by_torch() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3))


def test_a_separate_network_is_trained_once_from_another_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = cases.recipe(
        0.5,
        **MODES["trained fine_tune"],
        evaluations=(
            {"name": "noise_similarity", "params": {"separate": True, "draws": 2}},
            {"name": "informative_features", "params": {"separate": True, "images": 1}},
        ),
    )
    results = finish_job(recipe, tmp_path, seeded_by_torch)
    trained: list[nn.Module] = []

    def train_and_note(model: nn.Module, *arguments: Any, **fields: Any) -> None:
        trained.append(model)
        train_(model, *arguments, **fields)

    monkeypatch.setattr(pruning.pipeline.second_network, "train_", train_and_note)
    state = torch.get_rng_state()
    sections = evaluate_job(results)
    assert torch.equal(state, torch.get_rng_state())
    assert len(trained) == 1
    assert "separate" in {
        row["pixels_of"]
        for row in sections["informative_features"].details["confidence_on_informative_pixels"]
    }
    assert "matching/separate" in sections["noise_similarity"].curves
    assert sections["noise_similarity"].curves["matching/separate"].y[0].value < 1
    again = finish_job(recipe, tmp_path, seeded_by_torch)
    assert evaluate_job(again) == sections
    second = pruning.pipeline.second_network.train_second_network(again.pipeline)
    assert len(trained) == 1, "a rerun is a resume"
    assert second is not None
    other = finish_job(
        recipe.model_copy(update={"seed": recipe.seed + 1}), tmp_path / "other", seeded_by_torch
    )
    assert all(
        torch.allclose(value, other.pipeline.dense().state_dict()[key], atol=1e-6)
        for key, value in second.state_dict().items()
    ), "as the next seed's own dense network"
    assert not torch.equal(
        second.get_parameter("1.weight"), results.pipeline.dense().get_parameter("1.weight")
    )


def test_uploads_have_no_separate_network_and_say_so(tmp_path: Path) -> None:
    sections = evaluate_job(
        finish_job(
            cases.recipe(
                0.5,
                **MODES["none"],
                evaluations=(
                    {"name": "noise_similarity", "params": {"separate": True, "draws": 2}},
                    {"name": "informative_features", "params": {"separate": True, "images": 1}},
                ),
            ),
            tmp_path,
        )
    )
    assert all(NO_SEPARATE in section.notes for section in sections.values())
    assert "matching/separate" not in sections["noise_similarity"].curves


def test_noise_may_count_in_the_unit_of_the_paper(cascade: Results) -> None:
    record = make_record(cascade)
    params: dict[str, Any] = {"images": 12, "draws": 2, "separate": False}
    section = NoiseSimilarity(levels=(0.5,), noise_unit="paper", **params).evaluate(record)
    (std,) = record.data.std  # grey images: the mean of the paper's three
    scale = (0.2023 + 0.1994 + 0.2010) / 3 / std
    assert section.curves["matching/control"].x_label == "noise level, the paper's unit"
    own = NoiseSimilarity(levels=(0.5,), **params).evaluate(record)
    assert (
        own.curves["softmax_distance/random-0.9"] != section.curves["softmax_distance/random-0.9"]
    )
    (note,) = (note for note in own.notes if "Noise of level 1" in note)
    assert f"level {1 / scale:.3g} of the paper" in note
