"""From a pipeline's stages to what a user gets: checkpoint files, evaluations, and the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from pruning.analysis.job_record import ControlRecord, RoundRecord, find_control
from pruning.masks import count_parameters, find_collapsed, find_prunable
from pruning.measurement.guessing import is_guessing
from pruning.measurement.measure import EVAL_BATCH, Measured, estimate_increase
from pruning.measurement.paired import count_paired_errors
from pruning.pipeline.descriptions import (
    describe_batchnorm,
    describe_budget,
    describe_data,
    describe_environment,
    describe_layers,
    describe_model,
    describe_round,
    measure_zeros,
)
from pruning.pipeline.evaluating import run_evaluations
from pruning.pipeline.exports import Exports, Origin, has_arch
from pruning.pipeline.load_snippet import write_load_snippet
from pruning.pipeline.pipeline import Pipeline
from pruning.schemas.gates import EVALUATION_OF_GATE, Gates
from pruning.schemas.outputs import Outputs
from pruning.schemas.report import (
    Checkpoint,
    ControlNetwork,
    Failure,
    Increase,
    Network,
    Report,
    Section,
)
from pruning.schemas.verdicts import PairedCounts
from pruning.types import Masks
from pruning.verdict.decision import decide
from pruning.verdict.gates import check_gates
from pruning.verdict.joint import state_jointly
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
    outputs: Outputs = field(default=Outputs(), kw_only=True)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._exports = Exports(
            pipeline=self.pipeline,
            origin=self.origin,
            folder=self.folder,
            on_file=self.on_file,
            outputs=self.outputs,
        )

    def export(self, record: RoundRecord) -> bool:
        """Write the files of a finished target and measure what the network costs; False when that
        was done before.
        """
        return self._exports.write_checkpoint(record)

    def evaluate(self) -> tuple[dict[str, Section], list[Failure]]:
        """Every evaluation of the recipe: a section, or a failure that leaves the rest whole."""
        return run_evaluations(self.pipeline, self.pipeline.cache)

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
        given = self._describe_dense("given", dense, pipeline.given_measured)
        controls = tuple(self._describe_control(control) for control in pipeline.controls)
        references = self._describe_references(given, controls)
        recommendation = apply_guideline(
            recommend(checkpoints, recipe.gates, references),
            checkpoints,
            recipe.shifts,
            sections.get("prune_potential"),
        )
        gates = _select_early(recipe.gates) if partial else recipe.gates
        held = check_gates(checkpoints, recommendation, gates, sections)
        recommendation = decide(
            recommendation, checkpoints, held, gates.confidence, partial=partial
        )
        warnings = [*pipeline.ledger.warnings, *list_shift_warnings(recipe)]
        if references.retraining_harms:
            warnings.append(references.warning())
        return Report(
            job_id=self.origin.job_id,
            spec=self.origin.spec,
            recipe_digest=recipe.digest(),
            model=describe_model(dense, self.origin, data, recipe),
            data=describe_data(data, self.origin),
            environment=describe_environment(
                pipeline.device, data.at_once(EVAL_BATCH), pipeline.precision.describe()
            ),
            baseline=given,
            control=_drop_name(controls[0]),
            controls=controls,
            checkpoints=checkpoints,
            rounds=tuple(describe_round(record) for record in pipeline.done),
            sections=sections,
            recommendation=recommendation,
            gates=held,
            joint=state_jointly(checkpoints, recommendation, gates, sections),
            failures=(*pipeline.failures, *(failures or ())),
            warnings=tuple(warnings),
            partial=partial,
            usage=pipeline.ledger.seconds,
        )

    def _describe_references(
        self, given: Network, controls: Sequence[ControlNetwork]
    ) -> References:
        """The dense networks that checkpoints are compared with; of
        several controls the one with the most retrainings, which shows what retraining does.
        """
        pipeline = self.pipeline
        return References(
            given=given,
            control=controls[-1],
            control_over_given=estimate_increase(
                pipeline.controls[-1].measured.wrong, pipeline.given_measured.wrong
            ),
        )

    def _describe_control(self, control: ControlRecord) -> ControlNetwork:
        """A dense control as the report has it."""
        network = self._describe_dense(
            "control", control.network(), control.measured, retrain_epochs=control.retrain_epochs
        )
        first = self.pipeline.controls[0].name
        return ControlNetwork(
            **dict(network),
            name=control.name,
            costs_of=None if control.name == first else first,
            retrainings=control.retrainings,
        )

    def _describe_dense(
        self, name: str, model: nn.Module, measured: Measured, *, retrain_epochs: int = 0
    ) -> Network:
        """The dense network `given` or a dense `control` as the report has it.

        What a control costs is measured of the first alone: the others differ in their values.
        """
        costs = self._exports.measure_dense(name, model)
        recipe = self.pipeline.recipe
        zeros = measure_zeros(find_prunable(model, recipe.exclude, recipe.include).values())
        removed = self.pipeline.zeros.count
        total = count_parameters(model)
        return Network(
            **measured.document().model_dump(),
            retrain_epochs=retrain_epochs,
            sparsity=zeros,
            density=1.0 - zeros,
            prune_ratio=removed / total,
            parameters=total - removed,
            **costs,
        )

    def _describe_checkpoint(
        self, record: RoundRecord, dense: nn.Module, partial: bool
    ) -> Checkpoint:
        """A finished target as the report has it; `partial` where the job goes on."""
        assert record.target is not None
        costs, file_warnings = self._exports.load_costs(record)
        data, recipe = self.pipeline.data, self.pipeline.recipe
        masks = record.masks()
        total = count_parameters(dense)
        removed = record.count_removed(total)
        layered = dense if record.own_architecture is None else record.network()
        measured = record.measured
        given_measured = self.pipeline.given_measured
        control = find_control(self.pipeline.controls, record)
        assert control is not None
        return Checkpoint(
            **measured.document().model_dump(),
            id=record.id,
            label=record.label,
            criterion=record.criterion,
            round=record.round,
            requested_sparsity=record.target if recipe.prunes and record.budget is None else None,
            requested=describe_budget(record, recipe.targets, costs, total - removed),
            sparsity=record.sparsity,
            density=record.density,
            prune_ratio=removed / total,
            parameters=total - removed,
            partial=partial,
            pruned=record.pruned.document(),
            retrained=record.retrained.document() if record.retrained is not None else None,
            batchnorm=describe_batchnorm(record),
            control=control.name,
            error_increase=Increase(
                given=estimate_increase(measured.wrong, given_measured.wrong),
                control=estimate_increase(measured.wrong, control.measured.wrong),
                given_counts=_count(measured.wrong, given_measured.wrong),
                control_counts=_count(measured.wrong, control.measured.wrong),
            ),
            val_error_increase=estimate_increase(measured.val_wrong, control.measured.val_wrong),
            guesses=is_guessing(measured.val_wrong, data.val.labels, len(data.classes)),
            val_counts=_count(measured.val_wrong, control.measured.val_wrong),
            layers=describe_layers(layered, masks, recipe),
            retrain_epochs=record.retrain_epochs,
            load_snippet=write_load_snippet(
                record.id, self.origin.of(record), data, compacted=has_arch(record)
            ),
            warnings=(*_list_checkpoint_warnings(measured, masks), *file_warnings),
            **costs,
        )


def _list_checkpoint_warnings(measured: Measured, masks: Masks) -> tuple[str, ...]:
    """Sentences on what is wrong with a checkpoint."""
    warnings = [f"layer collapse: nothing remains of {layer}" for layer in find_collapsed(masks)]
    broken, images = measured.non_finite[0], len(measured.wrong)
    if broken:
        warnings.append(
            f"outputs are NaN or infinite for {broken} of {images} test images, counted as wrong"
        )
    return tuple(warnings)


def _drop_name(control: ControlNetwork) -> Network:
    """The control as a network among others."""
    return Network(**{name: getattr(control, name) for name in Network.model_fields})


def _select_early(gates: Gates) -> Gates:
    """The gates that can be checked before there are evaluations."""
    return gates.model_copy(
        update={name: Gates().model_dump()[name] for name in EVALUATION_OF_GATE}
    )


def _count(first: Tensor, second: Tensor) -> PairedCounts | None:
    """The images that only one of two networks gets wrong; None where images have errors between
    right and wrong.
    """
    if first.dtype != torch.bool:
        return None
    errors = count_paired_errors(first, second)
    return PairedCounts(
        only_checkpoint=errors.only_first, only_reference=errors.only_second, n=errors.n
    )
