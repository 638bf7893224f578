"""The least squares of ThiNet against numpy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pruning.criteria.obs import OBS
from pruning.criteria.thinet import ThiNet
from pruning.evidence.criterion import moves_weights
from pruning.evidence.evidence import Evidence
from pruning.masks import apply_masks_, build_full_masks, find_prunable
from pruning.rounds.method import PruningMethod
from pruning.rounds.pruning import prune_
from pruning.schemas.recipe import Method
from tests.pruning.criteria.test_structured_criteria import build_net, draw_batches
from tests.support import cases
from tests.support.quadratic_cases import draw_masks


def collect_contributions(
    model: nn.Module, images_and_labels: list[tuple[Tensor, Tensor]], samples: int, seed: int
) -> dict[str, Tensor]:
    """Collect what each input channel contributes to the outputs that the draws choose."""
    rng = torch.Generator().manual_seed(seed)
    images = torch.cat([x for x, _ in images_and_labels])
    count = min(samples, len(images))
    chosen = torch.randperm(len(images), generator=rng)[:count].sort().values
    names = list(find_prunable(model))
    draws = {name: torch.rand(3, count, generator=rng, dtype=torch.float64) for name in names}
    contributions = {}
    x = images
    for number, module in enumerate(model.children()):
        if isinstance(module, nn.Linear | nn.Conv2d):
            _, filters, places = draws[f"{number}.weight"]
            parts = [split_output(module, x, c)[chosen] for c in range(module.weight.shape[1])]
            by_channel = torch.stack(parts)  # (C, samples, out, L)
            rows = torch.arange(count)
            filter = (filters * by_channel.shape[2]).long()
            position = (places * by_channel.shape[3]).long()
            contributions[f"{number}.weight"] = by_channel[:, rows, filter, position].T
        x = module(x)
    return contributions


def split_output(module: nn.Linear | nn.Conv2d, x: Tensor, channel: int) -> Tensor:
    """Compute what one input channel of each group gives to all outputs, (N, out, L)."""
    width = module.weight.shape[1]
    alone = torch.zeros_like(x)
    for group in range(getattr(module, "groups", 1)):
        alone[:, group * width + channel] = x[:, group * width + channel]
    output: Tensor = module(alone) - module(torch.zeros_like(x))
    return output.reshape(len(x), len(module.weight), -1)


@pytest.mark.parametrize("samples", [40, 3])
def test_thinet_scales_what_remains_by_least_squares(samples: int) -> None:
    """Against numpy's least squares of the paper, and of what is missed where there are fewer
    samples than channels.
    """
    model = build_net()
    images_and_labels = draw_batches((25, 20))
    evidence = Evidence(
        model, batches=images_and_labels, generator=torch.Generator().manual_seed(3)
    )
    criterion = ThiNet(samples, update=True)
    scores = criterion.score(evidence)
    masks = {
        name: (scores[name] > 0.5).expand(weight.shape) for name, weight in evidence.weights.items()
    }
    weights = criterion.compensate(evidence, masks)
    with torch.no_grad():
        contributions = collect_contributions(model, images_and_labels, samples, 3)
    nearer = []
    for name, weight in evidence.weights.items():
        x = contributions[name].numpy()
        keep = (scores[name] > 0.5).flatten().numpy()
        y = x.sum(1)
        missed, *_ = np.linalg.lstsq(x[:, keep], y - x[:, keep].sum(1), rcond=1e-7)
        factors = np.zeros(len(keep))
        factors[keep] = 1 + missed
        if np.linalg.matrix_rank(x[:, keep]) == keep.sum():
            direct, *_ = np.linalg.lstsq(x[:, keep], y, rcond=None)
            assert factors[keep] == pytest.approx(direct, rel=1e-6)
        shape = (1, -1, *[1] * (weight.dim() - 2))
        expected = weight * torch.from_numpy(factors).reshape(shape)
        torch.testing.assert_close(weights[name], expected, rtol=1e-6, atol=1e-9)
        errors = [np.square(x @ scaled - y).sum() for scaled in (factors, keep)]
        assert errors[0] <= errors[1] + 1e-12
        nearer.append(errors[0] < errors[1])
    assert any(nearer)


def test_thinet_without_its_update_leaves_weights_as_they_are() -> None:
    assert not moves_weights(ThiNet())
    assert moves_weights(ThiNet(update=True))
    assert not moves_weights(OBS(update=False))
    results = []
    for update in (False, True):
        model = build_net()
        masks = prune_(
            model,
            build_full_masks(find_prunable(model)),
            0.5,
            PruningMethod.of(
                cases.recipe(0.5), Method(name="thinet", params={"update": update, "samples": 60})
            ),
            lambda masks, stage, model=model: Evidence(  # type: ignore[misc]
                model, masks, draw_batches((60,)), shape=(2, 6, 6)
            ),
            generator=torch.Generator().manual_seed(1),
        )
        changed = [
            bool((weight[masks[name]] != build_net().get_parameter(name)[masks[name]]).any())
            for name, weight in find_prunable(model).items()
        ]
        results.append(any(changed))
    assert results == [False, True]


@pytest.mark.parametrize("case", cases.AWKWARD)
def test_awkward_networks_get_finite_factors(case: str) -> None:
    model, batches = cases.awkward(case)
    masks = cases.half_masks(model)
    apply_masks_(model, masks)
    evidence = Evidence(model, masks, batches)
    after = draw_masks(masks)
    for name, weight in ThiNet(update=True).compensate(evidence, after).items():
        assert bool(torch.isfinite(weight).all())
        assert weight.shape == evidence.weights[name].shape
        assert weight.dtype == evidence.weights[name].dtype
        assert not weight[~after[name]].any()
