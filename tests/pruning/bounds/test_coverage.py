"""Bounds of whole networks against networks drawn anew: what is certified fails no more often than
it says.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.stats import binom
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.analysis.bound_study import Outcome, Study
from pruning.architectures._channel_map import ChannelMap
from pruning.bounds.forms import CERTIFIED, PrunedLayer
from pruning.rounds.method import PruningMethod
from pruning.types import Allocation, Budget, Keeps, Scores
from tests.support import cases
from tests.support.bound_cases import DETERMINISTIC, SAMPLERS, seeded

DELTA = 0.05
SHAPE = (1, 4, 4)


class Residual(nn.Module):
    """Convolutions with BatchNorm, a residual addition, a grouped one, and a flattening."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.norm = (
            nn.Conv2d(1, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.BatchNorm2d(6),
        )
        self.inner, self.grouped = (
            nn.Conv2d(6, 6, 3, padding=1, bias=False),
            nn.Conv2d(6, 6, 3, stride=2, groups=2),
        )
        self.fc = nn.Linear(6, 3)
        for norm in (self.one, self.norm):
            for values in (norm.weight.data, norm.running_var):
                values.uniform_(0.5, 1.5)
            norm.bias.data.normal_()

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.one(self.stem(x)))
        h = F.relu(self.norm(self.inner(h)) + h)
        return self.fc(F.relu(self.grouped(h)).flatten(1))


class Padded(ChannelMap):
    """A shortcut without weights."""

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, 0, 0, 1)).index_select(1, self.sources % (x.shape[1] + 1))


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 3)
    )


def flat() -> nn.Module:
    """A flattening makes 16 inputs of each channel, with weights of one sign."""
    net = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3))
    net[3].weight.data.abs_()
    net[0].bias.data.fill_(1.0)
    return net


NETWORKS: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "mlp": (mlp, False),
    "negative inputs": (mlp, True),
    "residual": (Residual, True),
    "flat": (flat, False),
}


class Remembering:
    """An allocation of the same scores again and again."""

    def __init__(self, allocation: Allocation) -> None:
        self.allocation, self.found = allocation, dict[int, Keeps]()

    def allocate(self, scores: Scores, budget: Budget) -> Keeps:
        if budget.keep not in self.found:
            self.found[budget.keep] = self.allocation.allocate(scores, budget)
        return self.found[budget.keep]


def images(count: int, signed: bool, seed: int = 0) -> Tensor:
    rng = seeded(seed)
    return (
        torch.randn(count, *SHAPE, generator=rng)
        if signed
        else torch.rand(count, *SHAPE, generator=rng)
    )


def study(
    network: str | nn.Module, method: dict[str, Any], scale: float = 1.0, **fields: Any
) -> Study:
    torch.manual_seed(7)
    build, negative = NETWORKS[network] if isinstance(network, str) else (lambda: network, True)
    model = build()
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.weight.data.mul_(scale)
    asked = cases.recipe(0.5, criterion=method, **fields)
    x = images(40, negative, 1)
    found = Study(
        model,
        PruningMethod.of(asked, asked.criteria[0]),
        [(x, torch.arange(40) % 3)],
        SHAPE,
        seeded(),
    )
    if found.sampled:
        allocation = Remembering(found.method.allocation)
        found.method = dataclasses.replace(found.method, allocation=allocation)
    return found


def outcomes(
    of: Study, seeds: int, signed: bool, sparsity: float = 0.5, delta: float = DELTA
) -> list[Outcome]:
    """Of networks drawn anew, components left out."""
    pruned = [of.prune(sparsity, 1 + seed, seeded(seed)) for seed in range(seeds)]
    return of.outcomes(pruned, images(3, signed, 2), delta)


def broken(found: list[Outcome], form: str) -> int:
    return sum(bool(torch.cat(one.violations[form]).any()) for one in found)


def covers(violations: int, trials: int, delta: float) -> bool:
    """Whether so many violations are no evidence, at 1 %, of a failure probability above delta."""
    return bool(violations == 0 or binom.sf(violations - 1, trials, delta) > 0.01)


def certified(found: list[Outcome]) -> list[str]:
    return [form for form in found[0].forms if form in CERTIFIED]


@pytest.mark.parametrize("method", SAMPLERS)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_few_draws_are_covered_whatever_the_weights_are_scaled_by(
    network: str, method: str
) -> None:
    scale = {"mlp": 10.0, "negative inputs": 1.0, "residual": 100.0, "flat": 1.0}[network]
    found = outcomes(study(network, SAMPLERS[method], scale), 4, NETWORKS[network][1])
    ball = ["ball", "ball bernstein"] if method.startswith("mussay") else []
    assert certified(found) == ["hoeffding", "bernstein", "minimum", *ball]
    for form in certified(found):
        assert broken(found, form) == 0, form
        assert all(bool((one[form] >= one["error"] * (1 - 1e-9)).all()) for one in found)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "scale", "method"),
    [
        *(("negative inputs", 1.0, method) for method in SAMPLERS),
        *(("residual", 10.0, method) for method in ("pfp top", "corenet corenet")),
        ("flat", 100.0, "mussay importance"),
    ],
)
def test_four_hundred_draws_are_covered(network: str, scale: float, method: str) -> None:
    few = {"name": "amplified", "params": {"repeats": 10, "division": "proportional"}}
    fields = {"sparsifier": few} if "plus_plus" in method else {}
    found = outcomes(study(network, SAMPLERS[method], scale, **fields), 400, NETWORKS[network][1])
    for form in certified(found):
        assert covers(broken(found, form), 400, DELTA), form


def one_sum() -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))
    net[1].weight.data.abs_()
    return net


@pytest.mark.parametrize(
    "method",
    [
        "sipp randomized",
        "corenet corenet",
        pytest.param("corenet plus_plus", marks=pytest.mark.slow),
    ],
)
def test_one_sum_of_a_sampler_is_covered_and_a_twentieth_of_its_bound_is_not(method: str) -> None:
    """With one output and one input the union is over two forms, two sides: the bound of the whole
    study has power.
    """
    of = study(one_sum(), SAMPLERS[method])
    pruned = [of.prune(0.6, 1 + seed, seeded(seed)) for seed in range(200)]
    found = of.outcomes(pruned, images(1, False, 2), 0.1)
    for form in ("hoeffding", "bernstein", "minimum"):
        errors, bounds = (
            torch.cat([one[key].flatten() for one in found]) for key in ("error", form)
        )
        assert covers(int((errors > bounds * (1 + 1e-9)).sum()), 200, 0.1)
        if "plus_plus" not in method:  # the union over its repeats is wide
            assert not covers(int((errors > bounds / 20).sum()), 200, 0.1)


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=pytest.mark.slow)
        if name in ("wanda", "random", "taylor")
        else name
        for name in DETERMINISTIC
    ],
)
@pytest.mark.parametrize("network", [*NETWORKS, "tiny"])
def test_what_is_not_drawn_is_never_further_off(network: str, method: str) -> None:
    """Sides of a single weight too, in the tiny one."""
    tiny = nn.Sequential(
        nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )
    of = study(tiny if network == "tiny" else network, DETERMINISTIC[method], 10.0)
    pruned = [of.prune(sparsity, 1, seeded()) for sparsity in (0.05, 0.2, 0.5, 0.6)]
    found = of.outcomes(pruned, images(5, True, 2), DELTA)
    assert "deterministic" in found[0].forms
    for form in certified(found):
        assert broken(found, form) == 0
        assert all(bool((one[form] >= one["error"] * (1 - 1e-9)).all()) for one in found)


def test_a_removed_channel_that_a_shortcut_carries_on_is_missed_there() -> None:
    """Channel 2 goes; what it carried into channel 3 of the sum goes too, though no weight of that
    sum's layer changes.
    """

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.fc = nn.Conv2d(1, 3, 1), nn.Conv2d(3, 4, 1), nn.Linear(4, 3)
            self.map = Padded(3, [-1, 0, 1, 2])
            self.a.weight.data = torch.tensor([1.0, 0.9, 1e-3]).reshape(3, 1, 1, 1)
            self.a.bias.data = torch.tensor([0.0, 0.0, 5.0])
            self.b.weight.data = torch.full((4, 3, 1, 1), 1e-3)

        def forward(self, x: Tensor) -> Tensor:
            h = F.relu(self.a(x))
            return self.fc((self.b(h) + self.map(h)).mean((2, 3)))

    of = study(Net(), {"name": "filter_norm"}, allocation={"name": "global"})
    pruned = of.prune(0.18, 0, seeded())
    assert pruned.masks["a.weight"].flatten().tolist() == [True, True, False]
    assert bool(pruned.masks["b.weight"].flatten(1).any(1).all())
    (found,) = of.outcomes([pruned], images(3, True), DELTA)
    assert bool((found["deterministic"] >= found["error"]).all())
    assert float(found["error"].amax()) > 1


def test_bounds_scale_with_the_last_layer() -> None:
    """The same draws, everything ten thousand times as large."""
    found = {}
    for scale in (1.0, 1e4):
        model = mlp_of(scale)
        found[scale] = outcomes(study(model, SAMPLERS["mussay importance"]), 2, True)
    for small, large in zip(found[1.0], found[1e4], strict=True):
        for form in ("error", "hoeffding", "bernstein", "minimum", "ball", "ball bernstein"):
            torch.testing.assert_close(large[form], 1e4 * small[form], rtol=1e-6, atol=1e-12)


def mlp_of(scale: float) -> nn.Module:
    torch.manual_seed(3)
    model = mlp()
    model[5].weight.data.mul_(scale)
    return model


@pytest.mark.parametrize(("scale", "holds"), [(1.0, True), (10.0, True), (100.0, False)])
def test_the_papers_form_of_mussay_fails_when_outgoing_weights_are_scaled(
    scale: float, holds: bool
) -> None:
    """It grows with the square root of what errors grow with, so it is not certified; the other
    forms hold.
    """
    found = outcomes(study(mlp_of(scale), SAMPLERS["mussay importance"]), 60, True, 0.6)
    assert covers(broken(found, "paper"), 60, DELTA) == holds
    assert "paper" not in CERTIFIED
    for form in certified(found):
        assert broken(found, form) == 0


def record_logarithms(study: Study) -> list[tuple[float, float, int]]:
    """The logarithms of each layer's bounds, and its repeats: a list that the study fills."""
    logarithms: list[tuple[float, float, int]] = []
    describe = study.layers.describe

    def spy(*args: Any) -> PrunedLayer:
        layer = describe(*args)
        logarithms.append((layer.log, layer.log_split, layer.law.repeats))
        return layer

    study.layers.describe = spy  # type: ignore[method-assign]
    return logarithms


def test_the_union_runs_over_all_sides_outputs_positions_inputs_and_repeats() -> None:
    of = study("residual", SAMPLERS["corenet plus_plus"])
    logs = record_logarithms(of)
    of.outcomes([of.prune(0.5, 1, seeded())], images(3, True), DELTA)
    terms = 2 * 3 * (6 * 16 + 6 * 16 + 6 + 3)
    assert len(logs) == 4
    for log, split, repeats in logs:
        assert log == pytest.approx(math.log(2 * terms * repeats / DELTA))
        assert split == pytest.approx(log + math.log(2))
    assert max(repeats for _, _, repeats in logs) > 1


class Joined(nn.Module):
    """A layer that reads four groups, each drawn by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.each, self.fc = (
            nn.ModuleList(nn.Conv2d(1, 4, 3, padding=1) for _ in range(4)),
            nn.Linear(16, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.cat([F.relu(one(x)) for one in self.each], 1).mean((2, 3)))


def test_a_layer_that_reads_several_groups_has_a_row_and_a_share_of_delta_for_each() -> None:
    torch.manual_seed(0)
    of = study(Joined(), SAMPLERS["pfp randomized"])
    pruned = of.prune(0.4, 1, seeded())
    assert len(pruned.laws["fc.weight"].draws) == 4
    logs = record_logarithms(of)
    (found,) = of.outcomes([pruned], images(2, True), DELTA)
    assert logs[0][0] == pytest.approx(math.log(2 * 4 * 2 * (4 * 64 + 3) / DELTA))
    assert broken([found], "minimum") == 0
