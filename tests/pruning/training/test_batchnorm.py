"""BatchNorm re-estimation: the statistics by hand, when they are kept, and what must not change."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.data.tensors import Data, Split
from pruning.errors import SecateurError
from pruning.seeding import generator, seeded
from pruning.training.batchnorm import BATCH, reestimate_
from tests.support import cases, oracles
from tests.support.pipelines import State


def net(seed: int = 1) -> nn.Sequential:
    """Two convolutions with BatchNorm, the statistics far from those of any data."""
    with seeded(seed):
        model = nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1),
            nn.BatchNorm2d(3),
            nn.ReLU(),
            nn.Conv2d(3, 2, 3, padding=1, bias=False),
            nn.BatchNorm2d(2, momentum=None),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(32, 3),
        ).eval()
        for layer in batchnorms(model):
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
            layer.get_buffer("running_mean").normal_().mul_(30)
            layer.get_buffer("running_var").uniform_().mul_(0.01)
            layer.get_buffer("num_batches_tracked").fill_(77)
    return model


def batchnorms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]


def state(model: nn.Module) -> State:
    return {key: value.clone() for key, value in model.state_dict().items()}


def changed(model: nn.Module, before: State) -> set[str]:
    return {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}


def split_by_hand(data: Data, seed: int, number: int) -> tuple[list[Tensor], Tensor]:
    """Indices of the batches and of the judges."""
    order = torch.randperm(len(data.fit), generator=generator(seed, "batchnorm", number)).tolist()
    judges = max(1, min(1000, len(order) // 3))
    sample = order[: min(2560, max(2, len(order) - judges))]
    number_of_batches = -(-len(sample) // BATCH)
    small, larger = divmod(len(sample), number_of_batches)
    sizes = [small + 1] * larger + [small] * (number_of_batches - larger)
    ends = list(itertools.accumulate(sizes))
    batches = [
        torch.tensor(sample[end - size : end]) for end, size in zip(ends, sizes, strict=True)
    ]
    return batches, torch.tensor(order[len(order) - judges :])


def statistics_by_hand(
    model: nn.Sequential, images: list[Tensor]
) -> tuple[list[tuple[Tensor, Tensor]], ...]:
    """Mean and unbiased variance of every batch at both layers, in float64; a batch is normalised
    by its own moments.
    """
    statistics: tuple[list[tuple[Tensor, Tensor]], ...] = ([], [])
    convolutions = [layer for layer in model if isinstance(layer, nn.Conv2d)]
    for x in images:
        x = x.double()
        for index, (conv, norm) in enumerate(zip(convolutions, batchnorms(model), strict=True)):
            bias = None if conv.bias is None else conv.bias.double()
            x = F.conv2d(x, conv.weight.double(), bias, padding=1)
            values = x.transpose(0, 1).flatten(1)
            mean, n = values.mean(1), values.shape[1]
            variance = ((values - mean[:, None]) ** 2).sum(1) / n
            statistics[index].append((mean, variance * n / (n - 1)))
            x = (x - mean[:, None, None]) / (variance[:, None, None] + norm.eps).sqrt()
            x = torch.relu(
                x * norm.weight.double()[:, None, None] + norm.bias.double()[:, None, None]
            )
    return statistics


@pytest.mark.parametrize("images", [2, 3, 40, 195, 300])
def test_the_statistics_are_the_averages_over_the_batches(images: int) -> None:
    data, model = cases.make_data(fit=images), net()
    before = state(model)
    batches, judges = split_by_hand(data, 4, 2)
    with torch.no_grad():
        per_batch = statistics_by_hand(
            model, [data.normalize(data.fit.images[index]) for index in batches]
        )
        judged = data.normalize(data.fit.images[judges])
        wanted = {"before": float(F.cross_entropy(model(judged), data.fit.labels[judges]))}
    estimated = reestimate_(model, data, 4, 2)
    assert estimated is not None
    assert estimated["kept"] == 1
    for layer, moments in zip(batchnorms(model), per_batch, strict=True):
        for buffer, values in (
            ("running_mean", [m for m, _ in moments]),
            ("running_var", [v for _, v in moments]),
        ):
            torch.testing.assert_close(
                layer.get_buffer(buffer).double(), torch.stack(values).mean(0), rtol=1e-4, atol=1e-5
            )
        assert int(layer.get_buffer("num_batches_tracked")) == len(batches)
    with torch.no_grad():
        wanted["after"] = float(F.cross_entropy(model(judged), data.fit.labels[judges]))
    assert {key: estimated[key] for key in wanted} == pytest.approx(wanted, rel=1e-5)
    assert changed(model, before) == {
        f"{index}.{name}"
        for index in (1, 4)
        for name in ("running_mean", "running_var", "num_batches_tracked")
    }


class Recording(nn.Module):
    """Remembers which images it sees, and whether its BatchNorm trains then; an image is its
    number, in base 256.
    """

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm2d(1), nn.Linear(3, 2)
        self.passes: list[tuple[bool, list[int]]] = []

    def forward(self, x: Tensor) -> Tensor:
        pixels = (x * 255).round().long().flatten(1)
        self.passes.append((self.norm.training, (pixels[:, 0] * 256 + pixels[:, 1]).tolist()))
        out: Tensor = self.head(self.norm(x).flatten(1))
        return out


def numbered(images: int) -> Data:
    number = torch.arange(images)
    pixels = (
        torch.stack([number // 256, number % 256, number % 7], 1)
        .to(torch.uint8)
        .view(images, 1, 1, 3)
    )
    split = Split(pixels, number % 2)
    return Data(fit=split, val=split, test=split, classes=("a", "b"), mean=(0.0,), std=(1.0,))


@pytest.mark.parametrize(
    ("images", "sizes", "judges"),
    [
        (2, [2], 1),
        (3, [2], 1),
        (4, [3], 1),
        (40, [27], 13),
        (192, [128], 64),
        (193, [65, 64], 64),
        (3000, [125] * 16, 256),
        (4000, [128] * 20, 256),
    ],
)
def test_images_that_judge_are_not_those_the_statistics_come_from(
    images: int, sizes: list[int], judges: int
) -> None:
    model, data = Recording(), numbered(images)
    reestimate_(model, data, 0, 1)
    trained = [numbers for training, numbers in model.passes if training]
    assert [len(numbers) for numbers in trained] == sizes
    sample = set(itertools.chain.from_iterable(trained))
    assert len(sample) == sum(sizes)
    looks = list(
        itertools.chain.from_iterable(numbers for training, numbers in model.passes if not training)
    )
    assert looks[:judges] == looks[judges:], "judged on the same images before and after"
    assert len(set(looks)) == judges
    assert len(sample & set(looks)) == (1 if images == 2 else 0)


def test_rounds_and_seeds_take_other_images() -> None:
    def sample(seed: int, number: int) -> list[tuple[bool, list[int]]]:
        model = Recording()
        reestimate_(model, numbered(100), seed, number)
        return model.passes

    assert sample(0, 1) == sample(0, 1)
    assert sample(0, 1) != sample(0, 2) != sample(1, 1) != sample(0, 1)


# kept only where the loss falls


def told(model: nn.Module, data: Data) -> Data:
    """The data with the labels that the model gives them: no other statistics can do better."""
    with torch.no_grad():
        answers = model.eval()(data.normalize(data.fit.images)).argmax(1)
    return dataclasses.replace(data, fit=Split(data.fit.images, answers))


def confident(model: nn.Sequential) -> nn.Sequential:
    with torch.no_grad():
        for parameter in model[-1].parameters():
            parameter.mul_(100)
    return model


def test_worse_statistics_are_not_kept_and_every_buffer_is_as_before() -> None:
    model = confident(net())
    data = told(model, cases.make_data(fit=60))
    before = state(model)
    estimated = reestimate_(model, data, 0, 1)
    assert estimated is not None
    assert estimated["kept"] == 0
    assert estimated["after"] > estimated["before"]
    assert changed(model, before) == set()
    assert [int(model.get_buffer(f"{index}.num_batches_tracked")) for index in (1, 4)] == [77, 77]


def test_better_statistics_are_kept() -> None:
    model = confident(net())
    right = state(model)
    data = told(model, cases.make_data(fit=60))
    for index in (1, 4):
        nn.init.constant_(model.get_buffer(f"{index}.running_mean"), 1e3)
    reference = reestimate_(model, data, 0, 1)
    assert reference is not None
    assert reference["kept"] == 1
    assert reference["after"] < reference["before"]
    assert not torch.equal(model.get_buffer("1.running_mean"), right["1.running_mean"])


def test_an_equal_loss_keeps_what_was_there() -> None:
    model = net()
    for parameter in model[-1].parameters():
        nn.init.zeros_(parameter)  # the output does not depend on the statistics
    before = state(model)
    estimated = reestimate_(model, cases.make_data(), 0, 1)
    assert estimated is not None
    assert estimated["before"] == estimated["after"] == pytest.approx(1.0986, abs=1e-4)
    assert (estimated["kept"], changed(model, before)) == (0, set())


@pytest.mark.parametrize("broken", [float("nan"), -float("inf")])
def test_a_loss_that_is_no_number_is_worse_than_any(broken: float) -> None:
    model = net()
    nn.init.constant_(model.get_buffer("1.running_mean"), broken)
    estimated = reestimate_(model, cases.make_data(), 0, 1)
    assert estimated is not None
    assert estimated["kept"] == 1
    assert estimated["before"] == torch.finfo(torch.float32).max
    assert estimated["after"] < 1e6
    assert torch.isfinite(model.get_buffer("1.running_mean")).all()
    hopeless = net()
    nn.init.constant_(hopeless[-1].get_parameter("bias"), broken)
    before = state(hopeless)
    estimated = reestimate_(hopeless, cases.make_data(), 0, 1)
    assert estimated is not None
    assert (estimated["kept"], estimated["before"], estimated["after"]) == (
        0,
        *[torch.finfo(torch.float32).max] * 2,
    )
    assert all(
        torch.equal(value, before[key])
        for key, value in hopeless.state_dict().items()
        if "bias" not in key
    )


# what takes part, and what must not change


def test_networks_without_running_statistics_have_nothing_to_estimate() -> None:
    assert reestimate_(cases.mlp(), cases.make_data(), 0, 1) is None
    for tracked in ({"track_running_stats": False}, {}):
        norm = nn.BatchNorm2d(1, **tracked)
        if not tracked:
            norm.track_running_stats = False  # its buffers are there, but no training moves them
        model = nn.Sequential(norm, nn.Flatten(), nn.Linear(16, 3))
        before = state(model)
        assert reestimate_(model, cases.make_data(), 0, 1) is None
        assert changed(model, before) == set()


def test_a_single_image_has_nothing_to_estimate_from() -> None:
    model = net()
    before = state(model)
    assert reestimate_(model, cases.make_data(fit=1), 0, 1) is None
    assert changed(model, before) == set()


def test_a_layer_that_no_pass_reaches_stays_as_it_is() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.spare = net(), nn.BatchNorm2d(2)
            nn.init.constant_(self.spare.get_buffer("running_mean"), 5)
            self.spare.get_buffer("num_batches_tracked").fill_(9)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.inner(x)
            return out

    model = Spare()
    before = state(model)
    estimated = reestimate_(model, cases.make_data(), 0, 1)
    assert estimated is not None
    assert estimated["kept"] == 1
    assert {key.split(".")[0] for key in changed(model, before)} == {"inner"}


@pytest.mark.parametrize("modes", ["train", "eval", "frozen", "mixed"])
def test_modes_momenta_gradients_and_the_global_generator_stay(modes: str) -> None:
    model = net().train(modes != "eval")
    if modes in ("frozen", "mixed"):
        model[1].eval()
        for parameter in model[1].parameters():
            parameter.requires_grad_(False)
    before, flags = (
        oracles.module_modes(model),
        [parameter.requires_grad for parameter in model.parameters()],
    )
    momenta = [layer.momentum for layer in batchnorms(model)]
    weights, random = state(model), torch.get_rng_state()
    estimated = reestimate_(model, cases.make_data(), 0, 1)
    assert estimated is not None
    assert estimated["kept"] == 1
    assert "1.running_mean" in changed(model, weights), "frozen layers take part"
    assert all("running" in key or "num_batches" in key for key in changed(model, weights))
    assert oracles.module_modes(model) == before
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert [layer.momentum for layer in batchnorms(model)] == momenta == [0.1, None]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    again = net()
    reestimate_(again, cases.make_data(), 0, 1)
    assert all(
        torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items()
    )


def test_momenta_and_modes_come_back_also_after_an_error() -> None:
    class Breaking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(1, momentum=0.3)

        def forward(self, x: Tensor) -> Tensor:
            if self.norm.training:
                raise SecateurError("out of memory")
            out: Tensor = self.norm(x).flatten(1)[:, :3]
            return out

    model = Breaking().train()
    with pytest.raises(SecateurError, match="out of memory"):
        reestimate_(model, cases.make_data(), 0, 1)
    assert (model.norm.momentum, model.norm.training, model.training) == (0.3, True, True)
