"""From a pipeline's stages to what a user gets: checkpoint files, evaluations, and the report."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruning.analysis.applicability import applies_to, check_task
from pruning.analysis.job_record import JobRecord, RoundRecord
from pruning.channels.compaction import write_arch
from pruning.errors import SecateurError
from pruning.evaluations import evaluations
from pruning.masks import (
    build_full_masks,
    count_parameters,
    explain_dense,
    find_collapsed,
    find_prunable,
)
from pruning.measurement.costs import count_flops, measure_file_sizes, measure_latency
from pruning.measurement.measure import EVAL_BATCH, Measured, estimate_increase
from pruning.pipeline.pipeline import Pipeline
from pruning.pipeline.second_network import train_second_network
from pruning.schemas.recipe import Gates, Method
from pruning.schemas.report import (
    BatchNorm,
    Checkpoint,
    DataInfo,
    Environment,
    Failure,
    Increase,
    Layer,
    ModelInfo,
    Network,
    Report,
    Round,
    Section,
)
from pruning.storage.checkpoints import WRITERS
from pruning.storage.tensor_cache import TensorCache
from pruning.types import Masks
from pruning.verdict.baseline import guessing_error
from pruning.verdict.gates import check_gates
from pruning.verdict.recommendation import References, recommend
from pruning.verdict.shift_guidelines import apply_guideline

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What the report says of where things came from."""

    job_id: str
    spec: dict[str, Any]
    architecture: str
    kwargs: dict[str, Any]
    model_sha256: str | None
    dataset_name: str
    dataset_sha256: str


@dataclass
class Results:
    """Writes each checkpoint as its target is finished and assembles the report.

    `on_file(checkpoint, format, path)` is told of every finished file.
    """

    pipeline: Pipeline
    origin: Origin
    folder: Path
    on_file: Callable[[str, str, Path], None] = field(default=lambda checkpoint, format, path: None)
    cache: TensorCache | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def export(self, done: RoundRecord) -> bool:
        """Write the files of a finished target and measure what the network costs; False when that
        was done before.
        """
        cid, pipeline = done.id, self.pipeline
        pipeline.watcher.stage("export", cid)
        name = f"export-{cid}"
        if pipeline.stages.load(name) is not None:
            return False
        model, masks = done.network(), {key: mask.cpu() for key, mask in done.masks().items()}
        for format, write in WRITERS.items():
            path = self.folder / f"{cid}.{format}.safetensors"
            write(
                path,
                model.state_dict(),
                {} if done.compacted and format != "masks" else masks,
                **self._info(done),
            )
            self.on_file(cid, format, path)
        if done.compacted:
            path = self.folder / f"{cid}.arch.json"
            write_arch(path, model, self.origin.architecture, self.origin.kwargs)
            self.on_file(cid, "arch", path)
        costs = self._costs(
            model, masks, self._info(done), pipeline.dense(), compacted=done.compacted
        )
        pipeline.stages.save(name, {}, costs)
        return True

    def evaluate(self) -> tuple[dict[str, Section], list[Failure]]:
        """Every evaluation of the recipe: a section, or a failure that leaves the rest whole."""
        pipeline, recipe = self.pipeline, self.pipeline.recipe
        sections: dict[str, Section] = {}
        trial = JobRecord(
            data=pipeline.data,
            dense=pipeline.dense,
            control=pipeline.control,
            given_measured=pipeline.given_measured,
            control_measured=pipeline.control_measured,
            rounds=pipeline.done,
            recipe=recipe,
            sections=sections,
            separate=partial(train_second_network, pipeline),
            cache=self.cache,
            advance=pipeline.ledger.advance,
        )
        wanted = recipe.evaluations
        if wanted is None:
            wanted = tuple(Method(name=name) for name in evaluations.names())
        failures: list[Failure] = []
        for method in sorted(wanted, key=_reads):
            pipeline.watcher.stage("evaluate", method.name)
            stage = f"evaluation-{method.name}"
            saved = pipeline.stages.load(stage)
            if saved is not None:
                with pipeline.ledger.share(pipeline.evaluations.get(method.name, 0)):
                    sections[method.name] = Section.model_validate(saved[1]["section"])
                continue
            begin = time.monotonic()
            with pipeline.ledger.share(pipeline.evaluations.get(method.name, 0)):
                try:
                    evaluation = evaluations.create(method.name, method.params)
                    if recipe.evaluations is None and not applies_to(evaluation, trial):
                        continue
                    check_task(evaluation, method.name, segmentation=pipeline.data.segmentation)
                    sections[method.name] = evaluation.evaluate(trial)
                except Exception as error:  # an evaluation must not cost the user the checkpoints
                    logger.exception("evaluation %s failed", method.name)
                    code = error.code if isinstance(error, SecateurError) else "evaluation_failed"
                    failures.append(
                        Failure(
                            name=method.name, code=code, message=f"{type(error).__name__}: {error}"
                        )
                    )
                    continue
            pipeline.stages.save(
                stage, {}, {"section": sections[method.name].model_dump(mode="json")}
            )
            pipeline.ledger.seconds[stage] = time.monotonic() - begin
        return {
            method.name: sections[method.name] for method in wanted if method.name in sections
        }, failures

    def report(
        self,
        sections: dict[str, Section] | None = None,
        failures: list[Failure] | None = None,
        *,
        partial: bool = False,
    ) -> Report:
        """The report of what is finished."""
        pipeline, recipe = self.pipeline, self.pipeline.recipe
        dense = pipeline.dense()
        checkpoints = tuple(
            self._checkpoint(done, dense, partial)
            for done in pipeline.done
            if done.target is not None
        )
        data = pipeline.data
        baseline = self._dense_network("given", dense, pipeline.given_measured)
        control = self._dense_network("control", pipeline.control(), pipeline.control_measured)
        references = References(
            baseline,
            control,
            estimate_increase(pipeline.control_measured.wrong, pipeline.given_measured.wrong),
            guessing_error(data.val, len(data.classes)),
        )
        recommendation = apply_guideline(
            recommend(checkpoints, recipe.gates, references),
            checkpoints,
            recipe.shifts,
            (sections or {}).get("prune_potential"),
        )
        warnings = pipeline.ledger.warnings + (
            [references.warning()] if references.retraining_harms else []
        )
        return Report(
            job_id=self.origin.job_id,
            spec=self.origin.spec,
            recipe_digest=recipe.digest(),
            model=ModelInfo(
                architecture=self.origin.architecture,
                kwargs=self.origin.kwargs,
                sha256=self.origin.model_sha256,
                parameters=count_parameters(dense),
                prunable=sum(w.numel() for w in find_prunable(dense, recipe.exclude).values()),
                normalize={"mean": data.mean, "std": data.std},
            ),
            data=DataInfo(
                name=self.origin.dataset_name,
                sha256=self.origin.dataset_sha256,
                classes=data.classes,
                shape=data.shape,
                fit=len(data.fit),
                val=len(data.val),
                test=len(data.test),
                task="segmentation" if data.segmentation else "classification",
            ),
            environment=describe_environment(pipeline.device, data.at_once(EVAL_BATCH)),
            baseline=baseline,
            control=control,
            checkpoints=checkpoints,
            rounds=tuple(
                Round(
                    criterion=one.criterion,
                    round=one.round,
                    sparsity=one.sparsity,
                    density=one.density,
                    target=one.target is not None,
                    pruned=one.pruned.document(),
                    retrained=one.retrained.document() if one.retrained is not None else None,
                    batchnorm=describe_batchnorm(one),
                )
                for one in pipeline.done
            ),
            sections=sections or {},
            recommendation=recommendation,
            gates=check_gates(
                checkpoints,
                recommendation,
                _nominal(recipe.gates) if partial else recipe.gates,
                (sections or {}).get("robustness"),
            ),
            failures=(*pipeline.failures, *(failures or ())),
            warnings=tuple(warnings),
            partial=partial,
            usage=pipeline.ledger.seconds,
        )

    def _dense_network(self, name: str, model: nn.Module, measured: Measured) -> Network:
        stage = f"export-{name}"
        saved = self.pipeline.stages.load(stage)
        if saved is None:
            masks = {
                key: mask.cpu()
                for key, mask in build_full_masks(
                    find_prunable(model, self.pipeline.recipe.exclude)
                ).items()
            }
            given = None if name == "given" else self.pipeline.dense()
            self.pipeline.stages.save(stage, {}, self._costs(model, masks, self._info(None), given))
            saved = self.pipeline.stages.load(stage)
            assert saved is not None
        epochs = (
            self.pipeline.costs.retrain_epochs
            if name == "control" and self.pipeline.control_retrained
            else 0
        )
        zero = measure_zeros(find_prunable(model, self.pipeline.recipe.exclude).values())
        return Network(
            **measured.document().model_dump(),
            retrain_epochs=epochs,
            sparsity=zero,
            density=1.0 - zero,
            prune_ratio=0.0,
            parameters=count_parameters(model),
            **saved[1],
        )

    def _checkpoint(self, done: RoundRecord, dense: nn.Module, partial: bool) -> Checkpoint:
        saved = self.pipeline.stages.load(f"export-{done.id}")
        assert saved is not None
        assert done.target is not None
        masks = done.masks()
        removed = sum(int((~mask).sum()) for mask in masks.values())
        total = count_parameters(dense)
        given, control = self.pipeline.given_measured, self.pipeline.control_measured
        return Checkpoint(
            **done.measured.document().model_dump(),
            id=done.id,
            criterion=done.criterion,
            round=done.round,
            requested_sparsity=done.target,
            sparsity=done.sparsity,
            density=done.density,
            prune_ratio=removed / total,
            parameters=total - removed,
            partial=partial,
            pruned=done.pruned.document(),
            retrained=done.retrained.document() if done.retrained is not None else None,
            batchnorm=describe_batchnorm(done),
            error_increase=Increase(
                given=estimate_increase(done.measured.wrong, given.wrong),
                control=estimate_increase(done.measured.wrong, control.wrong),
            ),
            val_error_increase=estimate_increase(done.measured.val_wrong, control.val_wrong),
            layers=describe_layers(dense, masks, self.pipeline.recipe.exclude),
            retrain_epochs=done.retrain_epochs,
            warnings=tuple(
                f"layer collapse: nothing remains of {layer}" for layer in find_collapsed(masks)
            ),
            **saved[1],
        )

    def _costs(
        self,
        model: nn.Module,
        masks: Masks,
        info: dict[str, Any],
        given: nn.Module | None,
        *,
        compacted: bool = False,
    ) -> dict[str, Any]:
        shape, batches = (
            self.pipeline.data.shape,
            (1,) if self.pipeline.data.segmentation else (1, 64),
        )
        return {
            "flops": count_flops(model, shape, None if compacted else masks),
            "size_bytes": measure_file_sizes(
                model.state_dict(), masks, compacted=compacted, **info
            ),
            "latency_ms": [
                one.model_dump() for one in measure_latency(model, shape, given, batches)
            ],
        }

    def _info(self, done: RoundRecord | None) -> dict[str, Any]:
        """What a checkpoint file says of itself; nothing that differs between two equal runs."""
        data = self.pipeline.data
        info: dict[str, Any] = {
            "architecture": self.origin.architecture,
            "kwargs": self.origin.kwargs,
            "classes": data.classes,
            "normalize": {"mean": data.mean, "std": data.std},
        }
        if done is not None:
            info |= {"criterion": done.criterion.model_dump(mode="json"), "sparsity": done.sparsity}
        return info


def _reads(method: Method) -> bool:
    """Whether an evaluation reads the sections of others."""
    return method.name in evaluations.names() and bool(
        getattr(evaluations.get(method.name), "reads", ())
    )


def describe_batchnorm(done: RoundRecord) -> BatchNorm | None:
    """What re-estimating BatchNorm did in a round, if it was."""
    found = done.batchnorm
    return (
        None
        if found is None
        else BatchNorm(
            loss_before=found["before"], loss_after=found["after"], kept=bool(found["kept"])
        )
    )


def describe_layers(model: nn.Module, masks: Masks, exclude: tuple[str, ...]) -> tuple[Layer, ...]:
    """Every parameter: how many weights remain, or why it was left dense."""
    found = []
    for name, parameter in model.named_parameters():
        pruned = name in masks
        found.append(
            Layer(
                name=name,
                shape=tuple(parameter.shape),
                total=parameter.numel(),
                kept=int(masks[name].sum()) if pruned else parameter.numel(),
                reason=None if pruned else explain_dense(model, name, exclude),
            )
        )
    return tuple(found)


def measure_zeros(weights: Iterable[Tensor]) -> float:
    """Fraction of the weights that are exactly zero; of a network trained with an L1 penalty many
    are before any pruning.
    """
    found = [(int((weight == 0).sum()), weight.numel()) for weight in weights]
    return sum(zero for zero, _ in found) / sum(total for _, total in found)


def describe_environment(device: torch.device, batch: int = EVAL_BATCH) -> Environment:
    """Where the numbers are measured, in batches of so many images."""
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.processor() or platform.machine()
    )
    return Environment(
        device=device.type,
        device_name=name,
        threads=torch.get_num_threads(),
        eval_batch=batch,
        torch=torch.__version__,
        python=platform.python_version(),
        secateur=importlib.metadata.version("secateur"),
        platform=platform.platform(),
    )


def _nominal(gates: Gates) -> Gates:
    """Those that can be held before there are evaluations."""
    return gates.model_copy(update={"max_delta_excess_error": None})
