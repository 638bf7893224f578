"""What every registered method must keep, whoever wrote it. A new method is tested by being
registered.
"""

from __future__ import annotations

import doctest
import importlib
import math
import pkgutil
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import pruning
from pruning.allocations import allocations
from pruning.analysis.job_record import JobRecord
from pruning.architectures import architectures
from pruning.criteria import criteria
from pruning.data.builtin import datasets
from pruning.data.corruptions import corruptions
from pruning.errors import BudgetError, ParameterError
from pruning.evaluations import evaluations
from pruning.evidence.evidence import Evidence
from pruning.granularities import granularities
from pruning.masks import build_full_masks, count_kept, find_prunable, select_weight_masks
from pruning.networks.loading import load_state_
from pruning.pipeline.pipeline import Networks, Pipeline
from pruning.registry import Registry
from pruning.rounds.method import PruningMethod
from pruning.rounds.pruning import mask_scores, prune_
from pruning.schedules import schedules
from pruning.schemas.recipe import Method
from pruning.schemas.report import Section
from pruning.schemas.training import Optimizer
from pruning.sparsifiers import sparsifiers
from pruning.storage.stages import Stages
from pruning.types import Budget, LayerView, LooksAtInputs, Masks, Scores, Sparse
from tests.support import cases, oracles

REGISTRIES: dict[str, Registry[Any]] = {
    "allocations": allocations,
    "architectures": architectures,
    "corruptions": corruptions,
    "criteria": criteria,
    "datasets": datasets,
    "evaluations": evaluations,
    "granularities": granularities,
    "schedules": schedules,
    "sparsifiers": sparsifiers,
}
EVERY = [
    pytest.param(registry, name, id=f"{kind}-{name}")
    for kind, registry in REGISTRIES.items()
    for name in registry.names()
]
fast = settings(max_examples=40, deadline=None, derandomize=True)


# every registry


def test_every_registered_method_is_in_the_readme() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    for kind, registry in REGISTRIES.items():
        missing = [
            name for name in registry.names() if f"`{name}`" not in readme and kind != "datasets"
        ]
        assert not missing, f"{kind} not in the README: {missing}"


def test_no_registry_escapes_this_suite() -> None:
    found = set()
    for info in pkgutil.walk_packages(pruning.__path__, "pruning."):
        module = importlib.import_module(info.name)
        found |= {id(value) for value in vars(module).values() if isinstance(value, Registry)}
    assert found == {id(registry) for registry in REGISTRIES.values()}


@pytest.mark.parametrize(("registry", "name"), EVERY)
def test_is_documented_and_shown_by_a_doctest(registry: Registry[Any], name: str) -> None:
    cls = registry.get(name)
    module = sys.modules[cls.__module__]
    assert module.__doc__
    assert cls.__doc__
    if (
        registry is not datasets and registry is not evaluations
    ):  # these need files or a finished job to show anything
        assert any(test.examples for test in doctest.DocTestFinder().find(module)), (
            f"{cls} has no doctest"
        )


@pytest.mark.parametrize(("registry", "name"), EVERY)
def test_catalogue_entry_describes_the_parameters(registry: Registry[Any], name: str) -> None:
    entry = registry.entry(name)
    assert entry["name"] == name
    assert 10 <= len(entry["summary"]) <= 200
    schema = entry["params"]
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate({}, schema)
    defaults = {key: value["default"] for key, value in schema.get("properties", {}).items()}
    jsonschema.validate(defaults, schema)
    assert registry.create(name, defaults) == registry.create(name)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"no_such_parameter": 1}, schema)
    with pytest.raises(ParameterError, match="no_such_parameter"):
        registry.create(name, {"no_such_parameter": 1})


def corners(registry: Registry[Any], name: str) -> list[dict[str, Any]]:
    """No parameters, and each bounded parameter at its least and its largest value."""
    found: list[dict[str, Any]] = [{}]
    for key, field in registry.entry(name)["params"].get("properties", {}).items():
        step = 1 if field.get("type") == "integer" else 1e-3
        found += [{key: field[bound]} for bound in ("minimum", "maximum") if bound in field]
        found += [
            {key: field[bound] + sign * step}
            for bound, sign in (("exclusiveMinimum", 1), ("exclusiveMaximum", -1))
            if bound in field
        ]
    return found


# criteria


def evidence_of(case: str, masks: Masks | None = None, seed: int = 0) -> Evidence:
    model, batches = cases.awkward(case)
    if masks is not None:
        pruning.masks.apply_masks_(model, masks)
    return Evidence(model, masks, batches, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("case", cases.AWKWARD)
@pytest.mark.parametrize("name", criteria.names())
class TestCriterion:
    def test_scores_every_prunable_weight_with_finite_numbers(self, name: str, case: str) -> None:
        evidence = evidence_of(case)
        scores = criteria.create(name).score(evidence)
        assert set(scores) == set(find_prunable(evidence.model)) != set()
        mask_scores(
            evidence, scores
        )  # raises for a shape that does not broadcast and for what is not finite
        for key, weight in evidence.weights.items():
            torch.broadcast_to(scores[key], weight.shape)
            assert scores[key].device == weight.device
            assert not scores[key].requires_grad

    def test_same_generator_seed_gives_the_same_scores(self, name: str, case: str) -> None:
        state = torch.get_rng_state()
        first, second = (criteria.create(name).score(evidence_of(case, seed=7)) for _ in range(2))
        assert all(torch.equal(first[key], second[key]) for key in first)
        assert torch.equal(torch.get_rng_state(), state), (
            "the criterion drew from the global generator"
        )

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_changes_nothing(self, name: str, case: str, dtype: torch.dtype) -> None:
        model, batches = cases.awkward(case)
        model, batches = model.to(dtype), [(x.to(dtype), y) for x, y in batches]
        masks = build_full_masks(find_prunable(model))
        evidence = Evidence(model, masks, batches, torch.Generator().manual_seed(0))
        before = {key: value.clone() for key, value in model.state_dict().items()}
        modes, trains = oracles.module_modes(model), [p.requires_grad for p in model.parameters()]
        images = [(x.clone(), y.clone()) for x, y in batches]
        scores = criteria.create(name).score(evidence)
        for key in scores:
            scores[key].zero_()  # nor may the scores be the weights themselves
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        assert all(bool(mask.all()) for mask in masks.values())
        assert oracles.module_modes(model) == modes
        assert [p.requires_grad for p in model.parameters()] == trains
        assert all(p.grad is None for p in model.parameters())
        assert all(
            torch.equal(x, a) and torch.equal(y, b)
            for (x, y), (a, b) in zip(batches, images, strict=True)
        )
        assert not any(
            module._forward_hooks or module._backward_hooks for module in model.modules()
        )

    def test_prunes_a_pruned_network_further(self, name: str, case: str) -> None:
        masks = cases.half_masks(cases.awkward(case)[0])
        evidence = evidence_of(case, masks)
        total, alive = sum(m.numel() for m in masks.values()), sum(count_kept(masks).values())
        keep = max(1, alive // 2)
        seams = PruningMethod.of(cases.recipe(0.5), Method(name=name))
        try:
            after = prune_(
                evidence.model,
                masks,
                keep / total,
                seams,
                lambda masks, stage: Evidence(evidence.model, masks, evidence.batches),
                generator=torch.Generator(),
            )
        except BudgetError:  # at least one channel of each group remains
            assert isinstance(seams.granularity, granularities.get("channel"))
            return
        if getattr(seams.sparsifier, "reweights", False):  # so many are expected
            assert sum(count_kept(select_weight_masks(after)).values()) <= alive
        else:
            assert sum(count_kept(select_weight_masks(after)).values()) <= keep
        assert all(not bool((after[key] & ~masks[key]).any()) for key in masks)
        weights = dict(evidence.model.named_parameters())
        assert not any(bool(weights[key][~after[key]].detach().any()) for key in after)


# allocations


@st.composite
def layered(draw: st.DrawFn) -> tuple[Scores, Masks, int]:
    """Scores of up to four layers, partly dead, with ties; and how many of the living to keep."""
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scores: Scores = {}
    masks: Masks = {}
    for index in range(draw(st.integers(1, 4))):
        size = draw(st.integers(1, 30))
        mask = torch.rand(size, generator=rng) < draw(st.sampled_from([0.2, 0.7, 1.0]))
        score = torch.randint(0, 6, (size,), generator=rng).double()
        scores[f"layer{index}"], masks[f"layer{index}"] = score.masked_fill(~mask, -math.inf), mask
    alive = sum(count_kept(masks).values())
    return scores, masks, draw(st.integers(1, alive)) if alive else 0


@pytest.mark.parametrize("name", allocations.names())
class TestAllocation:
    @fast
    @given(drawn=layered())
    def test_spends_the_budget_exactly_on_what_is_alive(
        self, name: str, drawn: tuple[Scores, Masks, int]
    ) -> None:
        scores, masks, keep = drawn
        if not keep:
            return
        before = {key: score.clone() for key, score in scores.items()}
        keeps = allocations.create(name).allocate(
            scores, Budget(keep, {k: m.numel() for k, m in masks.items()})
        )
        assert list(keeps) == list(scores)
        assert all(isinstance(kept, int) for kept in keeps.values())
        assert sum(keeps.values()) == keep
        assert all(0 <= keeps[key] <= int(masks[key].sum()) for key in keeps)
        assert all(torch.equal(score, before[key]) for key, score in scores.items())

    @pytest.mark.parametrize("keep", [1, 2, 9, 10, 35, 53, 54])
    def test_filters_are_kept_whole(self, name: str, keep: int) -> None:
        scores = {
            "conv1": torch.rand(3, 1, 1, 1, generator=torch.Generator().manual_seed(1)),
            "conv2": torch.rand(1, 3, 1, 1, generator=torch.Generator().manual_seed(2)),
        }
        sizes = {"conv1": 27, "conv2": 27}
        keeps = allocations.create(name).allocate(scores, Budget(keep, sizes))
        assert sum(keeps.values()) <= keep
        assert all(kept % 9 == 0 and kept <= sizes[key] for key, kept in keeps.items())
        assert keep - sum(keeps.values()) < 9, "another whole filter would have fitted"

    def test_refuses_more_than_remains(self, name: str) -> None:
        scores = {"a": torch.tensor([1.0, -math.inf, -math.inf]), "b": torch.full((2,), -math.inf)}
        with pytest.raises(pruning.errors.BudgetError):
            allocations.create(name).allocate(scores, Budget(2, {"a": 3, "b": 2}))


# sparsifiers


def sparsified(name: str, weight: Tensor, score: Tensor, keep: int) -> Sparse:
    """One layer, seen where the sparsifier looks."""
    sparsifier, generator = sparsifiers.create(name), torch.Generator().manual_seed(0)
    if not isinstance(sparsifier, LooksAtInputs):
        return sparsifier.sparsify(weight, score, keep, generator)
    inputs = torch.rand(
        6, 1, weight[0].numel() if weight.dim() > 1 else len(weight), 3, generator=torch.Generator()
    )
    return sparsifier.sparsify_seeing(weight, score, keep, generator, LayerView(3, lambda: inputs))


@pytest.mark.parametrize("name", sparsifiers.names())
class TestSparsifier:
    @pytest.mark.parametrize("shape", [(7,), (3, 5), (4, 2, 3, 3), (1, 1)])
    @pytest.mark.parametrize("tied", [False, True])
    def test_keeps_the_count(self, name: str, shape: tuple[int, ...], tied: bool) -> None:
        rng = torch.Generator().manual_seed(0)
        weight = torch.randn(shape, generator=rng)
        score = torch.ones(shape) if tied else weight.abs()
        for keep in {0, 1, weight.numel() // 2, weight.numel()}:
            before = weight.clone(), score.clone()
            sparse, again = (sparsified(name, weight, score, keep) for _ in range(2))
            if getattr(sparsifiers.get(name), "reweights", False):  # so many are expected
                assert abs(int(sparse.mask.sum()) - keep) <= 4 * math.sqrt(keep)
            else:
                assert int(sparse.mask.sum()) == keep
            assert sparse.mask.dtype == torch.bool
            assert sparse.mask.shape == sparse.weight.shape == weight.shape
            assert sparse.weight.dtype == weight.dtype
            assert not sparse.weight[~sparse.mask].any()
            assert torch.equal(weight, before[0])
            assert torch.equal(score, before[1])
            assert torch.equal(sparse.mask, again.mask)
            assert torch.equal(sparse.weight, again.weight)

    def test_filters_stay_whole(self, name: str) -> None:
        weight = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
        if getattr(sparsifiers.get(name), "reweights", False):
            with pytest.raises(
                pruning.errors.ParameterError, match="a score for every single weight"
            ):
                sparsifiers.create(name).sparsify(
                    weight, weight.abs().mean((1, 2, 3), keepdim=True), 36, torch.Generator()
                )
            return
        sparse = sparsifiers.create(name).sparsify(
            weight, weight.abs().mean((1, 2, 3), keepdim=True), 36, torch.Generator().manual_seed(0)
        )
        assert sorted(sparse.mask.flatten(1).sum(1).tolist()) == [0, 0, 18, 18]


# granularities


@pytest.mark.parametrize("name", granularities.names())
class TestGranularity:
    def prune(self, name: str, *densities: float) -> tuple[nn.Module, list[Masks]]:
        """A seeded network pruned to one density after another, and the masks of each."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = nn.Sequential(
                nn.Conv2d(4, 8, 3, padding=1),
                nn.BatchNorm2d(8),
                nn.ReLU(),
                nn.Conv2d(8, 12, 2),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(108, 8),
                nn.ReLU(),
                nn.Linear(8, 4),
            ).eval()
        seams = PruningMethod.of(
            cases.recipe(0.5, granularity={"name": name}), Method(name="magnitude")
        )
        found = [build_full_masks(find_prunable(model))]
        for density in densities:
            found.append(
                prune_(
                    model,
                    found[-1],
                    density,
                    seams,
                    generator=torch.Generator().manual_seed(0),
                    evidence=lambda masks, stage: Evidence(model, masks, shape=(4, 4, 4)),
                )
            )
        return model, found

    def test_masks_are_nested_and_at_most_as_dense_as_asked_for(self, name: str) -> None:
        densities = (0.9, 0.7, 0.5)
        model, masks = self.prune(name, *densities)
        for before, after, density in zip(masks, masks[1:], densities, strict=False):
            assert not any(bool((after[key] & ~before[key]).any()) for key in before)
            assert 0.8 * density < pruning.masks.density(after) <= density + 1e-3
        parameters = dict(model.named_parameters())
        for key, mask in masks[-1].items():
            assert mask.shape == parameters[key].shape
            assert not parameters[key][~mask].detach().any()

    def test_prunes_alike_twice(self, name: str) -> None:
        (first, one), (second, two) = (self.prune(name, 0.7, 0.5) for _ in range(2))
        assert all(torch.equal(one[-1][key], mask) for key, mask in two[-1].items())
        assert all(
            torch.equal(value, second.state_dict()[key])
            for key, value in first.state_dict().items()
        )


# schedules


@pytest.mark.parametrize("name", schedules.names())
@fast
@given(data=st.data())
def test_schedule_falls_strictly_to_exactly_the_target(name: str, data: st.DataObject) -> None:
    start = data.draw(st.one_of(st.just(1.0), st.floats(1e-4, 1.0)))
    target = data.draw(
        st.one_of(
            st.floats(1e-6, start, exclude_max=True),
            st.just(math.nextafter(start, 0)),
            st.just(start * (1 - 1e-12)),
        )
    )
    params = data.draw(st.sampled_from(corners(schedules, name)))
    densities = list(schedules.create(name, params).densities(start, target))
    assert densities[-1] == target
    assert all(
        later < earlier for earlier, later in zip([start, *densities], densities, strict=False)
    )
    assert len(densities) <= 20_000


# evaluations


@pytest.fixture(scope="session", params=["none", "fine_tune"])
def trial(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> JobRecord:
    """A finished job on a tiny network: two targets, one round between, two criteria."""
    fields: dict[str, Any] = {"mode": request.param}
    if request.param != "none":
        fields |= {"batch_size": 8, "optimizer": Optimizer(lr=0.05)}
    recipe = cases.recipe(
        0.5,
        0.8,
        schedule={"name": "linear", "params": {"rounds": 2}},
        retrain=fields,
        criterion=({"name": "magnitude"}, {"name": "random"}),
        train={"epochs": 3, "batch_size": 8, "optimizer": {"lr": 0.05}},
    )
    folder = tmp_path_factory.mktemp("trial")
    pipeline = Pipeline(
        recipe=recipe,
        networks=Networks(cases.mlp),
        data=cases.make_data(),
        stages=Stages(Path(folder), recipe.digest()),
        watcher=Silent(),
        device=torch.device("cpu"),
    )
    pipeline.run()
    return JobRecord(
        data=pipeline.data,
        dense=pipeline.dense,
        control=pipeline.control,
        given_measured=pipeline.given_measured,
        control_measured=pipeline.control_measured,
        rounds=pipeline.done,
        recipe=pipeline.recipe,
    )


class Silent:
    """Hears nothing."""

    def stage(self, stage: str, name: str) -> None: ...

    def progress(self, done: float, total: float) -> None: ...

    def warn(self, message: str) -> None: ...


@pytest.mark.parametrize("name", evaluations.names())
def test_evaluation_answers_with_a_section_that_survives_json(name: str, trial: JobRecord) -> None:
    state = torch.get_rng_state()
    section = evaluations.create(name).evaluate(trial)
    assert section.title
    assert section.version == evaluations.get(name).version
    assert section.scalars or section.curves or section.details
    assert Section.model_validate_json(section.model_dump_json()) == section
    assert evaluations.create(name).evaluate(trial) == section
    assert torch.equal(torch.get_rng_state(), state)


# architectures


@pytest.mark.parametrize("name", architectures.names())
def test_architecture_builds_runs_and_reloads(name: str) -> None:
    architecture = architectures.create(name)
    torch.manual_seed(0)
    model = architecture.build()
    channels, height, width = architecture.input_shape
    side = getattr(architecture, "smallest", 16)
    images = torch.randn(2, channels or 3, height or side, width or side)
    logits = model.eval()(images)
    of_pixels = (
        images.shape[2:]
        if getattr(architecture, "task", "classification") == "segmentation"
        else ()
    )
    assert logits.shape == (2, architecture.outputs, *of_pixels)
    assert torch.isfinite(logits).all()
    assert find_prunable(model)
    other = architecture.build().eval()
    load_state_(other, model.state_dict())
    assert torch.equal(other(images), logits)
    with torch.device("meta"):
        shapes = {
            key: tuple(value.shape) for key, value in architecture.build().state_dict().items()
        }
    assert shapes == {key: tuple(value.shape) for key, value in model.state_dict().items()}


# datasets


@pytest.mark.parametrize("name", datasets.names())
def test_dataset_loads_alike_twice(name: str) -> None:
    first, second = datasets.create(name).load(), datasets.create(name).load()
    assert first.classes == second.classes
    assert len(set(first.classes)) == len(first.classes)
    for split in first.images:
        assert (first.images[split] == second.images[split]).all()
        assert (first.labels[split] == second.labels[split]).all()
    assert first.images["train"].max() > 127, "grey values do not fill 0..255"
