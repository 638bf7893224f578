"""LM, QM and OBD: scores, predictions, stages and parameters, against formulas written out in
float64.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.criteria import criteria
from pruning.criteria.lm import LM
from pruning.criteria.obd import OBD
from pruning.criteria.qm import QM
from pruning.errors import EvidenceError, ParameterError
from pruning.evidence.calibration import draw_from_batches
from pruning.evidence.criterion import AsksForCalibration, PredictsLossChange, ScoresInStages
from pruning.evidence.evidence import Evidence
from pruning.evidence.local_models import CurvedLocality, Locality
from pruning.library import score
from pruning.masks import apply_masks_, build_full_masks, count_kept, density, find_prunable
from pruning.rounds.method import PruningMethod
from pruning.rounds.pruning import prune_
from pruning.schemas.recipe import Method
from pruning.seeding import generator
from pruning.types import Calibration, Masks, Scores
from tests.support import cases

NAMES = ("lm", "qm", "obd")
fast = settings(max_examples=40, deadline=None, derandomize=True)


def build_evidence(
    masks: Masks | None = None, classes: int = 3, loss: Any = F.cross_entropy
) -> Evidence:
    """Build a float64 convolutional network with BatchNorm, and two batches of unequal size."""
    model = cases.conv_net(seed=4, classes=classes).double()
    rng = torch.Generator().manual_seed(1)
    batches = [
        (torch.randn(n, 1, 4, 4, dtype=torch.float64, generator=rng), torch.arange(n) % classes)
        for n in (6, 3)
    ]
    if masks is not None:
        apply_masks_(model, masks)
    return Evidence(model, masks, batches, torch.Generator().manual_seed(2), loss=loss)


def compute_by_hand(point: Evidence) -> tuple[Scores, Scores]:
    """Compute g and the exact D, one image and one class at a time.

    D = (1/n) sum_i sum_j p_ij (d log p_ij / d theta)^2.
    """
    names = list(point.weights)
    weights = [point.model.get_parameter(name) for name in names]
    images, labels = (torch.cat(parts) for parts in zip(*point.batches, strict=True))
    point.model.eval()
    loss = F.cross_entropy(point.model(images), labels)
    g = dict(zip(names, torch.autograd.grad(loss, weights), strict=True))
    d = {name: torch.zeros_like(weight) for name, weight in point.weights.items()}
    for image in images:
        logs = point.model(image[None])[0].log_softmax(0)
        for log in logs:
            for name, gradient in zip(
                names, torch.autograd.grad(log, weights, retain_graph=True), strict=True
            ):
                d[name] += log.detach().exp() * gradient.square() / len(images)
    return g, d


def compute_saliency(name: str, g: Tensor, d: Tensor, w: Tensor) -> Tensor:
    """Compute the signed change of the loss that each model predicts for a weight alone."""
    return {"lm": -g * w, "qm": -g * w + d * w**2 / 2, "obd": d * w**2 / 2}[name]


@pytest.mark.parametrize("half", [False, True], ids=["dense", "half pruned"])
@pytest.mark.parametrize("weight_of_penalty", [0.0, 0.3])
@pytest.mark.parametrize("name", NAMES)
def test_scores_are_the_saliencies_of_the_paper(
    name: str, weight_of_penalty: float, half: bool
) -> None:
    masks = cases.half_masks(cases.conv_net().double()) if half else None
    point = build_evidence(masks)
    g, d = compute_by_hand(point)
    scores = criteria.create(name, {"lambda": weight_of_penalty}).score(point)
    for key, w in point.weights.items():
        expected = compute_saliency(name, g[key], d[key], w).abs() + weight_of_penalty / 2 * w**2
        assert torch.allclose(scores[key], expected, rtol=1e-10, atol=1e-15)
        assert scores[key].dtype == torch.float64


def test_the_absolute_value_is_of_the_sum() -> None:
    point = build_evidence()
    scores = QM(lambda_=0.0).score(point)
    lm = LM(lambda_=0.0).score(point)
    obd = OBD(lambda_=0.0).score(point)
    for key in scores:
        assert torch.all(scores[key] <= lm[key] + obd[key] + 1e-12)
        assert torch.all(scores[key] >= (lm[key] - obd[key]).abs() - 1e-12)
        assert torch.any(scores[key] < (lm[key] + obd[key]) * 0.9), (
            "no weight at which the terms oppose each other"
        )


def test_obd_is_qm_without_a_gradient() -> None:
    first = build_evidence()
    second = build_evidence()
    first.gradient = {name: torch.zeros_like(weight) for name, weight in first.weights.items()}
    for lam in (0.0, 0.1):
        qm = QM(lambda_=lam).score(first)
        obd = OBD(lambda_=lam).score(second)
        assert all(torch.allclose(qm[key], obd[key], rtol=1e-12) for key in qm)


@pytest.mark.parametrize("name", NAMES)
def test_an_endless_penalty_is_magnitude(name: str) -> None:
    model = build_evidence().model
    masks: list[Masks] = []
    for method in (Method(name="magnitude"), Method(name=name, params={"lambda": 1e14, "pi": 1})):
        point = build_evidence()

        def get_point(masks: Masks, stage: int, point: Evidence = point) -> Evidence:
            return point

        masks.append(
            prune_(
                point.model,
                build_full_masks(find_prunable(model)),
                0.37,
                PruningMethod.of(cases.recipe(0.5), method),
                get_point,
                generator=torch.Generator(),
            )
        )
    assert all(torch.equal(masks[0][key], masks[1][key]) for key in masks[0])
    none = criteria.create(name, {"lambda": 0}).score(build_evidence())
    order = [
        torch.cat([s.flatten() for s in scores.values()]).argsort()
        for scores in (none, criteria.create("magnitude").score(build_evidence()))
    ]
    assert not torch.equal(*order)


@pytest.mark.parametrize("name", NAMES)
def test_prediction_adds_the_signed_changes_of_this_stage_alone(name: str) -> None:
    before = cases.half_masks(cases.conv_net().double())
    point = build_evidence(before)
    g, d = compute_by_hand(point)
    rng = torch.Generator().manual_seed(3)
    after = {
        key: mask & (torch.rand(mask.shape, generator=rng) < 0.6) for key, mask in before.items()
    }
    expected = sum(
        float(compute_saliency(name, g[key], d[key], w)[before[key] & ~after[key]].sum())
        for key, w in point.weights.items()
    )
    criterion = criteria.create(name, {"lambda": 5.0})
    assert isinstance(criterion, PredictsLossChange)
    assert criterion.predict(point, after) == pytest.approx(expected, rel=1e-10)
    assert criterion.predict(point, before) == 0.0


def test_qm_predicts_a_quadratic_form() -> None:
    """A linear network with a squared loss has a quadratic one, and a diagonal one where inputs do
    not overlap.
    """

    def half_square(outputs: Tensor, labels: Tensor) -> Tensor:
        return outputs.sum(1).square().mean() / 2 - outputs.sum(1).mean()

    layer = nn.Linear(6, 1, bias=False).double()
    layer.weight.data = torch.tensor([[1.0, -2.0, 0.5, 3.0, -1.5, 0.1]], dtype=torch.float64)
    images = torch.diag(torch.tensor([1.0, 2.0, 0.5, 1.5, 3.0, 0.0], dtype=torch.float64))
    point = Evidence(layer, batches=[(images, torch.zeros(6, dtype=torch.long))], loss=half_square)
    point._curvatures["ggn", 1] = {"weight": (images.T @ images / 6).diag()[None]}
    masks = {"weight": torch.tensor([[True, False, True, False, False, False]])}
    predicted = QM(curvature="ggn").predict(point, masks)
    before = half_square(layer(images), torch.zeros(6)).item()
    apply_masks_(layer, masks)
    assert predicted == pytest.approx(
        half_square(layer(images), torch.zeros(6)).item() - before, abs=1e-12
    )
    assert predicted != pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_predictions_hold_close_to_the_point(name: str) -> None:
    """Of small weights removed, LM and QM err in the second order; OBD, which leaves out the
    gradient, in the first.
    """
    errors = {}
    for scale in (1e-2, 1e-3):
        point = build_evidence()
        point.model.get_parameter("4.weight").data[:, :8] *= scale
        masks = {
            key: torch.ones_like(weight, dtype=torch.bool) for key, weight in point.weights.items()
        }
        masks["4.weight"][:, :8] = False
        predicted = criteria.create(name).predict(point, masks)  # type: ignore[attr-defined]
        before = float(point.losses().mean())
        apply_masks_(point.model, masks)
        errors[scale] = abs(predicted - (float(point.losses().mean()) - before))
    assert errors[1e-3] < errors[1e-2] / (50 if name != "obd" else 5)
    assert errors[1e-3] > errors[1e-2] / 15 or name != "obd"


def test_curvature_as_asked() -> None:
    point = build_evidence()
    for kind, criterion in itertools.product(
        ("ggn", "empirical_fisher", "mc_fisher"), ("qm", "obd")
    ):
        scores = criteria.create(criterion, {"curvature": kind, "lambda": 0}).score(point)
        d = point.curvature(kind)  # type: ignore[arg-type]
        for key, w in point.weights.items():
            assert torch.equal(
                scores[key], compute_saliency(criterion, point.gradient[key], d[key], w).abs()
            )
    assert not torch.allclose(
        point.curvature("ggn")["4.weight"], point.curvature("empirical_fisher")["4.weight"]
    )


@pytest.mark.parametrize("name", ["qm", "obd"])
def test_above_twenty_classes_the_default_is_sampled(name: str) -> None:
    for classes, kind in ((20, "ggn"), (21, "mc_fisher")):
        default, named = (
            criteria.create(name, params).score(build_evidence(classes=classes))
            for params in ({}, {"curvature": kind})
        )
        assert all(torch.equal(default[key], named[key]) for key in default)


# stages


@fast
@given(start=st.floats(0.01, 1.0), part=st.floats(1e-4, 0.999), pi=st.integers(1, 200))
def test_exponential_stages_remove_a_constant_fraction_of_what_remains(
    start: float, part: float, pi: int
) -> None:
    target = start * part
    densities = [start, *Locality(pi=pi).stage_densities(start, target)]
    assert densities[-1] == target
    assert all(later < earlier for earlier, later in itertools.pairwise(densities))
    assert len(densities) == pi + 1 or part > 0.99
    fractions = [1 - later / earlier for earlier, later in itertools.pairwise(densities)]
    assert max(fractions) - min(fractions) < 1e-9
    if start == 1.0:
        r = 1 - target ** (1 / pi)
        assert densities[1:] == pytest.approx(
            [1 - (1 - (1 - r) ** i) for i in range(1, pi + 1)], rel=1e-9
        )


@fast
@given(start=st.floats(0.01, 1.0), part=st.floats(1e-4, 0.99), pi=st.integers(1, 200))
def test_linear_stages_remove_a_constant_number(start: float, part: float, pi: int) -> None:
    target = start * part
    densities = [start, *Locality(pi=pi, stages="linear").stage_densities(start, target)]
    assert len(densities) == pi + 1
    assert densities[-1] == target
    assert densities == pytest.approx(
        [start - (start - target) * i / pi for i in range(pi + 1)], rel=1e-9
    )


@pytest.mark.parametrize("stages", ["exponential", "linear"])
@pytest.mark.parametrize("name", NAMES)
def test_masks_of_the_stages_are_nested_and_counted(name: str, stages: str) -> None:
    dense = build_evidence()
    stage_masks: list[Masks] = []

    def at(masks: Masks, stage: int) -> Evidence:
        assert stage == len(stage_masks)
        stage_masks.append(masks)
        assert all(
            not bool(dense.model.get_parameter(key).detach()[~mask].any())
            for key, mask in masks.items()
        )
        return Evidence(dense.model, masks, dense.batches)

    method = PruningMethod.of(
        cases.recipe(0.5), Method(name=name, params={"pi": 5, "stages": stages})
    )
    assert isinstance(method.criterion, ScoresInStages)
    last = prune_(
        dense.model, build_full_masks(dense.weights), 0.2, method, at, generator=torch.Generator()
    )
    stage_masks.append(last)
    total = sum(mask.numel() for mask in last.values())
    expected = [1.0, *method.criterion.stage_densities(1.0, 0.2)]
    assert [sum(count_kept(masks).values()) for masks in stage_masks] == [
        total - round((1 - d) * total) for d in expected
    ]
    for before, after in itertools.pairwise(stage_masks):
        assert all(not bool((after[key] & ~before[key]).any()) for key in after)


@pytest.mark.parametrize("stages", ["exponential", "linear"])
def test_more_stages_than_weights(stages: str) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    batches = [
        (torch.randn(3, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0]))
    ]
    masks = prune_(
        model,
        build_full_masks(find_prunable(model)),
        0.25,
        PruningMethod.of(cases.recipe(0.5), Method(name="qm", params={"pi": 40, "stages": stages})),
        lambda masks, stage: Evidence(model, masks, batches),
        generator=torch.Generator(),
    )
    assert density(masks) == 0.25


def test_later_stages_see_the_masked_point() -> None:
    """Two stages are a stage, then a stage of the network that it left."""

    def pruned(model: nn.Module, masks: Masks, target: float, pi: int) -> Masks:
        return prune_(
            model,
            masks,
            target,
            PruningMethod.of(cases.recipe(0.5), Method(name="qm", params={"pi": pi})),
            lambda masks, stage: Evidence(model, masks, build_evidence().batches),
            generator=torch.Generator(),
        )

    both = build_evidence().model
    steps = build_evidence().model
    first = pruned(steps, build_full_masks(find_prunable(steps)), 0.5, 1)
    second = pruned(steps, first, 0.25, 1)
    masks = pruned(both, build_full_masks(find_prunable(both)), 0.25, 2)
    assert all(torch.equal(masks[key], second[key]) for key in masks)
    once = build_evidence().model
    assert any(
        not torch.equal(mask, masks[key])
        for key, mask in pruned(once, build_full_masks(find_prunable(once)), 0.25, 1).items()
    )


# parameters


@pytest.mark.parametrize("name", NAMES)
def test_parameters(name: str) -> None:
    criterion = criteria.create(name, {"lambda": 0.1, "pi": 10_000, "images": 7})
    assert isinstance(criterion, Locality)
    assert (criterion.lambda_, criterion.pi) == (0.1, 10_000)
    assert isinstance(criterion, AsksForCalibration)
    assert criterion.calibration(10).images == 7
    properties = criteria.entry(name)["params"]["properties"]
    assert {"lambda", "pi", "stages", "images"} <= set(properties)
    assert "lambda_" not in properties
    assert properties["lambda"]["default"] == 1e-3
    assert properties["pi"]["default"] == 14
    assert ("curvature" in properties) == (name != "lm")
    for bad in (
        {"lambda": -1},
        {"lambda_": 0.1},
        {"pi": 0},
        {"pi": 10_001},
        {"images": 0},
        {"stages": "cubic"},
        {"lambda": float("inf")},
        {"lambda": float("nan")},
    ):
        with pytest.raises(ParameterError):
            criteria.create(name, bad)


def test_units_of_work() -> None:
    assert LM(images=100).units(10) == 300
    assert QM(images=100).units(10) == OBD(images=100).units(10) == 3600
    assert (
        QM(images=100).units(100)
        == CurvedLocality(images=100, curvature="empirical_fisher").units(10)
        == 1200
    )


@pytest.mark.parametrize("name", NAMES)
def test_through_the_library(name: str) -> None:
    point = build_evidence()
    params: dict[str, Any] = {"lambda": 0.1}
    scores = score(point.model, name, point.batches, **params)
    expected = criteria.create(name, params).score(point)
    assert all(torch.equal(scores[key], expected[key]) for key in expected)
    with pytest.warns(UserWarning, match=f"{name} looks at 7 of 9 images"):
        few = score(point.model, name, point.batches, images=7)
    drawn = draw_from_batches(point.batches, Calibration(7), generator(0, "calibration"))
    again = criteria.create(name).score(Evidence(point.model, batches=drawn))
    assert all(torch.equal(few[key], value) for key, value in again.items())
    with pytest.raises(EvidenceError, match="needs data"):
        score(point.model, name, [])
