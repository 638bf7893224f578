"""Sensitivities of edges against the definition, by single images, outputs and positions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from pruning.criteria.sipp import SiPP
from pruning.errors import EvidenceError
from pruning.evidence import sensitivities as module
from pruning.evidence.evidence import Evidence
from pruning.evidence.sensitivities import (
    Positions,
    compute_sample_size,
    compute_sensitivities,
    count_output_positions,
)
from pruning.library import load_model
from pruning.masks import find_prunable
from pruning.networks.layers import Layer, Use, count_groups, extract_patches, record_uses
from pruning.types import Scores
from tests.support import cases


def split_point(inputs: Tensor) -> list[Tensor]:
    """Split an image into one or two points.

    Whether it is one or two depends on all images that the layer sees together.
    """
    return [inputs.clamp_min(0.0), (-inputs).clamp_min(0.0)]


def compute_parts(use: Use, weight: Tensor, inputs: Tensor) -> Tensor:
    """Compute g_ij(x, p) of one non-negative point by the definition, (out, K, positions)."""
    patches = extract_patches(use.layer, inputs[None])[0]  # (G, K, P)
    shares = torch.zeros(len(weight), weight[0].numel(), patches.shape[-1], dtype=torch.float64)
    for i, row in enumerate(weight.flatten(1)):
        columns = patches[i // (len(weight) // count_groups(use.layer))]
        for p in range(columns.shape[-1]):
            for j, w in enumerate(row):
                z = sum(
                    (
                        abs(float(v)) * float(a)
                        for v, a in zip(row, columns[:, p], strict=True)
                        if v * w > 0
                    ),
                    0.0,
                )
                if z > 2.0**-23 and float(w) != 0:
                    shares[i, j, p] = abs(float(w)) * float(columns[j, p]) / z
    return shares


def compute_slowly(
    model: nn.Module, batches: list[tuple[Tensor, Tensor]]
) -> dict[Positions, Scores]:
    """Compute the sensitivities by the mean over positions, and by their maximum."""
    scores: dict[Positions, Scores] = {"mean": {}, "max": {}}
    model.eval()
    for name, weight in find_prunable(model).items():
        zeros = torch.zeros(len(weight), weight[0].numel(), dtype=torch.float64)
        worst: dict[Positions, Tensor] = {"mean": zeros, "max": zeros}
        for images, _ in batches:
            with torch.no_grad(), record_uses(model, [name]) as uses:
                model(images)
            for use in uses[name]:
                for image in use.inputs:
                    for point in split_point(image):
                        shares = compute_parts(use, weight.detach(), point)
                        worst["mean"] = torch.maximum(worst["mean"], shares.mean(-1))
                        worst["max"] = torch.maximum(worst["max"], shares.amax(-1))
        for positions, values in worst.items():
            scores[positions][name] = values.reshape(weight.shape)
    return scores


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[pytest.mark.slow] if case == "grouped" else [])
        for case in cases.AWKWARD
    ],
)
def test_sensitivities_are_those_of_the_definition(case: str) -> None:
    model, batches = cases.awkward(case)
    model = model.double()
    batches = [(x.double(), y) for x, y in batches]
    for positions, expected in compute_slowly(model, batches).items():
        sensitivities = compute_sensitivities(model, list(find_prunable(model)), batches, positions)
        for name in expected:
            torch.testing.assert_close(sensitivities[name], expected[name], rtol=1e-12, atol=1e-12)
            assert bool((sensitivities[name] <= 1 + 1e-12).all())
            assert bool((sensitivities[name] >= 0).all())


@pytest.mark.parametrize("positions", ["mean", "max"])
def test_memory_and_batches_do_not_matter(
    monkeypatch: pytest.MonkeyPatch, positions: Positions
) -> None:
    model = cases.conv_net().double()
    inputs = torch.randn(
        9, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    names = list(find_prunable(model))
    labels = torch.zeros(9)
    whole = compute_sensitivities(model, names, [(inputs, labels)], positions)
    largest = 0

    def watched(layer: Layer, inputs: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, len(inputs))
        return extract_patches(layer, inputs)

    monkeypatch.setattr(module, "BYTES", 1)
    monkeypatch.setattr(module, "CACHE", 1)
    monkeypatch.setattr(module, "extract_patches", watched)
    single = compute_sensitivities(
        model, names, [(inputs[:4], labels[:4]), (inputs[4:], labels[4:])], positions
    )
    assert largest == 1, "with no memory to spare, one image at a time"
    for name in names:
        torch.testing.assert_close(single[name], whole[name], rtol=1e-12, atol=0)


@pytest.mark.parametrize("positions", ["mean", "max"])
def test_sensitivities_do_not_depend_on_the_scale_of_a_filter(positions: Positions) -> None:
    model = cases.conv_net().double()
    batches = [(torch.rand(5, 1, 4, 4, dtype=torch.float64), torch.zeros(5))]
    before = compute_sensitivities(model, ["0.weight"], batches, positions)["0.weight"]
    with torch.no_grad():
        model.get_parameter("0.weight").mul_(
            torch.tensor([1.0, 3.0, 0.5, 100.0], dtype=torch.float64)[:, None, None, None]
        )
    after = compute_sensitivities(model, ["0.weight"], batches, positions)["0.weight"]
    torch.testing.assert_close(after, before, rtol=1e-12, atol=0)


def test_the_parts_of_a_side_sum_to_one_at_least() -> None:
    """Each image's parts sum to one where the side receives anything, and the maximum over images
    is no less.
    """
    model = cases.mlp().double()
    batches = [(torch.rand(5, 1, 4, 4, dtype=torch.float64) + 0.1, torch.zeros(5))]
    sensitivities = compute_sensitivities(model, ["1.weight"], batches, "mean")["1.weight"]
    for side in (model.get_parameter("1.weight") > 0, model.get_parameter("1.weight") < 0):
        sums = (sensitivities * side).sum(1)
        assert bool((sums[side.any(1)] >= 1 - 1e-12).all())


def test_sums_of_nothing_give_nothing() -> None:
    model = nn.Linear(3, 2)
    nn.init.ones_(model.weight)
    for value in (0.0, 2.0**-23 / 3):
        sensitivities = compute_sensitivities(
            model, ["weight"], [(torch.full((2, 3), value), torch.zeros(2))], "max"
        )
        assert not sensitivities["weight"].any()
    sensitivities = compute_sensitivities(
        model, ["weight"], [(torch.full((2, 3), 2.0**-22), torch.zeros(2))], "max"
    )
    torch.testing.assert_close(sensitivities["weight"], torch.full((2, 3), 1 / 3))


def test_inputs_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(EvidenceError, match=r"weight: the inputs of its layer are not finite"):
        compute_sensitivities(
            nn.Linear(1, 1), ["weight"], [(torch.tensor([[math.nan]]), torch.zeros(1))], "mean"
        )


def test_sample_sizes_of_the_released_code() -> None:
    lenet = load_model("lenet_300_100", channels=1, height=28, width=28, classes=10)
    positions = count_output_positions(lenet, list(find_prunable(lenet)), torch.zeros(1, 1, 28, 28))
    assert compute_sample_size(lenet, positions, delta=1e-16, c=3.0) == 152
    resnet = load_model("cifar_resnet", depth=20)
    images = torch.zeros(1, 3, 32, 32)
    positions = count_output_positions(resnet, list(find_prunable(resnet)), images)
    assert compute_sample_size(resnet, positions, delta=1e-16, c=3.0) == 183


def test_sipp_takes_the_first_images_of_its_sample() -> None:
    model = cases.mlp().double()
    inputs = torch.randn(
        400, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    batches = [(inputs[:300], torch.zeros(300)), (inputs[300:], torch.zeros(100))]
    positions = count_output_positions(model, list(find_prunable(model)), inputs[:1])
    size = compute_sample_size(model, positions, delta=1e-16, c=3.0)
    assert size == math.ceil(3 * math.log(8 * 6 * 9 / 1e-16)) < SiPP().calibration(3).images < 300
    scores = SiPP().score(Evidence(model, batches=batches))
    expected = compute_sensitivities(
        model, list(find_prunable(model)), [(inputs[:size], torch.zeros(size))], "mean"
    )
    assert all(torch.equal(scores[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 6, 3, padding=1), (4, 7, 5)),
        (nn.Conv2d(4, 6, (3, 2), stride=(2, 3), padding=(1, 0), bias=False), (4, 9, 8)),
        (nn.Conv2d(4, 6, 3, dilation=(2, 1), groups=2, padding=2), (4, 7, 8)),
        (nn.Conv2d(4, 8, 3, groups=4, stride=2, padding=1, padding_mode="reflect"), (4, 8, 8)),
        (nn.Conv2d(4, 6, 4, padding="same", padding_mode="circular"), (4, 6, 6)),
        (nn.Conv2d(4, 6, 1, stride=2), (4, 5, 5)),
        (nn.Linear(5, 4), (3, 5)),
        (nn.Linear(5, 4), (2, 3, 5)),
        (nn.Linear(5, 4), (5,)),
    ],
)
def test_products_by_offset_are_those_of_patches(layer: Layer, shape: tuple[int, ...]) -> None:
    """The product of matrices on the CPU, and the maxima of products as they are written."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, *shape, generator=generator, dtype=torch.float64).relu()
    groups = count_groups(layer)
    rows = layer.weight.detach().double().reshape(groups, len(layer.weight) // groups, -1)
    signs = torch.cat([rows.clamp_min(0.0), (-rows).clamp_min(0.0)], 1)
    patches = extract_patches(layer, inputs)
    inverse = module._invert_sums(signs @ patches)
    expected = module._maximise_positions(inverse, patches)
    offsets = module._maximise_by_offset(layer, inputs, signs)
    torch.testing.assert_close(offsets, expected, rtol=1e-12, atol=0)
