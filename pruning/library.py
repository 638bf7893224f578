"""The library: what a notebook user imports, and what the job process calls.

>>> import torch
>>> net = load_model("mlp", hidden=[8], channels=1, height=2, width=2, classes=2)
>>> {name: tuple(s.shape) for name, s in score(net, "magnitude", batches=[]).items()}
{'fc1.weight': (8, 4), 'fc2.weight': (2, 8)}
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from pruning.analysis.bound_report import BoundReport, summarise_outcomes
from pruning.analysis.bound_study import Study
from pruning.criteria import criteria
from pruning.data.corrupted import corrupt
from pruning.data.tensors import Data
from pruning.errors import EvidenceError
from pruning.evidence.calibration import take_first
from pruning.evidence.criterion import AsksForCalibration
from pruning.evidence.evidence import Evidence
from pruning.measurement.objective import choose_loss, refuse_masks
from pruning.networks.loading import load_model
from pruning.networks.modes import evaluate_mode
from pruning.pipeline.ledger import Silent
from pruning.pipeline.pipeline import Networks, Pipeline
from pruning.rounds.method import PruningMethod
from pruning.schemas.recipe import Method, Recipe, Targets
from pruning.schemas.report import Evaluated
from pruning.storage.checkpoints import read_sparse, write_sparse
from pruning.storage.stages import Stages
from pruning.types import Masks

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from pruning.laws.density import DensityLaw
    from pruning.laws.joint import JointLaw

__all__ = [
    "BoundReport",
    "PrunedModel",
    "bound",
    "corrupt",
    "fit_density_law",
    "fit_joint_law",
    "load_model",
    "prune",
    "read_sparse",
    "score",
    "write_sparse",
]


@dataclass(frozen=True, kw_only=True)
class PrunedModel:
    """A network pruned to one target."""

    criterion: str
    requested_sparsity: float
    sparsity: float
    model: nn.Module
    masks: Masks
    measured: Evaluated


def score(
    model: nn.Module,
    criterion: str,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    generator: Generator | None = None,
    **params: Any,
) -> dict[str, Tensor]:
    """The scores of a criterion by parameter name, shaped to broadcast against the weight; higher
    keeps.

    >>> _ = torch.manual_seed(0)
    >>> net = load_model("mlp", hidden=[3], channels=1, height=2, width=2, classes=2)
    >>> batches = [(torch.randn(8, 1, 2, 2), torch.arange(8) % 2)]
    >>> {name: tuple(s.shape) for name, s in score(net, "qm", batches, **{"lambda": 0.01}).items()}
    {'fc1.weight': (3, 4), 'fc2.weight': (2, 3)}

    `batches` are normalised inputs and labels on the model's device, of which the criterion takes
    as many images as it is set to; criteria that need none take an empty list. Masks uint8 (N, H,
    W) are labels too.
    """
    method, given = criteria.create(criterion, params), list(batches)
    if isinstance(method, AsksForCalibration) and given:
        with evaluate_mode(model), torch.no_grad():
            classes = model(given[0][0][:1]).shape[1]
        given = list(take_first(given, method.calibration(classes).images))
    loss = choose_loss(given[0][1]) if given else F.cross_entropy
    return method.score(Evidence(model, batches=given, generator=generator, loss=loss))


def prune(model: nn.Module, recipe: Recipe, data: Data) -> Iterator[PrunedModel]:
    """Run a recipe on a network: one `PrunedModel` for every target of every criterion, densest
    first.

    `model` gives the weights (and, with `recipe.train`, the initialisation) and is not changed; it
    must be constructible again by copying. The device is the model's.

    >>> from pruning.data.builtin import datasets
    >>> from pruning.data.tensors import prepare
    >>> from pruning.schemas.recipe import Limit, Targets
    >>> data = prepare(
    ...     datasets.create("digits").load(),
    ...     limit=Limit(train=200, test=50),
    ...     seed=0,
    ...     normalize=None,
    ... )
    >>> _ = torch.manual_seed(0)
    >>> net = load_model("mlp", hidden=[8], channels=1, height=8, width=8, classes=10)
    >>> recipe = Recipe(
    ...     targets=Targets(sparsity=(0.5,)),
    ...     train={"epochs": 8, "batch_size": 16},
    ...     retrain={"mode": "none"},
    ... )
    >>> [
    ...     (one.criterion, one.sparsity, sum(int(m.sum()) for m in one.masks.values()))
    ...     for one in prune(net, recipe, data)
    ... ]
    [('magnitude', 0.5, 296)]
    """
    state = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
    device = next(model.parameters()).device
    with tempfile.TemporaryDirectory() as folder:
        pipeline = Pipeline(
            recipe=recipe,
            networks=Networks(lambda: copy.deepcopy(model).cpu(), state),
            data=data.to(device),
            stages=Stages(Path(folder), recipe.digest()),
            watcher=Silent(),
            device=device,
        )
        pipeline.run()
        for done in pipeline.done:
            if done.target is not None:
                yield PrunedModel(
                    criterion=done.label,
                    requested_sparsity=done.target,
                    sparsity=done.sparsity,
                    model=done.network(),
                    masks=done.masks(),
                    measured=done.measured.document(),
                )


def bound(
    model: nn.Module,
    method: str,
    densities: Sequence[float],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    delta: float = 0.05,
    trials: int = 1,
    generator: Generator | None = None,
    **params: Any,
) -> BoundReport:
    """Every form of a criterion's error bound beside the measured error, at densities reached in
    one shot.

    |z' - z| is bounded for every logit z of every input in `batches` (normalised inputs and labels, which also calibrate
    the criterion), together with probability 1 - delta for what is certified; see `pruning.analysis.bound_report`. Allocation and
    sparsifier are the criterion's own, and nothing is retrained; a sampler draws `trials` times. Raises `EvidenceError`
    without batches and for masks, `BudgetError` for a density that cannot be had, `ParameterError` for one that moves the
    weights that remain.

    >>> _ = torch.manual_seed(0)
    >>> net = load_model("mlp", hidden=[8], channels=1, height=2, width=2, classes=2)
    >>> batches = [(torch.rand(16, 1, 2, 2), torch.arange(16) % 2)]
    >>> found = bound(net, "sipp", [0.9, 0.5], batches)
    >>> [(one.requested, one.broken) for one in found.form("deterministic")]
    [(0.1, 0), (0.5, 0)]
    """
    given = list(batches)
    if not given:
        raise EvidenceError("bounds are for inputs: pass batches of (inputs, labels)")
    refuse_masks(given[0][1], "error bounds")
    recipe = Recipe(criterion=Method(name=method, params=params), targets=Targets(sparsity=(0.5,)))
    seams, rng = (
        PruningMethod.of(recipe, recipe.criteria[0]),
        generator or torch.Generator().manual_seed(0),
    )
    inputs, labels = torch.cat([one for one, _ in given]), torch.cat([label for _, label in given])
    study = Study(model, seams, given, Evidence(model, batches=given).shape, rng)
    pruned = [
        study.prune(round(1.0 - density, 12), number, rng)
        for density in densities
        for number in range(trials if study.sampled else 1)
    ]
    return summarise_outcomes(
        study.outcomes(pruned, inputs, delta), study.answers(inputs), labels, delta
    )


def fit_density_law(
    density: ArrayLike, error: ArrayLike, unpruned_error: ArrayLike, **options: Any
) -> DensityLaw:
    """The scaling law of one network, fitted to its errors at several densities; see
    `pruning.laws.density`.

    >>> density = [0.5, 0.25, 0.12, 0.06, 0.03, 0.015]
    >>> law = fit_density_law(density, [0.081, 0.085, 0.098, 0.131, 0.201, 0.309], 0.08, classes=10)
    >>> error = law.predict(0.04)
    >>> error.low < error.value < error.high, round(law.density_for(0.16), 2)
    (True, 0.04)
    """
    from pruning.laws import density as laws

    return laws.fit_density_law(density, error, unpruned_error, **options)


def fit_joint_law(
    depth: ArrayLike,
    width: ArrayLike,
    density: ArrayLike,
    error: ArrayLike,
    unpruned_error: ArrayLike,
    **options: Any,
) -> JointLaw:
    """One scaling law of a family, by depth^phi width^psi density; see `pruning.laws.joint`.

    >>> density = [0.5, 0.25, 0.12, 0.06, 0.03, 0.015]
    >>> errors = [
    ...     0.081,
    ...     0.085,
    ...     0.098,
    ...     0.131,
    ...     0.201,
    ...     0.309,
    ...     0.061,
    ...     0.064,
    ...     0.072,
    ...     0.092,
    ...     0.137,
    ...     0.211,
    ... ]
    >>> law = fit_joint_law(
    ...     [20] * 6 + [56] * 6, 1, density * 2, errors, [0.08] * 6 + [0.06] * 6, classes=10
    ... )
    >>> law.predict(32, 1, 0.1, 0.07).value < law.predict(32, 1, 0.05, 0.07).value
    True
    """
    from pruning.laws import joint as laws

    return laws.fit_joint_law(depth, width, density, error, unpruned_error, **options)
