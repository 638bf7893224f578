"""The library: the functions that a notebook user imports.

>>> import torch
>>> net = load_model("mlp", hidden=[8], channels=1, height=2, width=2, classes=2)
>>> scores = score(net, "magnitude", batches=[])
>>> {name: tuple(values.shape) for name, values in scores.items()}
{'fc1.weight': (8, 4), 'fc2.weight': (2, 8)}
"""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from pruning import seeding
from pruning.analysis.bound_report import BoundReport, summarise_outcomes
from pruning.analysis.bound_study import Study
from pruning.channels.compaction import load_compact
from pruning.criteria import criteria
from pruning.data.corrupted import corrupt
from pruning.data.tensors import Data
from pruning.errors import EvidenceError
from pruning.evidence.calibration import draw_from_batches
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
from pruning.storage.checkpoints import read_masks, read_sparse, write_sparse
from pruning.storage.compressed import read_compressed, write_compressed
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
    "load_compact",
    "load_model",
    "prune",
    "read_compressed",
    "read_masks",
    "read_sparse",
    "score",
    "write_compressed",
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
    """The scores of a criterion by parameter name, higher keeps; they broadcast against the weight.

    >>> _ = torch.manual_seed(0)
    >>> net = load_model("mlp", hidden=[3], channels=1, height=2, width=2, classes=2)
    >>> batches = [(torch.randn(8, 1, 2, 2), torch.arange(8) % 2)]
    >>> scores = score(net, "qm", batches, **{"lambda": 0.01})
    >>> {name: tuple(values.shape) for name, values in scores.items()}
    {'fc1.weight': (3, 4), 'fc2.weight': (2, 3)}

    `batches` are normalised inputs and labels on the model's device; criteria that need none take
    an empty list. Masks uint8 (N, H, W) are labels too. Where there are more images than the
    criterion is set to look at, so many are drawn, of every class equally many where it wants that,
    and a `UserWarning` says so.
    """
    method = criteria.create(criterion, params)
    calibration = list(batches)
    if isinstance(method, AsksForCalibration) and calibration:
        first_inputs, _ = calibration[0]
        with evaluate_mode(model), torch.no_grad():
            classes = model(first_inputs[:1]).shape[1]
        wanted = method.calibration(classes)
        seed = 0 if generator is None else generator.initial_seed()
        given = sum(len(labels) for _, labels in calibration)
        calibration = list(
            draw_from_batches(calibration, wanted, seeding.generator(seed, "calibration"))
        )
        if given > wanted.images:
            equally = "equally many of each class" if wanted.balanced else "drawn at random"
            warnings.warn(
                f"{criterion} looks at {wanted.images:,} of {given:,} images, {equally}; its "
                "parameters set how many",
                stacklevel=2,
            )
    loss = choose_loss(calibration[0][1]) if calibration else F.cross_entropy
    return method.score(Evidence(model, batches=calibration, generator=generator, loss=loss))


def prune(model: nn.Module, recipe: Recipe, data: Data) -> Iterator[PrunedModel]:
    """Run a recipe on a network: one `PrunedModel` for every target of every criterion, densest
    first.

    `model` provides the weights (and, with `recipe.train`, the initialisation). It is not changed,
    but copied. The device is the model's.

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
    >>> for pruned in prune(net, recipe, data):
    ...     kept = sum(int(mask.sum()) for mask in pruned.masks.values())
    ...     print(pruned.criterion, pruned.sparsity, kept)
    magnitude 0.5 296
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
        for record in pipeline.done:
            if record.target is not None:
                yield PrunedModel(
                    criterion=record.label,
                    requested_sparsity=record.target,
                    sparsity=record.sparsity,
                    model=record.network(),
                    masks=record.masks(),
                    measured=record.measured.document(),
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

    |z' - z| is bounded for every logit z of every input in `batches` (normalised inputs and labels,
    which also calibrate the criterion); certified bounds hold for all of them together with
    probability 1 - delta, see `pruning.analysis.bound_report`. Allocation and sparsifier are the
    criterion's own, and nothing is retrained; a sampler draws `trials` times. Raises
    `EvidenceError` without batches and for masks, `BudgetError` for a density that cannot be
    reached, `ParameterError` for a criterion that moves the weights that remain.

    >>> _ = torch.manual_seed(0)
    >>> net = load_model("mlp", hidden=[8], channels=1, height=2, width=2, classes=2)
    >>> batches = [(torch.rand(16, 1, 2, 2), torch.arange(16) % 2)]
    >>> report = bound(net, "sipp", [0.9, 0.5], batches)
    >>> [(row.requested, row.broken) for row in report.form("deterministic")]
    [(0.1, 0), (0.5, 0)]
    """
    calibration = list(batches)
    if not calibration:
        raise EvidenceError("bounds are for inputs: pass batches of (inputs, labels)")
    refuse_masks(calibration[0][1], "error bounds")
    recipe = Recipe(criterion=Method(name=method, params=params), targets=Targets(sparsity=(0.5,)))
    pruning_method = PruningMethod.of(recipe, recipe.criteria[0])
    rng = generator or torch.Generator().manual_seed(0)
    inputs = torch.cat([batch_inputs for batch_inputs, _ in calibration])
    labels = torch.cat([batch_labels for _, batch_labels in calibration])
    shape = Evidence(model, batches=calibration).shape
    study = Study(model, pruning_method, calibration, shape, rng)
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
    """The scaling law of a family, by depth^phi width^psi density; see `pruning.laws.joint`.

    >>> density = [0.5, 0.25, 0.12, 0.06, 0.03, 0.015]
    >>> shallow = [0.081, 0.085, 0.098, 0.131, 0.201, 0.309]
    >>> deep = [0.061, 0.064, 0.072, 0.092, 0.137, 0.211]
    >>> unpruned = [0.08] * 6 + [0.06] * 6
    >>> law = fit_joint_law(
    ...     [20] * 6 + [56] * 6, 1, density * 2, shallow + deep, unpruned, classes=10
    ... )
    >>> law.predict(32, 1, 0.1, 0.07).value < law.predict(32, 1, 0.05, 0.07).value
    True
    """
    from pruning.laws import joint as laws

    return laws.fit_joint_law(depth, width, density, error, unpruned_error, **options)
