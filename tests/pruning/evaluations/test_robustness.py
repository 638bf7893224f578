"""Error under shift, prune potential and similarity under noise: against slow loops, by hand, and
in odd jobs.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pruning.analysis.shift_parameters
import pruning.analysis.shifts
import pruning.evaluations.informative_features
import pruning.evaluations.robustness
import pruning.measurement.bootstrap
import pruning.pipeline.second_network
from api.http.pointers import list_schema_faults
from pruning.analysis.applicability import applies_to
from pruning.analysis.job_record import NO_SEPARATE, JobRecord
from pruning.analysis.prune_potential import compute_prune_ratio, find_prune_potential
from pruning.analysis.shift_parameters import ShiftParameters
from pruning.analysis.shifts import (
    Shift,
    compute_confidence,
    draw_sample,
    errors_under_shifts,
    name_networks,
    shift_images,
)
from pruning.data.corrupted import corrupt
from pruning.data.tensors import Data
from pruning.errors import ParameterError, UnknownNameError
from pruning.evaluations import evaluations
from pruning.evaluations.noise_similarity import NoiseSimilarity
from pruning.evaluations.prune_potential import PrunePotential
from pruning.evaluations.robustness import Robustness
from pruning.measurement.bootstrap import Line, percentile_interval, resample_errors
from pruning.measurement.intervals import binomial_interval
from pruning.pipeline.results import Results
from pruning.reporting import to_html, to_markdown
from pruning.schemas.report import Curve, Estimate, Picture
from pruning.seeding import generator
from tests.support import cases
from tests.support.pipelines import MODES
from tests.support.trials import evaluated, finished, trial_of

FEW: dict[str, Any] = {
    "corruptions": ["fog", "gaussian_noise", "contrast"],
    "severities": [2],
    "noise": [0.5, 2.0],
}
ASKED = (
    {"name": "robustness", "params": FEW},
    {"name": "prune_potential", "params": FEW},
    {"name": "noise_similarity", "params": {"levels": [0.0, 0.7], "draws": 3, "images": 10}},
    {"name": "informative_features", "params": {"images": 2}},
)
TWO: dict[str, Any] = {"criterion": ({"name": "magnitude"}, {"name": "random"})}


@pytest.fixture
def drawn() -> None:
    """For tests that look at pictures."""


@pytest.fixture(autouse=True)
def _undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than all else here."""
    if "drawn" not in request.fixturenames:
        blank = Picture(caption="", png="")
        monkeypatch.setattr(
            pruning.evaluations.robustness, "draw_grid", lambda *args, **fields: blank
        )
        monkeypatch.setattr(
            pruning.evaluations.informative_features, "draw_grid", lambda *args, **fields: blank
        )
        monkeypatch.setattr(
            pruning.evaluations.informative_features, "draw_heatmap", lambda *args: blank
        )


@pytest.fixture(scope="module")
def cascade(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Two criteria, three targets each, retrained."""
    return finished(
        cases.recipe(0.3, 0.6, 0.9, **TWO, **MODES["fine_tune"]), tmp_path_factory.mktemp("cascade")
    )


def slow_wrong(trial: JobRecord, model: nn.Module, shift: Shift, images: int) -> list[bool]:
    """Image by image."""
    split = draw_sample(trial, images)
    inputs = trial.data.normalize(split.images)
    if shift.corruption is not None:
        inputs = trial.data.normalize(
            torch.cat(
                [
                    corrupt(
                        split.images[i : i + 1],
                        shift.corruption,
                        shift.severity,
                        indices=torch.tensor([i]),
                        seed=trial.seed,
                    )
                    for i in range(len(split))
                ]
            )
        )
    elif shift.noise:
        uniform = torch.rand(
            inputs.shape, generator=generator(trial.seed, "noise", repr(shift.noise))
        )
        inputs = inputs + shift.noise * (2 * uniform - 1)
    with torch.no_grad():
        return [
            int(model(one[None]).argmax()) != int(label)
            for one, label in zip(inputs, split.labels, strict=True)
        ]


# the statistics


@pytest.mark.parametrize("seed", range(5))
def test_a_potential_is_that_of_a_slow_loop(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    ratios, errors = (
        torch.rand(7, generator=rng).double(),
        torch.randint(0, 20, (7, 9), generator=rng).double() / 20,
    )
    reference = torch.randint(0, 20, (9,), generator=rng).double() / 20
    for margin in (-1.0, -0.1, -0.05, 0.0, 0.05, 0.3, 1.0):
        slow = [
            max(
                [
                    0.0,
                    *(
                        float(r)
                        for r, e in zip(ratios, errors[:, d].tolist(), strict=True)
                        if round(20 * e) <= round(20 * (float(reference[d]) + margin))
                    ),
                ]
            )
            for d in range(9)
        ]
        assert find_prune_potential(ratios, errors, reference, margin).tolist() == slow


def test_a_potential_counts_later_successes_and_is_0_where_there_is_none() -> None:
    ratios, errors = torch.tensor([0.2, 0.5, 0.8]), torch.tensor([0.5, 0.6, 0.1])
    assert float(find_prune_potential(ratios, errors, torch.tensor(0.1), 0.0)) == pytest.approx(0.8)
    assert float(find_prune_potential(ratios, errors, torch.tensor(0.1), -0.001)) == 0
    assert float(find_prune_potential(ratios, errors, torch.tensor(0.6), -0.1)) == pytest.approx(
        0.8
    )


def test_resamples_are_paired_and_of_the_given_images() -> None:
    flags = torch.rand(3, 17, generator=torch.Generator().manual_seed(0)) < 0.4
    draws = resample_errors(
        torch.cat([flags, flags, ~flags]), torch.Generator().manual_seed(1), 250
    )
    assert draws.shape == (9, 250)
    assert torch.equal(draws[:3], draws[3:6])
    assert torch.allclose(draws[:3] + draws[6:], torch.ones(()).double())
    assert torch.allclose((17 * draws).round(), 17 * draws)
    assert abs(float(draws[0].mean() - flags[0].double().mean())) < 0.03
    assert resample_errors(torch.tensor([[True], [False]]), torch.Generator(), 5).tolist() == [
        [1.0] * 5,
        [0.0] * 5,
    ]


ERRORS = torch.tensor([0.20, 0.19, 0.21, 0.26, 0.20, 0.45], dtype=torch.float64)
"""Of a control and five checkpoints: not monotone."""


def test_bootstrap_intervals_cover() -> None:
    """Networks that err on the same hard images. Potential 0.8 at a margin of 0.03; differences of
    errors are known.
    """
    rng, ratios = (
        torch.Generator().manual_seed(0),
        torch.tensor([0.2, 0.4, 0.6, 0.8, 0.9], dtype=torch.float64),
    )
    held, differences, widths, n, times = 0, 0, [], 400, 200
    for _ in range(times):
        shared, own = (torch.rand(shape, n, generator=rng, dtype=torch.float64) for shape in (1, 6))
        follows = torch.rand(6, n, generator=rng) < 0.7
        flags = torch.where(follows, shared, own) < ERRORS[:, None]
        means, draws = flags.double().mean(1), resample_errors(flags, rng, 200)
        found = percentile_interval(
            float(find_prune_potential(ratios, means[1:], means[0], 0.03)),
            find_prune_potential(ratios, draws[1:], draws[0], 0.03),
            n,
        )
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.8 <= found.high
        gap = percentile_interval(float(means[3] - means[0]), draws[3] - draws[0], n)
        assert gap.low is not None
        assert gap.high is not None
        differences += gap.low <= 0.06 <= gap.high
        widths.append(
            (
                gap.high - gap.low,
                *(float(draws[i].quantile(0.975) - draws[i].quantile(0.025)) for i in (0, 3)),
            )
        )
    assert held >= 0.93 * times
    assert 0.90 * times <= differences <= 0.985 * times
    paired, first, second = (sum(column) / times for column in zip(*widths, strict=True))
    assert paired < 0.85 * math.hypot(first, second), "pairing says more than two intervals"


def test_the_line_is_that_of_least_squares_without_intercept() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 2, 9):
        x, y = rng.uniform(0, 1, n), rng.normal(size=n)
        line = Line.fit(x.tolist(), y.tolist(), torch.Generator())
        assert line is not None
        assert line.slope.value == pytest.approx(
            float(np.linalg.lstsq(x[:, None], y, rcond=None)[0][0])
        )
        assert line.at(0.4).value == pytest.approx(0.4 * line.slope.value)
        assert (line.slope.low is None) == (line.at(0.4).low is None) == (n == 1)
        assert line.at(0.0) == Estimate(
            value=0.0, low=None if n == 1 else 0.0, high=None if n == 1 else 0.0, n=n
        )
    assert Line.fit([], [], torch.Generator()) is None
    assert Line.fit([0.0, 0.0], [1.0, 2.0], torch.Generator()) is None
    some = Line.fit(
        [0.0, 1.0], [1.0, 2.0], torch.Generator()
    )  # half of a quarter of the draws see no x
    assert some is not None
    assert some.slope == Estimate(value=2.0, low=2.0, high=2.0, n=2)


def test_the_band_of_the_line_covers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning.measurement.bootstrap, "PAIRS", 1000)
    rng, torch_rng, held, times = np.random.default_rng(1), torch.Generator().manual_seed(1), 0, 300
    for _ in range(times):
        x = rng.uniform(0.1, 1, 40)
        line = Line.fit(x.tolist(), (0.5 * x + rng.normal(0, 0.2 * x)).tolist(), torch_rng)
        assert line is not None
        low, high = line.at(0.7).low, line.at(0.7).high
        assert low is not None
        assert high is not None
        held += low <= 0.35 <= high
    assert 0.90 * times <= held <= 0.985 * times


# whole sections against slow loops


def test_errors_and_excess_by_hand(cascade: Results) -> None:
    trial = trial_of(cascade)
    section = Robustness(**{**FEW, "images": 25}).evaluate(trial)
    shifts = [Shift(name, 2) for name in FEW["corruptions"]] + [
        Shift(noise=level) for level in (0.5, 2.0)
    ]
    error = {
        (one.name, shift.name): slow_wrong(trial, one.load(), shift, 25)
        for one in name_networks(trial)
        for shift in [Shift(), *shifts]
    }
    rows = {
        (row["network"], row["shift"]): row["error"] for row in section.details["errors_by_shift"]
    }
    assert {key: row["value"] for key, row in rows.items()} == {
        key: sum(flags) / 25 for key, flags in error.items()
    }

    def excess(network: str) -> float:
        return (
            sum(rows[network, s.name]["value"] for s in shifts) / len(shifts)
            - rows[network, "nominal"]["value"]
        )

    parameters = 123
    for label in ("magnitude", "random"):
        mine = [one for one in trial.rounds if one.label == label]
        ratios = [
            sum(int((~mask).sum()) for mask in one.masks().values()) / parameters for one in mine
        ]
        assert section.curves[f"excess/{label}"].x == pytest.approx(ratios)
        assert ratios == sorted(ratios)
        for kind, wanted in (
            ("excess", [excess(one.id) for one in mine]),
            ("delta_excess", [excess(one.id) - excess("control") for one in mine]),
            ("nominal", [rows[one.id, "nominal"]["value"] for one in mine]),
        ):
            assert [y.value for y in section.curves[f"{kind}/{label}"].y] == pytest.approx(wanted)
        slope = np.linalg.lstsq(
            np.array(ratios)[:, None],
            np.array([y.value for y in section.curves[f"delta_excess/{label}"].y]),
            rcond=None,
        )[0][0]
        assert section.scalars[f"delta_excess_error_slope/{label}"].value == pytest.approx(
            float(slope)
        )
        assert section.curves[f"line/{label}"].y[-1].value == pytest.approx(float(slope))
        assert section.curves[f"nominal/{label}"].y[0] == binomial_interval(
            sum(error[mine[0].id, "nominal"]), 25
        )
    for curve in section.curves.values():
        assert all(
            y.low is not None and y.high is not None and y.low <= y.value <= y.high for y in curve.y
        )


def test_potentials_against_a_loop_over_checkpoints_margins_and_distributions(
    cascade: Results,
) -> None:
    trial, margins = trial_of(cascade), (-0.1, -0.04, 0.0, 0.04, 0.2)
    section = PrunePotential(**{**FEW, "images": 25}, margin=0.04, margins=margins).evaluate(trial)
    groups = {
        "nominal": [Shift()],
        "corruption": [Shift(name, 2) for name in FEW["corruptions"]],
        "noise": [Shift(noise=0.5), Shift(noise=2.0)],
    }
    control = {
        s: sum(slow_wrong(trial, trial.control(), s, 25))
        for group in groups.values()
        for s in group
    }
    for label in ("magnitude", "random"):
        mine = [one for one in trial.rounds if one.label == label]
        wrongs = {
            (one.id, s): sum(slow_wrong(trial, one.network(), s, 25))
            for one in mine
            for s in control
        }

        def slow(shift: Shift, margin: float, mine: Any = mine, wrongs: Any = wrongs) -> float:
            best = 0.0
            for one in mine:
                if wrongs[one.id, shift] <= control[shift] + round(25 * margin, 6):
                    best = max(best, compute_prune_ratio(one, 123))
            return best

        for group, members in groups.items():
            for how, reduce in (("mean", lambda v: sum(v) / len(v)), ("minimum", min)):
                name = group if group == "nominal" else f"{how} over {group}"
                wanted = [reduce([slow(s, margin) for s in members]) for margin in margins]
                assert [
                    y.value for y in section.curves[f"margin/{name}/{label}"].y
                ] == pytest.approx(wanted)
                assert section.scalars[
                    f"prune_potential_{name.replace(' ', '_')}/{label}"
                ].value == pytest.approx(wanted[3])
                assert wanted == sorted(wanted)
        bars = section.curves[f"distribution/{label}"]
        assert bars.x_names == tuple(s.name for s in control)
        assert [y.value for y in bars.y] == pytest.approx([slow(s, 0.04) for s in control])
        assert section.curves[f"noise/{label}"].x == (0.0, 0.5, 2.0)
    assert len(section.details["potential_by_distribution"]) == 2 * len(control)


# shifts


def test_images_of_a_shift_are_made_once_for_all_networks_and_evaluations(
    cascade: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Shift] = []
    seen: list[int] = []

    def counted(data: Data, split: Any, *, shift: Shift, **others: Any) -> Tensor:
        made.append(shift)
        seen.append(len(split))
        return shift_images(data, split, shift=shift, **others)

    monkeypatch.setattr(pruning.analysis.shifts, "shift_images", counted)
    monkeypatch.setattr(pruning.analysis.shift_parameters, "FEWEST", 1)
    monkeypatch.setattr(pruning.analysis.shift_parameters, "WORK", 2000)  # where the work decides
    trial = trial_of(cascade)
    for evaluation in (
        Robustness(corruptions=("fog", "contrast")),
        PrunePotential(corruptions=("contrast", "snow")),
        Robustness(corruptions=("snow",)),
    ):
        evaluation.evaluate(trial)
    assert len(made) == len(set(made)) == 1 + 3 + 3
    assert set(seen) == {2000 // 114}, (
        "how many images does not depend on how many shifts are asked for"
    )
    assert len({key[0] for key in trial.memo}) == 8


def test_noise_is_the_same_for_all_networks_and_batch_sizes(
    cascade: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    shifts, data = [Shift(), Shift(noise=1.5), Shift("shot_noise", 5)], cascade.pipeline.data
    whole = errors_under_shifts(trial_of(cascade), shifts, 30)
    monkeypatch.setattr(pruning.analysis.shifts, "EVAL_BATCH", 7)
    parts = errors_under_shifts(trial_of(cascade), shifts, 30)
    assert all(torch.equal(whole[a][b], parts[a][b]) for a in whole for b in whole[a])
    inputs = data.normalize(data.test.images)
    first, second = (
        shift_images(data, data.test, shift=Shift(noise=0.3), seed=4) for _ in range(2)
    )
    assert torch.equal(first, second)
    assert 0.29 < float((first - inputs).abs().max()) <= 0.3 + 1e-6
    assert not torch.equal(first, shift_images(data, data.test, shift=Shift(noise=0.3), seed=5))


def test_a_shift_named_twice_counts_once_and_no_two_have_one_name(cascade: Results) -> None:
    trial, twice = trial_of(cascade), ("fog", "snow", "fog")
    shifts = ShiftParameters(twice, (1, 1, 2), (0.1, 0.1)).shifts(trial)
    assert [s.name for s in shifts] == ["fog 1", "fog 2", "snow 1", "snow 2", "noise 0.1"]
    near = [Shift(noise=level).name for level in (0.1234567, 0.12345671, 1.0, 10.0, 1e-7)]
    assert len(set(near)) == 5
    assert Robustness(corruptions=twice).evaluate(trial) == Robustness(
        corruptions=("fog", "snow")
    ).evaluate(trial)
    assert len(ShiftParameters().shifts(trial)) == 19


@pytest.mark.parametrize("name", ["robustness", "prune_potential"])
def test_wrong_names_are_refused_with_the_job(name: str) -> None:
    with pytest.raises(UnknownNameError, match="unknown corruption 'fogg'; did you mean 'fog'"):
        evaluations.create(name, {"corruptions": ["fogg"]})
    schema = evaluations.entry(name)["params"]

    def faults(params: dict[str, Any]) -> list[str]:
        return [
            fault.pointer
            for fault in list_schema_faults(schema, params, "/params", "invalid_parameter")
        ]

    assert faults(FEW) == faults({}) == faults({"corruptions": None}) == []
    assert faults({"corruptions": ["fog", "fogg"]}) == ["/params/corruptions/1"]
    assert faults({"severities": [3, 6]}) == ["/params/severities/1"]
    assert faults({"images": 0}) == ["/params/images"]
    assert faults({"noise": [-1]}) == ["/params/noise/0"]
    (fault,) = list_schema_faults(schema, {"corruptions": ["fogg"]}, "", "invalid_parameter")
    assert "'fogg' is not one of" in fault.message
    for bad in (
        {"severities": [6]},
        {"severities": [0]},
        {"severities": []},
        {"noise": [0]},
        {"images": 0},
    ):
        with pytest.raises(ParameterError):
            evaluations.create(name, bad)


def test_no_shift_at_all_is_refused_where_there_is_nothing_to_say(cascade: Results) -> None:
    with pytest.raises(ParameterError, match="no shift to look at"):
        Robustness(corruptions=()).evaluate(trial_of(cascade))
    section = PrunePotential(corruptions=(), noise=()).evaluate(trial_of(cascade))
    assert {key.rpartition("/")[0] for key in section.curves} == {"margin/nominal", "distribution"}


def test_more_images_than_there_are(cascade: Results) -> None:
    trial = trial_of(cascade)
    assert (
        ShiftParameters(images=10**9).describe(trial, [Shift()])
        == "1 shift, at 30 test images: nominal."
    )
    section = NoiseSimilarity(images=10**9, draws=2, levels=(0.1,)).evaluate(trial)
    assert {y.n for curve in section.curves.values() for y in curve.y} == {60}
    assert {
        y.n for y in Robustness(("fog",), images=10**9).evaluate(trial).curves["excess/random"].y
    } == {30}


# similarity under noise


def test_similarity_by_hand(cascade: Results) -> None:
    trial, levels = trial_of(cascade), (0.0, 0.7)
    section = NoiseSimilarity(
        levels=(0.7, 0.0, 0.7), draws=4, images=12, against="control"
    ).evaluate(trial)
    inputs = trial.data.normalize(draw_sample(trial, 12).images)
    rows = {(row["network"], row["noise"]): row for row in section.details["similarity"]}
    assert len(rows) == 2 * 7
    for level in levels:
        rng = generator(trial.seed, "noise_similarity", repr(level))
        noise = [level * (2 * torch.rand(inputs.shape, generator=rng) - 1) for _ in range(4)]
        for one in trial.rounds:
            same, far = [], []
            with torch.no_grad():
                for extra in noise:
                    a, b = (
                        net(inputs + extra).double().softmax(1)
                        for net in (one.network(), trial.control())
                    )
                    same.append(float((a.argmax(1) == b.argmax(1)).double().mean()))
                    far.append(float((a - b).square().sum(1).sqrt().mean()))
            row = rows[one.id, level]
            for key, values in (("agreement", same), ("softmax_distance", far)):
                assert row[key] == pytest.approx(np.mean(values), abs=1e-6)
                assert row[f"{key}_standard_deviation"] == pytest.approx(
                    np.std(values, ddof=1), abs=1e-6
                )
            place = levels.index(level)
            found = section.curves[f"matching/{one.id}"].y[place]
            half = 1.959964 * np.std(same, ddof=1) / 2
            assert (found.low, found.high) == pytest.approx(
                (found.value - half, found.value + half), abs=1e-6
            )
    assert section.curves["matching/random-0.9"].x == levels
    assert "At a noise level of 0.7" in section.notes[0]


def test_a_network_is_like_itself(tmp_path: Path) -> None:
    section = NoiseSimilarity(levels=(0.0, 3.0), draws=2).evaluate(
        trial_of(finished(cases.recipe(0.5, **MODES["none"]), tmp_path))
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
    results, times = finished(recipe, tmp_path, seeded_by_torch), []
    train_ = pruning.pipeline.second_network.train_
    monkeypatch.setattr(
        pruning.pipeline.second_network,
        "train_",
        lambda *args, **fields: (times.append(1), train_(*args, **fields)),
    )
    state = torch.get_rng_state()
    sections = evaluated(results)
    assert torch.equal(state, torch.get_rng_state())
    assert times == [1]
    assert "separate" in {
        row["pixels_of"]
        for row in sections["informative_features"].details["confidence_on_informative_pixels"]
    }
    assert "matching/separate" in sections["noise_similarity"].curves
    assert sections["noise_similarity"].curves["matching/separate"].y[0].value < 1
    again = finished(recipe, tmp_path, seeded_by_torch)
    assert evaluated(again) == sections
    second = pruning.pipeline.second_network.train_second_network(again.pipeline)
    assert times == [1], "a rerun is a resume"
    assert second is not None
    other = finished(
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
    sections = evaluated(
        finished(
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


# odd jobs


@pytest.mark.parametrize("mode", ["none", "before_training", "trained lr_rewind", "gradual"])
def test_every_kind_of_job(tmp_path: Path, mode: str) -> None:
    sections = evaluated(finished(cases.recipe(0.8, **MODES[mode], evaluations=ASKED), tmp_path))
    robust = sections["robustness"]
    assert list(sections) == [one["name"] for one in ASKED]
    if mode in ("none", "before_training"):
        assert robust.scalars["excess_error/control"] == robust.scalars["excess_error/given"]
    assert robust.scalars["delta_excess_error_slope/magnitude"].low is None
    assert "one checkpoint has no band" in robust.notes[0]


@pytest.mark.parametrize(
    ("shape", "classes", "test"), [((3, 8, 8), 2, 1), ((1, 8, 8), 2, 9), ((3, 5, 7), 3, 4)]
)
def test_channels_few_images_and_two_classes(
    tmp_path: Path, shape: tuple[int, int, int], classes: int, test: int
) -> None:
    def net() -> nn.Module:
        return cases.conv_net(classes=classes, channels=shape[0], features=4 * shape[1] * shape[2])

    results = finished(
        cases.recipe(
            0.5, criterion={"name": "filter_norm"}, evaluations=ASKED, **MODES["trained fine_tune"]
        ),
        tmp_path,
        net,
        cases.make_data(shape=shape, classes=classes, test=test),
    )
    assert results.pipeline.done[0].compacted
    sections = evaluated(results)
    assert 0.4 < sections["robustness"].curves["excess/filter_norm"].x[0] < 0.6


def test_a_report_shows_pictures_and_names_bars(tmp_path: Path, drawn: None) -> None:
    results = finished(cases.recipe(0.5, evaluations=ASKED, **MODES["none"]), tmp_path)
    sections = evaluated(results)
    results.export(results.pipeline.done[0])
    report = results.report(sections)
    assert sections["robustness"].curves["excess/magnitude"].x == (
        report.checkpoints[0].prune_ratio,
    )
    page, text = to_html(report), to_markdown(report)
    assert page.count('<img src="data:image/png;base64,') == 3
    assert "img-src data:" in page
    assert "2:\N{NO-BREAK SPACE}fog\N{NO-BREAK SPACE}2" in page
    assert "| fog 2 |" in text


def test_networks_that_overflow_are_sure_of_nothing(cascade: Results) -> None:
    def broken() -> nn.Module:
        model = cascade.pipeline.dense()
        with torch.no_grad():
            model.get_parameter("3.weight").fill_(3e38)
        return model

    trial = trial_of(cascade)
    trial = replace(trial, rounds=[replace(one, network=broken) for one in trial.rounds])
    for one in ASKED:
        section = evaluations.create(str(one["name"]), one["params"]).evaluate(trial)
        json.dumps(section.model_dump(mode="json"), allow_nan=False)
    assert compute_confidence(torch.tensor([[math.inf, 0.0], [0.0, 0.0]])).tolist() == [
        [0.0, 0.0],
        [0.5, 0.5],
    ]


def test_bars_say_what_they_are() -> None:
    with pytest.raises(ValueError, match="x_names"):
        Curve(x=(0,), y=(Estimate(value=1.0),), x_label="a", y_label="b", x_names=("one", "two"))


def test_applies_only_to_images_that_can_be_corrupted(tmp_path: Path) -> None:
    results = finished(
        cases.recipe(0.5, **MODES["trained fine_tune"]),
        tmp_path,
        lambda: cases.mlp(inputs=32),
        cases.make_data(shape=(2, 4, 4)),
    )
    assert not Robustness().applies(trial_of(results))
    assert not applies_to(NoiseSimilarity(), trial_of(results)), "only where asked for"
