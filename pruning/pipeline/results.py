"""From a pipeline's stages to what a user gets: checkpoint files, evaluations, and the report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from pruning.analysis.job_record import RoundRecord
from pruning.masks import count_parameters, find_collapsed, find_prunable
from pruning.measurement.measure import EVAL_BATCH, Measured, estimate_increase
from pruning.pipeline.descriptions import (
    describe_batchnorm,
    describe_data,
    describe_environment,
    describe_layers,
    describe_model,
    describe_round,
    measure_zeros,
)
from pruning.pipeline.evaluating import run_evaluations
from pruning.pipeline.exports import Exports, Origin
from pruning.pipeline.pipeline import Pipeline
from pruning.schemas.recipe import Gates
from pruning.schemas.report import Checkpoint, Failure, Increase, Network, Report, Section
from pruning.storage.tensor_cache import TensorCache
from pruning.verdict.baseline import guessing_error
from pruning.verdict.gates import check_gates
from pruning.verdict.modelled_shifts import list_shift_warnings
from pruning.verdict.recommendation import References, recommend
from pruning.verdict.shift_guidelines import apply_guideline

__all__ = ["Origin", "Results"]


@dataclass
class Results:
    """Writes each checkpoint as its target is finished and assembles the report.

    `on_file(checkpoint, format, path)` is called with every finished file.
    """

    pipeline: Pipeline
    origin: Origin
    folder: Path
    on_file: Callable[[str, str, Path], None] = field(default=lambda checkpoint, format, path: None)
    cache: TensorCache | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._exports = Exports(self.pipeline, self.origin, self.folder, self.on_file)

    def export(self, record: RoundRecord) -> bool:
        """Write the files of a finished target and measure what the network costs; False when that
        was done before.
        """
        return self._exports.write_checkpoint(record)

    def evaluate(self) -> tuple[dict[str, Section], list[Failure]]:
        """Every evaluation of the recipe: a section, or a failure that leaves the rest whole."""
        return run_evaluations(self.pipeline, self.cache)

    def report(
        self,
        sections: dict[str, Section] | None = None,
        failures: list[Failure] | None = None,
        *,
        partial: bool = False,
    ) -> Report:
        """The report of what is finished."""
        pipeline, recipe, data = self.pipeline, self.pipeline.recipe, self.pipeline.data
        sections = sections or {}
        dense = pipeline.dense()
        checkpoints = tuple(
            self._describe_checkpoint(record, dense, partial)
            for record in pipeline.done
            if record.target is not None
        )
        references = self._describe_references(dense)
        recommendation = apply_guideline(
            recommend(checkpoints, recipe.gates, references),
            checkpoints,
            recipe.shifts,
            sections.get("prune_potential"),
        )
        gates = _select_nominal(recipe.gates) if partial else recipe.gates
        warnings = [*pipeline.ledger.warnings, *list_shift_warnings(pipeline.recipe)]
        if references.retraining_harms:
            warnings.append(references.warning())
        return Report(
            job_id=self.origin.job_id,
            spec=self.origin.spec,
            recipe_digest=recipe.digest(),
            model=describe_model(dense, self.origin, data, recipe.exclude),
            data=describe_data(data, self.origin),
            environment=describe_environment(pipeline.device, data.at_once(EVAL_BATCH)),
            baseline=references.given,
            control=references.control,
            checkpoints=checkpoints,
            rounds=tuple(describe_round(record) for record in pipeline.done),
            sections=sections,
            recommendation=recommendation,
            gates=check_gates(checkpoints, recommendation, gates, sections.get("robustness")),
            failures=(*pipeline.failures, *(failures or ())),
            warnings=tuple(warnings),
            partial=partial,
            usage=pipeline.ledger.seconds,
        )

    def _describe_references(self, dense: nn.Module) -> References:
        """The dense networks and the error of guessing, which checkpoints are compared with."""
        pipeline, data = self.pipeline, self.pipeline.data
        return References(
            given=self._describe_given(dense),
            control=self._describe_control(),
            control_over_given=estimate_increase(
                pipeline.control_measured.wrong, pipeline.given_measured.wrong
            ),
            chance=guessing_error(data.val, len(data.classes)),
        )

    def _describe_given(self, model: nn.Module) -> Network:
        return self._describe_dense("given", model, self.pipeline.given_measured, retrain_epochs=0)

    def _describe_control(self) -> Network:
        pipeline = self.pipeline
        epochs = pipeline.costs.retrain_epochs if pipeline.control_retrained else 0
        return self._describe_dense(
            "control", pipeline.control(), pipeline.control_measured, retrain_epochs=epochs
        )

    def _describe_dense(
        self, name: str, model: nn.Module, measured: Measured, *, retrain_epochs: int
    ) -> Network:
        """The dense network `given` or the dense `control` as the report has it."""
        costs = self._exports.measure_dense(name, model)
        zeros = measure_zeros(find_prunable(model, self.pipeline.recipe.exclude).values())
        return Network(
            **measured.document().model_dump(),
            retrain_epochs=retrain_epochs,
            sparsity=zeros,
            density=1.0 - zeros,
            prune_ratio=0.0,
            parameters=count_parameters(model),
            **costs,
        )

    def _describe_checkpoint(
        self, record: RoundRecord, dense: nn.Module, partial: bool
    ) -> Checkpoint:
        """A finished target as the report has it; `partial` where the job goes on."""
        assert record.target is not None
        costs = self._exports.load_costs(record)
        masks = record.masks()
        removed = sum(int((~mask).sum()) for mask in masks.values())
        total = count_parameters(dense)
        measured = record.measured
        given_measured = self.pipeline.given_measured
        control_measured = self.pipeline.control_measured
        return Checkpoint(
            **measured.document().model_dump(),
            id=record.id,
            label=record.label,
            criterion=record.criterion,
            round=record.round,
            requested_sparsity=record.target,
            sparsity=record.sparsity,
            density=record.density,
            prune_ratio=removed / total,
            parameters=total - removed,
            partial=partial,
            pruned=record.pruned.document(),
            retrained=record.retrained.document() if record.retrained is not None else None,
            batchnorm=describe_batchnorm(record),
            error_increase=Increase(
                given=estimate_increase(measured.wrong, given_measured.wrong),
                control=estimate_increase(measured.wrong, control_measured.wrong),
            ),
            val_error_increase=estimate_increase(measured.val_wrong, control_measured.val_wrong),
            layers=describe_layers(dense, masks, self.pipeline.recipe.exclude),
            retrain_epochs=record.retrain_epochs,
            warnings=tuple(
                f"layer collapse: nothing remains of {layer}" for layer in find_collapsed(masks)
            ),
            **costs,
        )


def _select_nominal(gates: Gates) -> Gates:
    """The gates that can be checked before there are evaluations."""
    return gates.model_copy(update={"max_delta_excess_error": None})
