"""BackSelect against the loop of the paper's code, and the pixels and confidences that follow from
it by hand.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pruning.analysis.back_select
import pruning.evaluations.informative_features
from pruning.analysis.back_select import (
    find_informative_pixels,
    number_blocks,
    optimise_for_inference,
    select_backwards,
)
from pruning.analysis.shifts import draw_sample, name_networks
from pruning.errors import ParameterError
from pruning.evaluations import evaluations
from pruning.evaluations.informative_features import InformativeFeatures
from pruning.library import load_model
from pruning.schemas.report import Picture
from pruning.seeding import seeded
from tests.support import cases
from tests.support.finished_records import finish_job as finished
from tests.support.finished_records import make_record as trial_of


def select_naively(model: nn.Module, image: Tensor, target: int, block: int) -> list[int]:
    """The order by one mask at a time, as the definition reads."""
    height, width = image.shape[1:]
    corners = list(itertools.product(range(0, height, block), range(0, width, block)))
    current, order = image.clone(), []
    for _ in corners:
        best, surest = -1, -1.0
        for number, (top, left) in enumerate(corners):
            if number in order:
                continue
            masked = current.clone()
            masked[:, top : top + block, left : left + block] = 0
            with torch.no_grad():
                confidence = float(model(masked[None]).double().softmax(1)[0, target])
            if confidence > surest:
                best, surest = number, confidence
        order.append(best)
        top, left = corners[best]
        current[:, top : top + block, left : left + block] = 0
    return order


def make_convolutional(channels: int, height: int, width: int, seed: int = 0) -> nn.Module:
    with seeded(seed):
        net = nn.Sequential(
            nn.Conv2d(channels, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(4 * height * width, 3),
        )
        net(torch.randn(16, channels, height, width))  # statistics
    return net.double().eval()


@pytest.mark.parametrize("block", [1, 2, 3])
@pytest.mark.parametrize("shape", [(1, 5, 4), (3, 4, 5), (3, 1, 3), (1, 1, 1)])
def test_the_order_is_that_of_the_naive_loop(shape: tuple[int, int, int], block: int) -> None:
    net, rng = make_convolutional(*shape), torch.Generator().manual_seed(1)
    for target in range(3):
        image = torch.randn(shape, generator=rng, dtype=torch.float64)
        before = image.clone()
        order = select_backwards(net.train(), image, target, block)
        assert net.training
        assert torch.equal(image, before)
        assert order.tolist() == select_naively(net.eval(), image, target, block)
        assert sorted(order.tolist()) == list(
            range(int(number_blocks(*shape[1:], block).max()) + 1)
        )


def test_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    net = make_convolutional(1, 5, 5)
    image = torch.randn(1, 5, 5, generator=torch.Generator(), dtype=torch.float64)
    whole = select_backwards(net, image, 2)
    monkeypatch.setattr(pruning.analysis.back_select, "BATCH", 7)
    assert torch.equal(select_backwards(net, image, 2), whole)


class Sums(nn.Module):
    """Logits that are exact in any order: ties are ties."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, x: Tensor) -> Tensor:
        total = (x.flatten(1) * self.weights).sum(1, keepdim=True)
        return torch.cat([total, torch.zeros_like(total)], 1)


@pytest.mark.parametrize("batch", [2, 256])
def test_of_equal_pixels_the_first_is_hidden(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning.analysis.back_select, "BATCH", batch)
    ones = torch.ones(1, 3, 3)
    assert select_backwards(Sums(torch.zeros(9)), ones, 0).tolist() == list(range(9))
    weights = torch.tensor([1.0, 0, 2, 0, 1, 2, 0, 2, 1])
    assert select_backwards(Sums(weights), ones, 0).tolist() == [1, 3, 6, 0, 4, 8, 2, 5, 7]
    assert select_backwards(Sums(weights), ones, 1).tolist() == [2, 5, 7, 0, 4, 8, 1, 3, 6]
    assert select_backwards(Sums(torch.full((9,), 1e30)), ones, 0).tolist() == list(range(9)), (
        "as sure as can be"
    )
    assert select_backwards(Sums(torch.full((9,), float("inf"))), ones, 0).tolist() == list(
        range(9)
    ), "no number at all"


@pytest.mark.parametrize("share", [0.01, 0.1, 0.29, 0.3, 0.5, 0.7, 1.0])
@pytest.mark.parametrize(
    ("height", "width", "block"), [(10, 10, 1), (5, 7, 2), (4, 4, 4), (32, 32, 1)]
)
def test_informative_are_as_many_whole_blocks_as_fit_the_share(
    share: float, height: int, width: int, block: int
) -> None:
    numbers = number_blocks(height, width, block)
    order = torch.randperm(int(numbers.max()) + 1, generator=torch.Generator().manual_seed(3))
    kept = find_informative_pixels(order, numbers, share)
    room = round(share * height * width, 6)
    wanted: set[int] = set()
    for number in reversed(order.tolist()):
        size = int((numbers == number).sum())
        if wanted and size > room:
            break
        room -= size
        wanted.add(number)
    assert set(numbers[kept].tolist()) == wanted
    assert not set(numbers[~kept].tolist()) & wanted
    if block == 1 and height == 32 and share == 0.1:
        assert int(kept.sum()) == 102, "as in the paper"


class Viewing(nn.Module):
    """A network whose `view` refuses tensors with their channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4 * 4 * 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).view(len(x), -1))


class Branching(nn.Module):
    """A network that cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc = nn.BatchNorm2d(3), nn.Linear(90, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(x).flatten(1)) if float(x.sum()) < 1e9 else self.fc(x.flatten(1))


@pytest.mark.parametrize(
    "net",
    [
        Viewing,
        Branching,
        lambda: cases.mlp(inputs=90, hidden=4),
        lambda: make_convolutional(3, 6, 5).float(),
        lambda: load_model("cifar_resnet", depth=8),
    ],
)
def test_the_optimised_network_answers_alike_and_leaves_the_network_alone(net: Any) -> None:
    with seeded(0):
        model = net()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    images = torch.randn(5, 3, 6, 5, generator=torch.Generator().manual_seed(0))
    model.train()
    before = {key: (value.clone(), value.stride()) for key, value in model.state_dict().items()}
    quick = optimise_for_inference(model, images[0])
    assert model.training
    assert not quick.training
    assert all(
        torch.equal(value, before[key][0]) and value.stride() == before[key][1]
        for key, value in model.state_dict().items()
    )
    with torch.no_grad():
        torch.testing.assert_close(
            quick(images).softmax(1), model.eval()(images).softmax(1), rtol=0, atol=1e-5
        )
    assert len(select_backwards(quick, images[0], 1, 3)) == 4


@pytest.fixture
def drawings(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The arguments of the last drawing of each kind."""
    arguments: dict[str, Any] = {}
    for name in ("draw_grid", "draw_heatmap"):

        def draw(*args: Any, name: str = name, **fields: Any) -> Picture:
            arguments[name] = args
            return Picture(caption="", png="")

        monkeypatch.setattr(pruning.evaluations.informative_features, name, draw)
    return arguments


def test_the_heatmap_by_hand(tmp_path: Path, drawings: dict[str, Any]) -> None:
    trial = trial_of(finished(cases.recipe(0.5, 0.9, retrain={"mode": "none"}), tmp_path))
    section = InformativeFeatures(images=3, share=0.3, block=1).evaluate(trial)
    networks = [
        network for network in name_networks(trial) if network.name != "control"
    ]  # not retrained: one dense network
    split = draw_sample(trial, 3)
    inputs, matrix = trial.data.normalize(split.images), []
    for network in networks:
        net, informative = network.load(), []
        for image in inputs:
            order = select_naively(net, image, int(net(image[None]).argmax()), 1)
            mask = torch.zeros(16)
            mask[order[-4:]] = 1  # 0.3 of 16
            informative.append(image * mask.reshape(4, 4))
        with torch.no_grad():
            matrix.append(
                [
                    sum(
                        float(other.load()(image[None]).softmax(1)[0, label])
                        for image, label in zip(informative, split.labels, strict=True)
                    )
                    / 3
                    for other in networks
                ]
            )
    rows = section.details["confidence_on_informative_pixels"]
    assert (
        [row["pixels_of"] for row in rows]
        == [network.name for network in networks]
        == ["given", "magnitude-0.5", "magnitude-0.9"]
    )
    for row, wanted in zip(rows, matrix, strict=True):
        assert [row[f"confidence {network.name}"] for network in networks] == pytest.approx(
            wanted, abs=1e-6
        )
    assert drawings["draw_heatmap"][0] == [pytest.approx(row, abs=1e-6) for row in matrix]
    assert drawings["draw_heatmap"][1] == [network.name for network in networks]
    tiles = drawings["draw_grid"][0]
    assert [name for name, _ in tiles] == 3 * ["image", *(network.name for network in networks)]
    json.dumps(section.model_dump(mode="json"), allow_nan=False)


def test_of_many_checkpoints_the_ends_and_what_lies_between(
    tmp_path: Path, drawings: dict[str, Any]
) -> None:
    targets = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    trial = trial_of(finished(cases.recipe(*targets, retrain={"mode": "none"}), tmp_path))
    for most in range(3, 9):
        section = InformativeFeatures(images=1, share=1, block=4, most=most).evaluate(trial)
        names = [row["pixels_of"] for row in section.details["confidence_on_informative_pixels"]]
        assert len(names) == len(set(names)) == min(most, 7)
        assert (names[0], names[1], names[-1]) == ("given", "magnitude-0.2", "magnitude-0.7")


def test_the_block_is_the_smallest_that_fits_the_work(
    tmp_path: Path, drawings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = trial_of(finished(cases.recipe(0.5, retrain={"mode": "none"}), tmp_path))
    for work, block in (
        (2 * 114 * 136, 1),
        (2 * 114 * 136 - 1, 2),
        (2 * 114 * 10, 2),
        (2 * 114 * 10 - 1, 4),
        (1, 4),
    ):
        monkeypatch.setattr(pruning.evaluations.informative_features, "WORK", work)
        params = {"images": 1, "share": 1}
        section = evaluations.create("informative_features", params).evaluate(trial)
        assert any(f"blocks of {block} x {block} pixels" in note for note in section.notes)


def test_a_block_is_never_more_than_the_share_and_what_is_kept_is_told(
    tmp_path: Path, drawings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = trial_of(finished(cases.recipe(0.5, retrain={"mode": "none"}), tmp_path))
    monkeypatch.setattr(pruning.evaluations.informative_features, "WORK", 1)
    for share, block, kept in ((0.1, 1, "6.2 %"), (0.3, 2, "25.0 %"), (1.0, 4, "100.0 %")):
        section = InformativeFeatures(images=2, share=share).evaluate(trial)
        rows = section.details["confidence_on_informative_pixels"]
        assert {row["share_kept"] for row in rows} == {int(share * 16 / block**2) * block**2 / 16}
        (note,) = (note for note in section.notes if "blocks of" in note)
        assert f"blocks of {block} x {block} pixels, {kept} of the pixels kept" in note
        assert drawings["draw_heatmap"][4].endswith(f"on {kept} of the pixels")
        assert kept in drawings["draw_grid"][1]
    with pytest.raises(ParameterError, match="block is at most 1 here") as refused:
        InformativeFeatures(images=2, block=2).evaluate(trial)
    assert refused.value.pointer == "block"
