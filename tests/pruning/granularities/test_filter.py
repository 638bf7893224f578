"""Filters of each layer by itself: prune ratios, and what leaves with them, against gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning.allocations import allocations
from pruning.channels.graph import ChannelGraph
from pruning.criteria import criteria
from pruning.errors import BudgetError, ParameterError
from pruning.evidence.evidence import Evidence
from pruning.granularities.filter import Filter
from pruning.masks import apply_masks_, build_full_masks, count_parameters, find_prunable
from pruning.networks.loading import resolve
from pruning.schemas.preset_table import LOST_IN_PRUNING
from pruning.seeding import seeded
from pruning.sparsifiers import sparsifiers
from pruning.types import Masks, Scores, Selection

ALLOCATIONS = {"filter_norm": "uniform", "pfp": "bound_optimal"}


def build(architecture: str, **kwargs: Any) -> nn.Module:
    with seeded(0):
        return resolve(architecture, kwargs, classes=10).build().eval()


def score(method: str, model: nn.Module) -> Scores:
    """Score filters by their norms, or input channels by sensitivities that are drawn."""
    if method == "filter_norm":
        return criteria.create(method).score(Evidence(model))
    rng = torch.Generator().manual_seed(1)
    scores = {}
    for name, weight in find_prunable(model).items():
        drawn = 10 * torch.rand(weight.shape[1], generator=rng) ** 3
        scores[name] = drawn.reshape(1, -1, *[1] * (weight.dim() - 2))
    return scores


def mark_removed(value: Tensor, mask: Tensor) -> Tensor:
    """The scores with -inf for what a mask has removed already."""
    axes = [axis for axis, size in enumerate(value.shape) if size != mask.shape[axis]]
    return value.masked_fill(~(mask.amax(axes, keepdim=True) if axes else mask), -math.inf)


def select(
    model: nn.Module,
    method: str,
    density: float,
    masks: Masks | None = None,
    *,
    side: int = 32,
    sparsifier: str = "top_k",
) -> Masks:
    weights = {name: weight.detach() for name, weight in find_prunable(model).items()}
    before = masks or build_full_masks(weights)
    scores = {
        name: mark_removed(value, before[name]) for name, value in score(method, model).items()
    }
    selected = Filter().select(
        Selection(
            model=model,
            weights=weights,
            scores=scores,
            masks=before,
            density=density,
            allocation=allocations.create(ALLOCATIONS[method]),
            sparsifier=sparsifiers.create(sparsifier),
            generator=torch.Generator(),
            shape=lambda: (3, side, side),
        )
    )
    assert not any(bool((selected.masks[name] & ~before[name]).any()) for name in before)
    return selected.masks


def check_prune_ratios(name: str, every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prune a preset's network to its ratios in a cascade, as FT and PFP do."""
    preset = LOST_IN_PRUNING[name]
    model = build(preset.architecture, **preset.kwargs)
    graph = ChannelGraph.of(model, (3, 32, 32), find_prunable(model))
    monkeypatch.setattr(ChannelGraph, "of", staticmethod(lambda *_: graph))
    for method in ALLOCATIONS:
        masks, missed = None, []
        for index in range(every - 1, len(preset.prune_ratios), every):
            masks = select(model, method, 1 - preset.sparsities[index], masks)
            removed = sum(int((~mask).sum()) for mask in masks.values())
            missed.append(100 * removed / count_parameters(model) - preset.prune_ratios[index])
        print(f"{name} {method}: missed by {max(map(abs, missed)):.3f} pp at most")  # noqa: T201
        assert max(map(abs, missed)) < 0.1


@pytest.mark.parametrize("name", ["resnet20", "densenet22"])
def test_prune_ratios_are_met(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_prune_ratios(name, 11, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "every"), [("resnet20", 4), ("densenet22", 5), ("vgg16", 6), ("wrn16_8", 7)]
)
def test_a_grid_of_prune_ratios_is_met(
    name: str, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_prune_ratios(name, every, monkeypatch)


@pytest.mark.parametrize("method", ALLOCATIONS)
@pytest.mark.parametrize(
    ("architecture", "kwargs"),
    [
        ("cifar_resnet", {"depth": 14, "width": 0.25, "shortcut": "A"}),
        ("densenet22", {"growth": 3}),
    ],
)
def test_what_is_read_and_varies_remains(
    method: str, architecture: str, kwargs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rules of the released code on data: filters without a gradient and inputs that are the
    same for all images are gone, and no others. An activation that is never flat stands for ReLU.
    """
    model = build(architecture, **kwargs).double()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias.fill_(0.3)  # a channel without a filter is not zero
    masks = select(model, method, 0.4, side=8)
    apply_masks_(model, masks)
    constant: dict[str, Tensor] = {}
    layers = {name.removesuffix(".weight"): name for name in masks}
    for owner, name in layers.items():

        def look(layer: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
            values = inputs[0].flatten(2) if inputs[0].dim() > 2 else inputs[0][..., None]
            constant[name] = (values == values[:1]).all(0).all(1)

        model.get_submodule(owner).register_forward_pre_hook(look)
    monkeypatch.setattr(nn.functional, "relu", nn.functional.softplus)
    images = torch.randn(
        6, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    model(images).logsumexp(1).sum().backward()
    for name, mask in masks.items():
        weight = model.get_parameter(name)
        assert weight.grad is not None
        gone = ~mask.flatten(1).any(1)
        idle = weight.grad.flatten(1).abs().amax(1) == 0
        assert not (idle & ~gone).any()
        columns = ~mask.transpose(0, 1).flatten(1).any(1)
        assert not (constant[name] & ~columns).any()
        if method == "filter_norm":
            assert torch.equal(constant[name], columns)
        else:
            assert torch.equal(idle, gone)


def test_the_outputs_and_a_filter_of_every_layer_remain() -> None:
    model = build("cifar_resnet", depth=8, width=0.25)
    masks = select(model, "filter_norm", 0.03, side=8)
    assert all(mask.any() for mask in masks.values())
    assert masks["linear.weight"].any(1).all()
    with pytest.raises(BudgetError, match="with one of each layer it is"):
        select(model, "filter_norm", 0.001, side=8)


def test_filters_are_not_drawn() -> None:
    model = build("cifar_resnet", depth=8, width=0.25)
    with pytest.raises(ParameterError, match="chosen, not drawn"):
        select(model, "pfp", 0.5, side=8, sparsifier="sample")
