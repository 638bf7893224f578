"""Every registered method on a small ViT, Swin and ConvNeXt: it works, or refuses by name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from pruning.allocations import allocations
from pruning.analysis.job_record import JobRecord
from pruning.architectures._attention import open_attention_
from pruning.criteria import criteria
from pruning.errors import SecateurError
from pruning.evaluations import evaluations
from pruning.evidence import Evidence
from pruning.granularities import granularities
from pruning.masks import build_full_masks, density, find_prunable
from pruning.rounds.method import PruningMethod
from pruning.rounds.pruning import prune_
from pruning.schemas.recipe import Recipe
from pruning.schemas.report import Section
from pruning.seeding import seeded
from pruning.sparsifiers import sparsifiers
from tests.support import cases
from tests.support.attention_nets import build_convnext, build_swin, build_vit
from tests.support.finished_records import finish_job, make_record

pytestmark = pytest.mark.slow
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "vit": (build_vit, 8),
    "swin": (build_swin, 8),
    "convnext": (build_convnext, 32),
}
ATTENTION = "writes the heads of an attention"
CHANNELS = "divides weights by their shapes and cannot divide channels"
PATTERN = "the allocation must be global"
REFUSED: dict[tuple[str, str], str] = {
    ("vit", "mussay"): ATTENTION,
    ("swin", "mussay"): ATTENTION,
    ("vit", "bounds"): "cannot be carried through PackedAttention",
    ("swin", "bounds"): "cannot be carried through ShiftedWindowAttention",
    ("convnext", "bounds"): "cannot be carried through layer_norm",
}
"""What refuses a network, with the reason that it gives."""
REFUSED_PAIRS = {
    **{(name, "n_m"): PATTERN for name in allocations.names() if name != "global"},
    **{
        (name, granularity): CHANNELS
        for name in ("erk", "uniform_plus")
        for granularity in ("channel", "filter")
    },
}
"""The allocations that know no such granularity of any network, with the reason."""
CHEAP: dict[str, dict[str, Any]] = {
    "informative_features": {"images": 1, "share": 0.5, "block": 4, "most": 3},
    "noise_similarity": {"images": 5, "levels": [0.0, 0.1], "draws": 2},
    "prune_potential": {"images": 5, "corruptions": ["brightness"]},
    "robustness": {"images": 5, "corruptions": ["brightness"]},
}
STAGED = {"lm": 2, "qm": 2, "obd": 2, "obs": 1}
"""Fewer stages than the default."""


@cache
def build(network: str) -> nn.Module:
    """A network that can lose heads."""
    with seeded(0):
        return open_attention_(NETWORKS[network][0]())


def prune(network: str, **fields: Any) -> float:
    """Prune a network once; returns the density that remains."""
    model = copy.deepcopy(build(network))
    side = NETWORKS[network][1]
    images = torch.rand(6, 3, side, side, generator=torch.Generator().manual_seed(0))
    recipe = cases.recipe(0.2, **fields)
    masks = prune_(
        model,
        build_full_masks(find_prunable(model)),
        0.8,
        PruningMethod.of(recipe, recipe.criteria[0]),
        lambda masks, stage: Evidence(model, masks, [(images, torch.arange(6) % 3)]),
        generator=torch.Generator().manual_seed(0),
    )
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())
    return density(masks)


def check(reason: str | None, run: Callable[[], float]) -> None:
    """Assert that a pruning comes near the density, or is refused with the reason."""
    if reason is None:
        assert 0.7 < run() < 0.83
        return
    with pytest.raises(SecateurError, match=reason):
        run()


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", criteria.names())
def test_criteria(name: str, network: str) -> None:
    params = {"pi": STAGED[name]} if name in STAGED else {}
    params |= {"rounds": 3} if name == "synflow" else {}
    criterion = {"name": name, "params": params}
    check(REFUSED.get((network, name)), lambda: prune(network, criterion=criterion))


PAIRS = [
    (allocation, granularity, network)
    for allocation in allocations.names()
    for granularity in granularities.names()
    for network in NETWORKS
    if network == "vit" or allocation == "uniform" or granularity == "weight"
]
"""Every pair of both on one network, and each alone on the others."""


@pytest.mark.parametrize(("allocation", "granularity", "network"), PAIRS)
def test_allocations_and_granularities(allocation: str, granularity: str, network: str) -> None:
    fields = {"allocation": {"name": allocation}, "granularity": {"name": granularity}}
    check(REFUSED_PAIRS.get((allocation, granularity)), lambda: prune(network, **fields))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("sparsifier", sparsifiers.names())
def test_sparsifiers_of_channels(sparsifier: str, network: str) -> None:
    if sparsifier in ("hybrid", "amplified"):
        return
    fields = {"criterion": {"name": "pfp"}, "sparsifier": {"name": sparsifier}}
    check(None, lambda: prune(network, **fields))


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], JobRecord]:
    """Finished jobs by network, each run once."""

    @cache
    def finish(network: str) -> JobRecord:
        side = NETWORKS[network][1]
        training = {"epochs": 1, "batch_size": 16, "optimizer": {"lr": 0.02}}
        recipe: Recipe = cases.recipe(
            0.1,
            0.2,
            criterion=({"name": "magnitude"}, {"name": "filter_norm"}),
            retrain={"mode": "fine_tune", **training},
            train=training,
        )
        data = cases.make_data(shape=(3, side, side), fit=24, val=9, test=12)
        folder = tmp_path_factory.mktemp(network)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pruning.pipeline.pipeline.check_baseline", lambda *_, **__: None)
            return make_record(
                finish_job(recipe, folder, lambda: copy.deepcopy(build(network)), data)
            )

    return finish


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", evaluations.names())
def test_evaluations(name: str, network: str, records: Callable[[str], JobRecord]) -> None:
    evaluation = evaluations.create(name, CHEAP.get(name))
    record = records(network)
    reason = REFUSED.get((network, name))
    if reason is not None:
        with pytest.raises(SecateurError, match=reason):
            evaluation.evaluate(record)
        return
    section = evaluation.evaluate(record)
    assert section.scalars or section.curves or section.details
    assert Section.model_validate_json(section.model_dump_json()) == section
