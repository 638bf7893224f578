"""How far pruned networks are from the dense one: by hand in float64, for compacted, dead and
overflowing ones.
"""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.analysis.distance_findings import (
    HIDDEN,
    Change,
    check_recovery_claim,
    correlate_with_accuracy,
)
from pruning.analysis.job_record import JobRecord, RoundRecord
from pruning.analysis.output_distances import (
    average_finite,
    average_paired_change,
    measure_output_distances,
)
from pruning.evaluations.approximation import Approximation
from pruning.masks import apply_masks_
from pruning.measurement.measure import estimate_increase, measure_network
from pruning.pipeline.pipeline import Networks, Pipeline
from pruning.pipeline.results import Origin, Results
from pruning.rounds.plan import keeps_unretrained, plan_rounds
from pruning.schemas.recipe import Recipe
from pruning.schemas.report import Estimate, Report, Section
from pruning.storage.stages import Stages
from tests.support import cases
from tests.support.pipelines import CPU, MODES, Listener, pretrained

ORIGIN = Origin(
    job_id="job_00000000",
    spec={"type": "prune"},
    architecture="mlp",
    kwargs={"hidden": [6]},
    model_sha256=None,
    dataset_name="random",
    dataset_sha256="",
)
KINDS = ("accuracy", "layers", "logits", "centred", "softmax", "kl", "agreement")


def finished(recipe: Recipe, folder: Path, net: Any = cases.mlp) -> Results:
    pipeline = Pipeline(
        recipe=recipe,
        networks=Networks(net, None if recipe.train else pretrained()[0]),
        data=cases.make_data(),
        stages=Stages(folder / "stages", recipe.digest()),
        watcher=Listener(),
        device=CPU,
    )
    results = Results(pipeline, ORIGIN, folder / "files")
    pipeline.target_done = results.export
    pipeline.run()
    return results


def asked(*sparsity: float, images: int = 1000, **fields: Any) -> Recipe:
    return cases.recipe(
        *sparsity, evaluations=({"name": "approximation", "params": {"images": images}},), **fields
    )


def evaluated(results: Results) -> Section:
    sections, failures = results.evaluate()
    assert failures == []
    section = sections["approximation"]
    assert "NaN" not in (text := json.dumps(section.model_dump(mode="json")))
    assert "Infinity" not in text
    assert Section.model_validate_json(section.model_dump_json()) == section
    return section


def trial_of(pipeline: Pipeline, *rounds: RoundRecord) -> JobRecord:
    return JobRecord(
        data=pipeline.data,
        dense=pipeline.dense,
        control=pipeline.control,
        given_measured=pipeline.given_measured,
        control_measured=pipeline.control_measured,
        rounds=rounds or pipeline.done,
        recipe=pipeline.recipe,
    )


def error(a: Tensor, b: Tensor) -> float:
    """The mean relative error, one image after the other."""
    return sum(float((y - x).norm() / x.norm()) for x, y in zip(a, b, strict=True)) / len(a)


# two networks


def test_a_perceptron_by_hand() -> None:
    dense, pruned = cases.mlp().double(), cases.mlp().double()
    apply_masks_(pruned, cases.half_masks(pruned))
    x = torch.randn(7, 1, 4, 4, dtype=torch.float64)
    found = measure_output_distances(dense, pruned, x.split(3))
    with torch.no_grad():
        (a1, z), (b1, y) = (
            (
                h := F.linear(x.flatten(1), net[1].weight, net[1].bias),
                F.linear(h.relu(), net[3].weight, net[3].bias),
            )
            for net in (dense, pruned)
        )
    for index in range(7):
        assert float(found.layers["1"][index]) == pytest.approx(
            math.dist(a1[index], b1[index]) / math.hypot(*a1[index])
        )
        p, q = z[index].softmax(0).tolist(), y[index].softmax(0).tolist()
        assert float(found.softmax[index]) == pytest.approx(math.dist(p, q))
        assert float(found.kl[index]) == pytest.approx(
            sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        )
        assert bool(found.agrees[index]) == (int(z[index].argmax()) == int(y[index].argmax()))
        c, d = (row - row.mean() for row in (z[index], y[index]))
        assert float(found.centred[index]) == pytest.approx(math.dist(c, d) / math.hypot(*c))
    assert torch.equal(found.hidden, found.layers["1"])
    assert torch.equal(found.logits, found.layers["3"])
    assert bool((found.softmax <= 0.5 * found.logits * z.norm(dim=1)).all())
    assert average_finite(found.layers["1"]) == average_finite(
        torch.cat([found.layers["1"], torch.tensor([math.nan])])
    )


def test_a_convolution_by_hand_before_an_activation_in_place() -> None:
    def net() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            return (
                nn.Sequential(
                    nn.Conv2d(1, 3, 3),
                    nn.BatchNorm2d(3),
                    nn.ReLU(inplace=True),
                    nn.Conv2d(3, 2, 2),
                    nn.ReLU(inplace=True),
                    nn.Flatten(),
                    nn.Linear(2, 3),
                )
                .double()
                .train()
            )

    dense, pruned = net(), net()
    apply_masks_(pruned, cases.half_masks(pruned))
    x = torch.randn(5, 1, 4, 4, dtype=torch.float64)
    found = measure_output_distances(dense, pruned, [x])
    assert dense.training
    assert not any(module._forward_hooks for one in (dense, pruned) for module in one.modules())
    with torch.no_grad():
        (a, a3), (b, b3) = (
            (one[0](x), one[3](one[1](one[0](x)).relu())) for one in (dense.eval(), pruned.eval())
        )
    first, second = error(a.flatten(1), b.flatten(1)), error(a3.flatten(1), b3.flatten(1))
    assert list(found.layers) == ["0", "3", "6"]
    assert float(found.layers["0"].mean()) == pytest.approx(first)
    assert float(found.layers["3"].mean()) == pytest.approx(second)
    assert float(found.hidden.mean()) == pytest.approx((first + second) / 2)


def test_a_layer_that_is_called_twice_counts_once_with_all_its_outputs() -> None:
    layer, other = nn.Linear(3, 3), nn.Linear(3, 3)
    one, two = nn.Sequential(layer, nn.ReLU(), layer), nn.Sequential(other, nn.ReLU(), other)
    x = torch.randn(4, 3)
    found = measure_output_distances(one, two, [x])
    with torch.no_grad():
        a, b = (torch.cat([net[0](x), net(x)], 1).double() for net in (one, two))
    assert float(found.layers["0"].mean()) == pytest.approx(error(a, b), rel=1e-5)
    assert average_finite(found.hidden) is None


def test_softmax_and_centred_logits_do_not_see_what_all_logits_share() -> None:
    one = nn.Linear(4, 3)
    two = copy.deepcopy(one)
    with torch.no_grad():
        two.bias += 5
    found = measure_output_distances(one, two, [torch.randn(6, 4)])
    assert float(found.logits.min()) > 0.5
    assert (
        max(float(values.abs().max()) for values in (found.centred, found.softmax, found.kl)) < 1e-5
    )
    assert bool(found.agrees.all())


class Folding(nn.Module):
    """Sees every row of an image by itself in its first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.head = nn.Linear(4, 2), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rows(x.reshape(-1, 4)).reshape(len(x), 8))


def test_layers_without_one_output_for_each_image_are_left_out() -> None:
    found = measure_output_distances(Folding(), Folding(), [torch.randn(5, 1, 4, 4)])
    assert found.unmatched == ("rows",)
    assert list(found.layers) == ["head"]


@pytest.mark.parametrize(
    ("before", "after", "value"),
    [
        ([1.0, 2.0], [2.0, 5.0], 2.0),
        ([1.0, math.nan], [2.0, math.nan], 1.0),
        ([math.nan], [math.nan], None),
        ([1.0, math.inf], [2.0, 1.0], None),
        ([1.0, 1.0], [math.inf, 1.0], None),
    ],
)
def test_changes_are_paired_and_none_off_the_scale(
    before: list[float], after: list[float], value: float | None
) -> None:
    found = average_paired_change(torch.tensor(before), torch.tensor(after))
    assert (found and found.value) == value


# a job


@pytest.mark.parametrize("mode", ["fine_tune", "trained weight_rewind", "gradual"])
def test_checkpoints_are_compared_with_the_dense_network_before_and_after_retraining(
    tmp_path: Path, mode: str
) -> None:
    targets = (0.5,) if mode == "gradual" else (0.5, 0.8)
    schedule = {"name": "linear", "params": {"rounds": 2}}
    results = finished(asked(*targets, schedule=schedule, **MODES[mode]), tmp_path)
    section, pipeline = evaluated(results), results.pipeline
    images = pipeline.data.normalize(pipeline.data.test.images)
    done = [one for one in pipeline.done if one.target is not None]
    assert set(section.curves) == {
        f"{kind}_{phase}/magnitude" for kind in KINDS for phase in ("before", "after")
    }
    assert all(one.unretrained is None for one in pipeline.done if one.target is None)
    for index, one in enumerate(done):
        assert one.unretrained is not None
        assert one.retrained is not None
        unretrained = one.unretrained()
        assert torch.equal(measure_network(unretrained, pipeline.data).losses, one.pruned.losses)
        values: dict[str, float] = {}
        for phase, network, measured in (
            ("before", unretrained, one.pruned),
            ("after", one.network(), one.retrained),
        ):
            with torch.no_grad():
                a, b = (
                    net.double()[1](images.flatten(1).double())
                    for net in (pipeline.dense(), network)
                )
            values[phase] = section.curves[f"layers_{phase}/magnitude"].y[index].value
            assert values[phase] == pytest.approx(error(a, b), rel=1e-4)
            accuracy = section.curves[f"accuracy_{phase}/magnitude"].y[index]
            assert accuracy.value == pytest.approx(1 - float(measured.wrong.double().mean()))
            assert accuracy.n == 30
        row = section.details["change_by_retraining"][index]
        assert (
            row["accuracy_increase"]
            == estimate_increase(one.pruned.wrong, one.retrained.wrong).model_dump()
        )
        assert row["change_relative_error_hidden_layers"]["value"] == pytest.approx(
            values["after"] - values["before"]
        )
        assert (
            row["change_relative_error_hidden_layers"]["low"]
            < row["change_relative_error_hidden_layers"]["high"]
        )
    assert [row["layer"] for row in section.details["layers"]] == ["1", "3"] * len(done)
    assert "relative error of logits, dense control" in section.scalars
    assert any(
        note.startswith("Paper's claim: fine-tuning recovers accuracy") for note in section.notes
    )
    assert any("no evidence: too few checkpoints" in note for note in section.notes)
    assert not any(key.startswith("spearman") for key in section.scalars)


def test_channels_that_are_gone_count_as_zero(tmp_path: Path) -> None:
    def net() -> nn.Module:
        return cases.mlp(hidden=12)

    recipe = asked(
        0.5,
        criterion={"name": "filter_norm"},
        retrain={"mode": "fine_tune", "epochs": 2, "batch_size": 8},
        train={"epochs": 20, "batch_size": 8, "optimizer": {"lr": 0.05}},
    )
    results = finished(recipe, tmp_path, net)
    section, pipeline = evaluated(results), results.pipeline
    (one,) = pipeline.done
    assert one.compacted
    images = pipeline.data.normalize(pipeline.data.test.images)
    kept = one.masks()["1.bias"]
    small = one.network()
    with torch.no_grad():
        scattered = torch.zeros(30, 12)
        scattered[:, kept] = small[1](images.flatten(1))
        assert scattered.shape[1] > int(kept.sum()) > 0
        a = pipeline.dense()[1](images.flatten(1))
        z, y = pipeline.dense()(images), small(images)
    assert section.curves["layers_after/filter_norm"].y[0].value == pytest.approx(
        error(a, scattered), rel=1e-5
    )
    assert section.curves["logits_after/filter_norm"].y[0].value == pytest.approx(
        error(z, y), rel=1e-5
    )
    assert one.unretrained is not None
    assert torch.equal(
        one.unretrained()(images).argmax(1) != pipeline.data.test.labels, one.pruned.wrong
    )


def test_without_retraining_there_is_only_before(tmp_path: Path) -> None:
    results = finished(asked(0.3, 0.5, 0.7, 0.8, 0.9, images=20, **MODES["none"]), tmp_path)
    section = evaluated(results)
    assert set(section.curves) == {f"{kind}_before/magnitude" for kind in KINDS}
    assert section.curves["layers_before/magnitude"].y[0].n == 20
    assert "Means are over 20 test images of 30" in section.notes[-1]
    assert not any("claim" in note or "control" in note for note in section.notes)
    accuracy, errors = (
        [one.value for one in section.curves[f"{kind}_before/magnitude"].y]
        for kind in ("accuracy", "logits")
    )
    found = section.scalars["spearman_before/logits"]
    assert found.value == pytest.approx(spearmanr(errors, accuracy).statistic)
    assert found.low is not None
    assert found.high is not None
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert found.n == 5
    rows = section.details["rank_correlation_with_accuracy"]
    assert [row["distance"] for row in rows] == [
        "hidden layers",
        "logits",
        "centred logits",
        "softmax",
        "KL divergence",
        "disagreement",
    ]
    agreement = [one.value for one in section.curves["agreement_before/magnitude"].y]
    assert section.scalars["spearman_before/disagreement"].value == pytest.approx(
        -spearmanr(agreement, accuracy).statistic
    )


def test_before_training_the_trained_networks_alone_are_compared(tmp_path: Path) -> None:
    schedule = {"name": "linear", "params": {"rounds": 2}}
    section = evaluated(
        finished(asked(0.5, 0.8, schedule=schedule, **MODES["before_training"]), tmp_path)
    )
    assert set(section.curves) == {f"{kind}_after/magnitude" for kind in KINDS}
    assert len(section.curves["layers_after/magnitude"].x) == 2
    assert any("The job prunes before it trains" in note for note in section.notes)
    assert "checkpoints_after_training" in section.details


def test_a_resumed_job_has_the_same_section(tmp_path: Path) -> None:
    recipe = asked(0.5, 0.8, **MODES["fine_tune"])
    first = evaluated(finished(recipe, tmp_path / "a"))
    whole = finished(recipe, tmp_path / "b")
    stages = whole.pipeline.stages
    assert evaluated(whole) == first
    read = evaluated(finished(recipe, tmp_path / "b"))
    assert read.model_dump_json() == first.model_dump_json(), "in the same order too"
    stages.drop("evaluation-approximation")
    stages.drop("round-0-002")
    assert evaluated(finished(recipe, tmp_path / "b")).model_dump_json() == first.model_dump_json()


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({}, [False, True]),
        ({"evaluations": ()}, [False, False]),
        ({"evaluations": ({"name": "accuracy"},)}, [False, False]),
        ({"evaluations": ({"name": "approximation"},)}, [False, True]),
        (MODES["none"], [False, False]),
        (MODES["before_training"], [False, False]),
    ],
)
def test_the_weights_right_after_pruning_are_kept_where_they_are_read(
    fields: dict[str, Any], kept: list[bool], tmp_path: Path
) -> None:
    recipe = cases.recipe(0.8, schedule={"name": "linear", "params": {"rounds": 2}}, **fields)
    assert [keeps_unretrained(recipe, planned) for planned in plan_rounds(recipe)] == kept
    if fields == {}:
        pipeline = finished(recipe, tmp_path).pipeline
        assert [
            bool(pipeline.ledger.load_part(f"round-0-00{n}", "unretrained.")) for n in (1, 2)
        ] == kept


def test_batchnorm_is_compared_as_it_was_measured(tmp_path: Path) -> None:
    recipe = asked(
        0.8,
        retrain={"mode": "fine_tune", "epochs": 1, "batch_size": 8},
        train={"epochs": 4, "batch_size": 8, "optimizer": {"lr": 0.05}},
    )
    pipeline = finished(recipe, tmp_path, cases.conv_net).pipeline
    (one,) = pipeline.done
    assert one.batchnorm is not None
    assert one.unretrained is not None
    assert torch.equal(measure_network(one.unretrained(), pipeline.data).losses, one.pruned.losses)


# what has no error


def compared(tmp_path: Path, dense: nn.Module, other: nn.Module, **changes: Any) -> Section:
    pipeline = finished(asked(0.5, **MODES["fine_tune"]), tmp_path).pipeline
    (one,) = pipeline.done
    fields = {**vars(one), "full_size": lambda: other, **changes}
    trial = JobRecord(
        data=pipeline.data,
        dense=lambda: dense,
        control=lambda: dense,
        given_measured=pipeline.given_measured,
        control_measured=pipeline.control_measured,
        rounds=(RoundRecord(**fields),),
        recipe=pipeline.recipe,
    )
    section = Approximation().evaluate(trial)
    assert "NaN" not in (text := json.dumps(section.model_dump(mode="json")))
    assert "Infinity" not in text
    return section


def test_a_layer_that_puts_out_nothing(tmp_path: Path) -> None:
    """In the pruned network its error is 1; in the dense one there is nothing to be relative to."""
    dense, dead = pretrained()[0], cases.mlp()
    alive = cases.mlp()
    alive.load_state_dict(dense)
    for name in ("1.weight", "1.bias"):
        nn.init.zeros_(dead.get_parameter(name))
    section = compared(tmp_path / "a", alive, dead)
    assert section.curves["layers_after/magnitude"].y == (Estimate(value=1, low=1, high=1, n=30),)
    section = compared(tmp_path / "b", dead, alive)
    assert "layers_after/magnitude" not in section.curves
    assert [
        row["relative_error_after"] for row in section.details["layers"] if row["layer"] == "1"
    ] == [None]
    assert [row["images_left_out"] for row in section.details["layers"]] == [30, 0]
    assert any("left out: 1 on 30 images" in note for note in section.notes)


@pytest.mark.parametrize("value", [math.inf, math.nan, 3e38])
def test_a_network_that_overflows_is_named(tmp_path: Path, value: float) -> None:
    dense, broken = cases.mlp(), cases.mlp()
    nn.init.constant_(broken[1].weight, value)
    section = compared(tmp_path, dense, broken)
    assert "layers_before/magnitude" in section.curves
    assert not {"layers_after/magnitude", "logits_after/magnitude", "kl_after/magnitude"} & set(
        section.curves
    )
    (note,) = [note for note in section.notes if "overflows" in note]
    assert note.startswith(
        "magnitude-0.5 after retraining overflows (infinite or no number) on up to "
    )
    assert (
        "no mean is given of 1, 3, logits, centred logits, softmax, KL divergence nor of the "
        "hidden layers" in note
    )
    assert section.details["change_by_retraining"][0]["change_relative_error_logits"] is None


def test_what_was_not_kept_is_said(tmp_path: Path) -> None:
    section = compared(tmp_path, cases.mlp(), cases.mlp(), unretrained=None)
    assert any("was not kept: magnitude-0.5" in note for note in section.notes)


def test_it_applies_to_jobs_with_a_checkpoint(tmp_path: Path) -> None:
    pipeline = finished(
        cases.recipe(0.8, schedule={"name": "linear", "params": {"rounds": 2}}, **MODES["none"]),
        tmp_path,
    ).pipeline
    assert Approximation().applies(trial_of(pipeline))
    assert not Approximation().applies(trial_of(pipeline, pipeline.done[0]))


def test_a_whole_report_holds_no_nan(tmp_path: Path) -> None:
    results = finished(cases.recipe(0.5, 0.8, **MODES["fine_tune"]), tmp_path)
    report = results.report(*results.evaluate())
    assert "approximation" in report.sections
    assert Report.model_validate_json(report.model_dump_json()) == report


# findings


def around(value: float, half: float = 0.01) -> Estimate:
    return Estimate(value=value, low=value - half, high=value + half)


@pytest.mark.parametrize(
    ("errors", "seen", "moved"),
    [
        (
            [0.2, 0.1, 0.3],
            "yes",
            "rose at all 3 of these (median change +0.2, +40 % of it; a fall by less than 10 % "
            "counts as",
        ),
        ([0.2, 0.0, 0.3], "yes", "rose at 2 and fell at 0 of these 3, 1 within noise"),
        ([-0.02, -0.03, -0.04], "yes", "fell at all 3 of these (median change −0.03, −6 % of it"),
        (
            [-0.02, -0.03, -0.05],
            "at some checkpoints, not at others",
            "fell at all 3 of these (median change −0.03",
        ),
        ([-0.2, -0.1, -0.3], "no, the opposite", "fell at all 3 of these"),
        (
            [-0.2, 0.1, None],
            "at some checkpoints, not at others",
            "rose at 1 and fell at 1 of these 3, 1 off the scale",
        ),
        (
            [0.0, 0.001, 0.0],
            "no evidence either way",
            "rose at 0 and fell at 0 of these 3, 3 within noise",
        ),
    ],
)
def test_the_claim_is_told_as_it_was_seen(
    errors: list[float | None], seen: str, moved: str
) -> None:
    changes = [
        Change(
            f"c{i}",
            around(0.1 * (i + 1)),
            {HIDDEN: None if value is None else around(value), "logits": around(-1)},
            0.5,
        )
        for i, value in enumerate(errors)
    ]
    changes.append(Change("worse", around(-0.1), {HIDDEN: around(1), "logits": around(1)}))
    note, others = check_recovery_claim(changes)
    assert (
        f"Seen here: {seen}. Retraining recovered accuracy by +20.0 pp at 3 of 4 checkpoints"
        in note
    )
    assert moved in note
    assert (
        others == "At the same checkpoints the distance of the outputs, beyond noise: logits fell "
        "at all 3 of these."
    )


def test_without_recovery_there_is_no_claim_to_see() -> None:
    (note,) = check_recovery_claim([Change("a", around(0.001), {HIDDEN: around(1)})])
    assert "no evidence: retraining recovered accuracy beyond noise at none of 1 checkpoint" in note


@pytest.mark.parametrize(
    ("pairs", "verdict"),
    [
        ([(0.1, 0.9)] * 3, "no evidence: too few checkpoints (3, at least 4 are needed)"),
        ([(0.1, 0.9)] * 6, "no evidence: a ranking is constant"),
        ([(1, 1), (2, 2), (3, 3), (4, 4)], "no evidence: 8 % of random orders are as good"),
        ([(1, 1), (2, 5), (3, 2), (4, 4), (5, 0), (6, 3)], "no evidence of an order"),
        ([(i, i) for i in range(8)], "further from the dense network went with higher accuracy"),
        ([(i, -i) for i in range(8)], "further from the dense network went with lower accuracy"),
    ],
)
def test_correlations_say_when_they_are_no_evidence(
    pairs: list[tuple[float, float]], verdict: str
) -> None:
    assert correlate_with_accuracy(0, "before", "logits", "logits", pairs).verdict == verdict
