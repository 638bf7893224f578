"""The errors and losses of the dense network with one layer, or one coupled group of channels,
pruned alone, beside the changes of the loss that local models predict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pruning.analysis.job_record import JobRecord
from pruning.analysis.loss_changes import LossChange, compare_draws
from pruning.data.tensors import Split
from pruning.errors import PRUNING_ERRORS
from pruning.evidence.calibration import BATCH, count_units
from pruning.evidence.criterion import moves_weights
from pruning.evidence.evidence import Evidence
from pruning.evidence.layer_inputs import LayerInputs
from pruning.evidence.local_models import CurvedLocality, predict_linear, sum_removed
from pruning.graphs.prefixes import Prefixes
from pruning.masks import explain_dense, find_prunable, list_layer_shapes
from pruning.measurement.measure import EVAL_BATCH, estimate_error, estimate_increase
from pruning.measurement.objective import choose_loss
from pruning.measurement.paired import adjust_holm, count_paired_errors, mcnemar_p_value
from pruning.rounds.given_zeros import GivenZeros
from pruning.rounds.method import PruningMethod
from pruning.rounds.pruning import mask_scores
from pruning.rounds.round_evidence import collect_evidence
from pruning.rounds.single_units import PrunedUnit, SingleUnits, measure_changes
from pruning.schemas.recipe import Method, Recipe
from pruning.schemas.report import Estimate
from pruning.seeding import generator
from pruning.types import Masks, Scores, Selection

Predictions = Mapping[str, Scores]
"""The predicted change of the loss for each weight that goes, by model: `lm`, `qm`, `obd`."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One unit pruned alone to one level, or the reason why it was not."""

    criterion: str
    unit: str
    level: float | None
    """The sparsity that is asked of the unit; None for a unit that can lose nothing at any."""
    reason: str | None = None
    kept: int | None = None
    total: int | None = None
    error: Estimate | None = None
    increase: Estimate | None = None
    """The error less that of the dense network, paired by image."""
    loss_change: LossChange | None = None
    predicted: Mapping[str, float] = field(default_factory=dict)
    p_value: float | None = None
    """McNemar's exact p-value, after `adjust_p_values` with Holm's correction over all cells."""

    @property
    def is_worse(self) -> bool:
        """Whether the paired test over all cells supports that the error rises."""
        rises = self.increase is not None and self.increase.value > 0
        return rises and self.p_value is not None and self.p_value <= 0.05

    def row(self) -> dict[str, Any]:
        """The row of the table."""
        row: dict[str, Any] = {
            "criterion": self.criterion,
            "unit": self.unit,
            "level": self.level,
            "kept": self.kept,
            "total": self.total,
            "error": self.error.model_dump() if self.error else None,
            "error_increase": self.increase.model_dump() if self.increase else None,
            "adjusted_p_value": self.p_value,
            "loss_change": self.loss_change.document() if self.loss_change else None,
        }
        row |= {f"predicted_{name}": value for name, value in self.predicted.items()}
        return row | {"reason": self.reason}


@dataclass(frozen=True)
class Measured:
    """The cells of one criterion, and what a reader should know of them."""

    cells: list[Cell]
    dense_error: Estimate | None = None
    notes: list[str] = field(default_factory=list)


@dataclass
class SensitivityStudy:
    """The units of a job's dense network, pruned one at a time."""

    record: JobRecord
    split: Split
    """The validation images that are measured."""
    levels: Sequence[float]

    def __post_init__(self) -> None:
        recipe = self.record.recipe
        self.model = self.record.dense().eval()
        self.prefixes = Prefixes(self.model)
        self.batches = list(self.record.data.batches(self.split, EVAL_BATCH))
        weights = find_prunable(self.model, recipe.exclude, recipe.include)
        given = GivenZeros({name: weight != 0 for name, weight in weights.items()})
        self.masks: Masks = given.kept_by(recipe).build_masks(weights)
        self._predictions: Predictions | None = None
        self._prediction_note: str | None = None

    def measure(self, method: Method, label: str) -> Measured:
        """Measure every unit at every level under one criterion of the job, by scores of the dense
        network that are computed once.
        """
        layers = len(self.masks)
        units = count_measuring(len(self.levels) * layers, len(self.split))
        done = 0

        def advance(images: int) -> None:
            nonlocal done, units
            seen = done + images
            total = len(self.split)
            self.record.advance(units * seen // total - units * done // total)
            done = seen

        try:
            pruning_method, single = self._score(method)
        except PRUNING_ERRORS as error:
            self.record.advance(self._count_scoring(method))
            advance(len(self.split))
            return Measured([], notes=[f"{label}: nothing was measured: {error}"])
        self.record.advance(self._count_scoring(method))
        cells: list[Cell] = [
            Cell(criterion=label, unit=_shorten(name), level=None, reason=reason)
            for name, reason in self._explain_left_out(single).items()
        ]
        changes: list[PrunedUnit] = []
        places: list[int] = []
        for unit in single.units:
            for level in self.levels:
                result = single.prune(unit, level)
                cell = Cell(criterion=label, unit=_shorten(unit.name), level=level)
                if isinstance(result, str):
                    cells.append(replace(cell, reason=result))
                    continue
                places.append(len(cells))
                changes.append(result)
                cells.append(replace(cell, kept=result.kept, total=unit.size))
        losses = measure_changes(self.prefixes, self.batches, changes, advance)
        predictions, note = self._predict(pruning_method)
        for number, place in enumerate(places):
            wrong = losses.changed_wrong[number]
            predicted = {
                name: _sum(scores, single.evidence, changes[number].masks)
                for name, scores in predictions.items()
            }
            cells[place] = replace(
                cells[place],
                error=estimate_error(wrong),
                increase=estimate_increase(wrong, losses.wrong),
                loss_change=compare_draws(losses.changed_losses[number][None], losses.losses[None]),
                predicted=predicted,
                p_value=mcnemar_p_value(count_paired_errors(wrong, losses.wrong)),
            )
        notes = [f"{label}: {note}"] if note else []
        return Measured(cells, estimate_error(losses.wrong), notes)

    def _score(self, method: Method) -> tuple[PruningMethod, SingleUnits]:
        """The method of a criterion, and the units of the dense network with its scores, under the
        draws of the first round of a job.
        """
        recipe, data = self.record.recipe, self.record.data
        pruning_method = PruningMethod.of(recipe, method)
        evidence = collect_evidence(self.model, recipe, data, pruning_method, 1)(self.masks, 0)
        scores = mask_scores(evidence, pruning_method.criterion.score(evidence))
        selection = Selection(
            model=self.model,
            weights=evidence.weights,
            scores=scores,
            masks=self.masks,
            density=1.0,
            allocation=pruning_method.allocation,
            sparsifier=pruning_method.sparsifier,
            generator=generator(recipe.seed, "sparsifier", 1),
            shape=lambda: data.shape,
            view=LayerInputs(evidence),
        )
        single = SingleUnits(
            selection=selection,
            granularity=pruning_method.granularity,
            criterion=pruning_method.criterion,
            evidence=evidence,
        )
        _ = single.units  # a network whose channels cannot be distinguished is refused here
        return pruning_method, single

    def _count_scoring(self, method: Method) -> int:
        data, recipe = self.record.data, self.record.recipe
        criterion = PruningMethod.of(recipe, method).criterion
        return count_units(criterion, len(data.classes), len(data.fit))

    def _explain_left_out(self, single: SingleUnits) -> dict[str, str]:
        """The layers of which nothing can be removed at any level, with the reasons."""
        recipe = self.record.recipe
        excluded = {
            name: explain_dense(self.model, name, recipe.exclude, recipe.include)
            for name in list_layer_shapes(self.model)
            if name not in self.masks
        }
        return excluded | single.explain_left_out()

    def _predict(self, method: PruningMethod) -> tuple[Predictions, str | None]:
        """The predictions of local models, and why some or all of them predict nothing."""
        if not _predicts(method):
            besides = "the others move" if _moves(method) else "biases and BatchNorm go with them"
            return {}, (
                "LM, QM and OBD predict what comes of setting weights to zero; here "
                f"{besides} too, so that they predict nothing"
            )
        if self._predictions is None:
            self._predictions = self._build_predictions()
        return self._predictions, self._prediction_note

    def _build_predictions(self) -> Predictions:
        """The models of the loss on the images that are measured, around the dense network."""
        recipe, data = self.record.recipe, self.record.data
        evidence = Evidence(
            self.model,
            self.masks,
            lambda: list(data.batches(self.split, BATCH)),
            generator(recipe.seed, "sensitivity"),
            recipe.exclude,
            include=recipe.include,
            loss=choose_loss(self.split.labels),
            shape=data.shape,
        )
        predictions: dict[str, Scores] = {}
        try:
            predictions["lm"] = predict_linear(evidence)
            quadratic = CurvedLocality().quadratic(evidence)
            predictions["qm"] = {
                name: linear + quadratic[name] for name, linear in predictions["lm"].items()
            }
            predictions["obd"] = quadratic
        except PRUNING_ERRORS as error:
            missing = "QM and OBD" if predictions else "LM, QM and OBD"
            self._prediction_note = f"{missing} could not be computed: {error}"
        self.record.advance(_count_predicting(len(self.split), len(data.classes)))
        return predictions


def adjust_p_values(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells with Holm's correction over all that were measured."""
    tested = [cell.p_value for cell in cells if cell.p_value is not None]
    adjusted = iter(adjust_holm(tested))
    return [
        cell if cell.p_value is None else replace(cell, p_value=next(adjusted)) for cell in cells
    ]


def count_measuring(cells: int, images: int) -> int:
    """Count the work of measuring so many prunings of one unit, in forward passes: with what lies
    before a change computed once, half of the network is computed for each on average.
    """
    return images + cells * images // 2


def count_sensitivity_units(
    recipe: Recipe, *, layers: int, levels: int, images: int, fit: int, classes: int
) -> int:
    """Count the work of a study in forward passes: scores and measurements of each criterion.

    Gradient and curvature of the predictions are computed once.
    """
    methods = [PruningMethod.of(recipe, method) for method in recipe.criteria]
    work = sum(count_units(method.criterion, classes, fit) for method in methods)
    if any(_predicts(method) for method in methods):
        work += _count_predicting(images, classes)
    return work + len(methods) * count_measuring(levels * layers, images)


def _count_predicting(images: int, classes: int) -> int:
    """The work of a gradient and a curvature."""
    return CurvedLocality(images=images).units(classes)


def _predicts(method: PruningMethod) -> bool:
    """Whether a method does what local models predict: it sets weights to zero and no more."""
    return not (method.compacts or _moves(method))


def _moves(method: PruningMethod) -> bool:
    """Whether a method moves the weights that remain."""
    return moves_weights(method.criterion) or bool(getattr(method.sparsifier, "reweights", False))


def _sum(changes: Scores, evidence: Evidence, masks: Masks) -> float:
    """The sum of the changes over the weights that go."""
    own = {name: changes[name] for name in masks if name in changes}
    return sum_removed(own, evidence, masks)


def _shorten(name: str) -> str:
    """The name of the layer of a weight, by which a recipe may include it."""
    return name.removesuffix(".weight")
