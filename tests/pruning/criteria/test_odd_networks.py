"""Networks that use their layers in unusual ways: pruned right, or refused by name."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pruning.criteria import criteria
from pruning.errors import EvidenceError, ParameterError, ScoreError
from pruning.evidence.evidence import Evidence
from pruning.library import prune
from pruning.masks import (
    build_full_masks,
    count_kept,
    count_to_keep,
    density,
    find_prunable,
    list_layer_shapes,
)
from pruning.networks.loading import load_model
from pruning.rounds.costs import estimate_costs
from pruning.rounds.method import PruningMethod
from pruning.rounds.pruning import prune_
from pruning.schemas.recipe import Recipe
from tests.support import cases


class Folded(nn.Module):
    """A network whose first layer sees the rows of all images as one long batch."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Linear(4, 5)
        self.head = nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.rows(x.reshape(-1, 4))).reshape(len(x), -1))


class Attention(nn.Module):
    """A network that uses the projection's weight without a call of its layer."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(1, 2)
        return self.head(self.attend(rows, rows, rows, need_weights=False)[0].mean(1))


class Spare(nn.Module):
    """A network with a layer that its outputs do not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 5)
        self.spare = nn.Linear(5, 2)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.first(x.flatten(1))))


class Mixing(nn.Module):
    """A network that normalises by the batch, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 6)
        self.norm = nn.BatchNorm1d(6, track_running_stats=False)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.first(x.flatten(1)))))


def build_evidence(model: nn.Module) -> Evidence:
    rng = torch.Generator().manual_seed(0)
    batches = [
        (torch.randn(6, 1, 4, 4, generator=rng), torch.randint(3, (6,), generator=rng))
        for _ in range(2)
    ]
    return Evidence(model, batches=batches, generator=rng)


def score_network(name: str, model: nn.Module) -> dict[str, Tensor]:
    return criteria.create(name).score(build_evidence(model))


@pytest.mark.parametrize("name", ["qm", "obd", "obs", "thinet"])
def test_what_needs_single_images_refuses_rows_of_all_images_in_one(name: str) -> None:
    with pytest.raises(EvidenceError, match=r"rows\.weight: its layer sees 24 inputs for 6 images"):
        score_network(name, Folded())


@pytest.mark.parametrize("name", ["lm", "snip", "taylor", "wanda", "exact_obs", "grasp"])
def test_what_does_not_scores_them(name: str) -> None:
    assert all(
        bool(torch.isfinite(score).all()) for score in score_network(name, Folded()).values()
    )


@pytest.mark.parametrize(
    "name",
    ["wanda", "thinet", "qm", "obd", "obs", "exact_obs", "sipp", "pfp", "corenet"],
)
def test_a_weight_used_without_a_call_of_its_layer_is_refused(name: str) -> None:
    with pytest.raises(
        EvidenceError,
        match=r"attend\.(in_proj_|out_proj\.)weight is used without a call of its layer",
    ):
        score_network(name, Attention())


@pytest.mark.parametrize("variant", ["randomized", "hybrid"])
def test_draws_by_sensitivity_refuse_it_too(variant: str) -> None:
    with pytest.raises(EvidenceError, match=r"attend\.in_proj_weight is used without a call"):
        criteria.create("sipp", {"variant": variant}).score(build_evidence(Attention()))


@pytest.mark.parametrize("name", ["sipp", "pfp", "corenet"])
def test_a_layer_that_no_output_depends_on_scores_nothing(name: str) -> None:
    scores = score_network(name, Spare())
    assert not bool(scores["spare.weight"].any())
    assert bool(scores["head.weight"].any())


@pytest.mark.parametrize("name", ["lm", "snip", "grasp"])
def test_gradients_reach_it(name: str) -> None:
    assert bool(score_network(name, Attention())["attend.out_proj.weight"].any())


@pytest.mark.parametrize("name", ["qm", "obd", "obs"])
def test_images_that_influence_each_other_are_refused(name: str) -> None:
    with pytest.raises(EvidenceError, match="norm normalises by the statistics of the batch"):
        score_network(name, Mixing())


def test_thinet_refuses_activations_that_are_no_numbers() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 3))
    nn.init.constant_(model.get_parameter("1.weight"), float("inf"))
    with pytest.raises(ScoreError, match=r"weight: what its layer's inputs contribute"):
        score_network("thinet", model)


@pytest.mark.parametrize(
    "exclude",
    [(), ("linear.weight",), ("conv1.weight",), ("conv1.weight", "linear.weight")],
    ids=str,
)
@pytest.mark.parametrize("granularity", ["weight", "block"])
def test_uniform_plus_knows_the_stem_and_the_head_that_are_excluded(
    exclude: tuple[str, ...], granularity: str
) -> None:
    model = load_model("cifar_resnet", depth=8)
    assert list(list_layer_shapes(model)) == list(find_prunable(model))
    masks = build_full_masks(find_prunable(model, exclude))
    recipe = cases.recipe(
        0.9,
        criterion={"name": "magnitude"},
        allocation={"name": "uniform_plus"},
        exclude=exclude,
        granularity={"name": granularity},
    )
    after = prune_(
        model,
        masks,
        0.1,
        PruningMethod.of(recipe, recipe.criteria[0]),
        lambda masks, stage: Evidence(model, masks, exclude=exclude),
        generator=torch.Generator(),
    )
    middle = [
        density({name: mask})
        for name, mask in after.items()
        if name not in ("conv1.weight", "linear.weight", "layer1.0.conv1.weight")
    ]
    assert max(middle) - min(middle) < 0.01
    assert min(middle) > 0.08
    if "conv1.weight" in after and granularity == "weight":
        assert bool(after["conv1.weight"].all())
    else:
        assert density({"stem": after["layer1.0.conv1.weight"]}) < 0.12


@pytest.mark.parametrize("allocation", ["global", "uniform", "uniform_plus", "erk"])
@pytest.mark.parametrize("name", ["filter_norm", "thinet", "taylor_filter"])
def test_rounds_finer_than_a_filter_go_on(name: str, allocation: str) -> None:
    """Whole filters leave fewer weights than the target, which the next round may find reached."""
    model = load_model("mlp", hidden=[12, 6], channels=1, height=4, width=4, classes=3)
    recipe = cases.recipe(
        0.8,
        criterion={"name": name},
        granularity={"name": "weight"},
        allocation={"name": allocation},
    )
    masks = build_full_masks(find_prunable(model))
    rng = torch.Generator().manual_seed(0)
    batches = [(torch.randn(8, 1, 4, 4, generator=rng), torch.arange(8) % 3)]
    for step in range(1, 31):
        target = 1 - 0.8 * step / 30
        masks = prune_(
            model,
            masks,
            target,
            PruningMethod.of(recipe, recipe.criteria[0]),
            lambda masks, stage: Evidence(model, masks, batches),
            generator=rng,
        )
        assert sum(count_kept(masks).values()) <= count_to_keep(282, target)


def test_a_chain_without_biases_loses_its_channels() -> None:
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(16, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)
    )
    recipe = cases.recipe(
        0.5,
        criterion={"name": "filter_norm"},
        retrain={"mode": "none"},
        train={"epochs": 4, "batch_size": 8, "optimizer": {"lr": 0.05}},
    )
    (finished,) = prune(model, recipe, cases.make_data())
    assert [tuple(parameter.shape) for parameter in finished.model.parameters()] == [
        (4, 16),
        (3, 4),
    ]


@pytest.mark.parametrize(
    "second", [{"name": "lm"}, {"name": "lm", "params": {"lambda": 1e-3, "pi": 14}}], ids=str
)
def test_one_setting_is_not_listed_twice(second: dict[str, object]) -> None:
    recipe: Recipe = cases.recipe(0.5, criterion=[{"name": "lm"}, {"name": "magnitude"}, second])
    counts = {"train": 100, "test": 50}
    with pytest.raises(
        ParameterError, match="lm is listed twice with the same parameters"
    ) as refused:
        estimate_costs(
            recipe,
            counts,
            prunable=[(100,)],
            forward_flops=1,
            parameters=1,
            activations=1,
            classes=3,
        )
    assert refused.value.pointer == "/criterion"
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    with pytest.raises(ParameterError, match="lm is listed twice"):
        list(prune(model, recipe, cases.make_data()))
