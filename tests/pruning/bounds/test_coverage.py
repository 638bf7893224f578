"""Bounds of whole networks against networks drawn again and again: certified forms fail no more
often than they say.
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
from tests.support.bound_cases import DETERMINISTIC, SAMPLERS, remembered, seeded

__all__ = ["remembered"]

DELTA = 0.05
SHAPE = (1, 4, 4)


class Residual(nn.Module):
    """Convolutions with BatchNorm, a residual addition, a grouped one, and a flattening."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.stem_norm = nn.BatchNorm2d(6)
        self.inner = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.grouped = nn.Conv2d(6, 6, 3, stride=2, groups=2)
        self.fc = nn.Linear(6, 3)
        for norm in (self.stem_norm, self.norm):
            assert norm.running_var is not None
            for values in (norm.weight.data, norm.running_var):
                values.uniform_(0.5, 1.5)
            norm.bias.data.normal_()

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.stem_norm(self.stem(x)))
        h = F.relu(self.norm(self.inner(h)) + h)
        return self.fc(F.relu(self.grouped(h)).flatten(1))


class Padded(ChannelMap):
    """A shortcut without weights."""

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, 0, 0, 1)).index_select(1, self.sources % (x.shape[1] + 1))


def make_mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 3)
    )


def make_flat() -> nn.Module:
    """A flattening makes 16 inputs of each channel, with weights of one sign."""
    net = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3))
    net.get_parameter("3.weight").data.abs_()
    net.get_parameter("0.bias").data.fill_(1.0)
    return net


NETWORKS: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "mlp": (make_mlp, False),
    "negative inputs": (make_mlp, True),
    "residual": (Residual, True),
    "flat": (make_flat, False),
}


class Remembering:
    """An allocation of the same scores again and again."""

    def __init__(self, allocation: Allocation) -> None:
        self.allocation = allocation
        self.keeps = dict[int, Keeps]()

    def allocate(self, scores: Scores, budget: Budget) -> Keeps:
        if budget.keep not in self.keeps:
            self.keeps[budget.keep] = self.allocation.allocate(scores, budget)
        return self.keeps[budget.keep]


def make_images(count: int, signed: bool, seed: int = 0) -> Tensor:
    rng = seeded(seed)
    return (
        torch.randn(count, *SHAPE, generator=rng)
        if signed
        else torch.rand(count, *SHAPE, generator=rng)
    )


def make_study(
    network: str | nn.Module, method: dict[str, Any], scale: float = 1.0, **fields: Any
) -> Study:
    torch.manual_seed(7)
    build, negative = NETWORKS[network] if isinstance(network, str) else (lambda: network, True)
    model = build()
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.weight.data.mul_(scale)
    recipe = cases.recipe(0.5, criterion=method, **fields)
    x = make_images(40, negative, 1)
    study = Study(
        model,
        PruningMethod.of(recipe, recipe.criteria[0]),
        [(x, torch.arange(40) % 3)],
        SHAPE,
        seeded(),
    )
    if study.sampled:
        allocation = Remembering(study.method.allocation)
        study.method = dataclasses.replace(study.method, allocation=allocation)
    return study


def bound_prunings(
    study: Study, seeds: int, signed: bool, sparsity: float = 0.5, delta: float = DELTA
) -> list[Outcome]:
    """The outcomes of networks drawn with each seed, components left out."""
    pruned = [study.prune(sparsity, 1 + seed, seeded(seed)) for seed in range(seeds)]
    return study.outcomes(pruned, make_images(3, signed, 2), delta)


def count_broken(outcomes: list[Outcome], form: str) -> int:
    return sum(bool(torch.cat(outcome.violations[form]).any()) for outcome in outcomes)


def covers(violations: int, trials: int, delta: float) -> bool:
    """Whether the violations are no evidence, at 1 %, of a failure probability above delta."""
    return bool(violations == 0 or binom.sf(violations - 1, trials, delta) > 0.01)


def list_certified(outcomes: list[Outcome]) -> list[str]:
    return [form for form in outcomes[0].forms if form in CERTIFIED]


@pytest.mark.parametrize(
    ("network", "method"),
    [
        *(
            pytest.param(
                "residual", method, marks=[] if method == "sipp randomized" else pytest.mark.slow
            )
            for method in SAMPLERS
        ),
        ("mlp", "sipp hybrid"),
        ("flat", "pfp top"),
        ("flat", "mussay importance"),
    ],
)
def test_a_few_draws_are_covered_whatever_the_weights_are_scaled_by(
    network: str, method: str
) -> None:
    scale = {"mlp": 10.0, "negative inputs": 1.0, "residual": 100.0, "flat": 1.0}[network]
    outcomes = bound_prunings(make_study(network, SAMPLERS[method], scale), 4, NETWORKS[network][1])
    ball = ["ball", "ball bernstein"] if method.startswith("mussay") else []
    assert list_certified(outcomes) == ["hoeffding", "bernstein", "minimum", *ball]
    for form in list_certified(outcomes):
        assert count_broken(outcomes, form) == 0, form
        assert all(
            bool((outcome[form] >= outcome["error"] * (1 - 1e-9)).all()) for outcome in outcomes
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "scale", "method"),
    [
        *(("negative inputs", 1.0, method) for method in SAMPLERS),
        *(("residual", 10.0, method) for method in ("pfp top", "corenet corenet")),
        ("flat", 100.0, "mussay importance"),
    ],
)
def test_two_hundred_draws_are_covered(network: str, scale: float, method: str) -> None:
    few = {"name": "amplified", "params": {"repeats": 10, "division": "proportional"}}
    fields = {"sparsifier": few} if "plus_plus" in method else {}
    outcomes = bound_prunings(
        make_study(network, SAMPLERS[method], scale, **fields), 200, NETWORKS[network][1]
    )
    for form in list_certified(outcomes):
        assert covers(count_broken(outcomes, form), 200, DELTA), form


def make_one_sum() -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))
    net.get_parameter("1.weight").data.abs_()
    return net


@pytest.mark.slow
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
    study has power. Of 60 draws at delta = 0.1 up to 12 violations are no evidence, and a twentieth
    of the bound is exceeded far more often.
    """
    draws = 60
    study = make_study(make_one_sum(), SAMPLERS[method])
    pruned = [study.prune(0.6, 1 + seed, seeded(seed)) for seed in range(draws)]
    outcomes = study.outcomes(pruned, make_images(1, False, 2), 0.1)
    for form in ("hoeffding", "bernstein", "minimum"):
        errors, bounds = (
            torch.cat([outcome[key].flatten() for outcome in outcomes]) for key in ("error", form)
        )
        assert covers(int((errors > bounds * (1 + 1e-9)).sum()), draws, 0.1)
        if "plus_plus" not in method:  # the union over its repeats is wide
            assert not covers(int((errors > bounds / 20).sum()), draws, 0.1)


@pytest.mark.parametrize(
    ("network", "method"),
    [
        *(("residual", method) for method in ("mussay top_k", "sipp", "pfp", "filter_norm")),
        ("mlp", "magnitude"),
        ("negative inputs", "pfp"),
        ("flat", "filter_norm"),
        ("tiny", "magnitude"),
        ("tiny", "mussay top_k"),
        *(
            pytest.param(network, method, marks=pytest.mark.slow)
            for network, method in zip(
                ("residual", "flat", "negative inputs"), ("wanda", "random", "taylor"), strict=True
            )
        ),
    ],
)
def test_what_is_not_drawn_is_never_further_off(network: str, method: str) -> None:
    """Sides of a single weight too, in the tiny one. A bound sees masks and inputs, not the scores:
    wanda, random and taylor differ from magnitude in their masks alone.
    """
    tiny = nn.Sequential(
        nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )
    study = make_study(tiny if network == "tiny" else network, DETERMINISTIC[method], 10.0)
    pruned = [study.prune(sparsity, 1, seeded()) for sparsity in (0.05, 0.2, 0.5, 0.6)]
    outcomes = study.outcomes(pruned, make_images(5, True, 2), DELTA)
    assert "deterministic" in outcomes[0].forms
    for form in list_certified(outcomes):
        assert count_broken(outcomes, form) == 0
        assert all(
            bool((outcome[form] >= outcome["error"] * (1 - 1e-9)).all()) for outcome in outcomes
        )


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
            assert self.a.bias is not None
            self.a.bias.data = torch.tensor([0.0, 0.0, 5.0])
            self.b.weight.data = torch.full((4, 3, 1, 1), 1e-3)

        def forward(self, x: Tensor) -> Tensor:
            h = F.relu(self.a(x))
            return self.fc((self.b(h) + self.map(h)).mean((2, 3)))

    study = make_study(Net(), {"name": "filter_norm"}, allocation={"name": "global"})
    pruned = study.prune(0.18, 0, seeded())
    assert pruned.masks["a.weight"].flatten().tolist() == [True, True, False]
    assert bool(pruned.masks["b.weight"].flatten(1).any(1).all())
    (outcome,) = study.outcomes([pruned], make_images(3, True), DELTA)
    assert bool((outcome["deterministic"] >= outcome["error"]).all())
    assert float(outcome["error"].amax()) > 1


def test_bounds_scale_with_the_last_layer() -> None:
    """The same draws, everything ten thousand times as large."""
    by_scale = {}
    for scale in (1.0, 1e4):
        model = make_scaled_mlp(scale)
        by_scale[scale] = bound_prunings(make_study(model, SAMPLERS["mussay importance"]), 2, True)
    for small, large in zip(by_scale[1.0], by_scale[1e4], strict=True):
        for form in ("error", "hoeffding", "bernstein", "minimum", "ball", "ball bernstein"):
            torch.testing.assert_close(large[form], 1e4 * small[form], rtol=1e-6, atol=1e-12)


def make_scaled_mlp(scale: float) -> nn.Module:
    torch.manual_seed(3)
    model = make_mlp()
    model.get_parameter("5.weight").data.mul_(scale)
    return model


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "holds"), [(1.0, True), (100.0, False)])
def test_the_papers_form_of_mussay_fails_when_outgoing_weights_are_scaled(
    scale: float, holds: bool
) -> None:
    """It grows with the square root of what errors grow with, so it is not certified; the other
    forms hold. Of 25 draws at delta = 0.05 five violations are evidence.
    """
    outcomes = bound_prunings(
        make_study(make_scaled_mlp(scale), SAMPLERS["mussay importance"]), 25, True, 0.6
    )
    assert covers(count_broken(outcomes, "paper"), 25, DELTA) == holds
    assert "paper" not in CERTIFIED
    for form in list_certified(outcomes):
        assert count_broken(outcomes, form) == 0


def record_logarithms(study: Study) -> list[tuple[float, float, int]]:
    """The logarithms of each layer's bounds, and its repeats: a list that the study fills."""
    logarithms: list[tuple[float, float, int]] = []
    describe = study.layers.describe

    def spy(*args: Any, **fields: Any) -> PrunedLayer:
        layer = describe(*args, **fields)
        logarithms.append((layer.log, layer.log_split, layer.law.repeats))
        return layer

    study.layers.describe = spy  # type: ignore[method-assign]
    return logarithms


def test_the_union_runs_over_all_sides_outputs_positions_inputs_and_repeats() -> None:
    study = make_study("residual", SAMPLERS["corenet plus_plus"])
    logs = record_logarithms(study)
    study.outcomes([study.prune(0.5, 1, seeded())], make_images(3, True), DELTA)
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
        self.convolutions = nn.ModuleList(nn.Conv2d(1, 4, 3, padding=1) for _ in range(4))
        self.fc = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        outputs = [F.relu(convolution(x)) for convolution in self.convolutions]
        return self.fc(torch.cat(outputs, 1).mean((2, 3)))


def test_a_layer_that_reads_several_groups_has_a_row_and_a_share_of_delta_for_each() -> None:
    torch.manual_seed(0)
    study = make_study(Joined(), SAMPLERS["pfp randomized"])
    pruned = study.prune(0.4, 1, seeded())
    assert len(pruned.laws["fc.weight"].draws) == 4
    logs = record_logarithms(study)
    (outcome,) = study.outcomes([pruned], make_images(2, True), DELTA)
    assert logs[0][0] == pytest.approx(math.log(2 * 4 * 2 * (4 * 64 + 3) / DELTA))
    assert count_broken([outcome], "minimum") == 0
