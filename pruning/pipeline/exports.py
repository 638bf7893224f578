"""The files of checkpoints, and the costs of the networks in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from pruning.analysis.job_record import RoundRecord, find_control
from pruning.channels.compaction import write_arch
from pruning.data.tensors import Data
from pruning.errors import CheckpointError, MissingPackageError
from pruning.measurement.costs import count_flops, measure_file_sizes
from pruning.measurement.onnx_network import check_onnx, describe_disagreement
from pruning.measurement.rounded_network import check_rounded
from pruning.pipeline.exported_network import ExportedNetwork
from pruning.pipeline.huggingface_export import explain_no_folder, write_huggingface
from pruning.pipeline.latencies import SHAPES, Latencies
from pruning.pipeline.pipeline import Pipeline
from pruning.reporting.model_card import CardFacts, write_model_card
from pruning.schemas.outputs import FileFormat, Outputs, name_file
from pruning.storage.checkpoints import WRITERS, write_pth
from pruning.storage.compressed import write_compressed
from pruning.storage.onnx_files import write_onnx
from pruning.storage.semi_structured import write_semi_structured
from pruning.types import Masks


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The origin of a job's network and data, for its report and its files."""

    job_id: str
    spec: dict[str, Any]
    architecture: str
    kwargs: dict[str, Any]
    model_sha256: str | None
    dataset_name: str
    dataset_sha256: str

    def of(self, record: RoundRecord) -> Origin:
        """The origin of a network of the job, which may have an architecture of its own."""
        own = record.own_architecture
        if own is None:
            return self
        return replace(self, architecture=own.architecture, kwargs=own.kwargs)


def has_arch(record: RoundRecord) -> bool:
    """Whether `arch.json` is needed to rebuild a network of the job."""
    return record.compacted or (
        record.own_architecture is not None and record.own_architecture.has_arch
    )


def describe_origin(origin: Origin, data: Data) -> dict[str, Any]:
    """The metadata that all files of a job have."""
    return {
        "architecture": origin.architecture,
        "kwargs": origin.kwargs,
        "classes": data.classes,
        "normalize": {"mean": data.mean, "std": data.std},
        "preprocessing": data.preprocessing.model_dump(mode="json"),
    }


def _select_masks(record: RoundRecord) -> Masks:
    """The masks of the files of a network; of one with an architecture of its own those of the
    layers that have zeros, as its others are whole.
    """
    masks = {name: mask.cpu() for name, mask in record.masks().items()}
    if record.own_architecture is None:
        return masks
    return {name: mask for name, mask in masks.items() if not bool(mask.all())}


@dataclass(frozen=True, kw_only=True)
class Exports:
    """Writes the files of checkpoints into a folder, and measures what networks cost, each once.

    `on_file(checkpoint, format, path)` is called with every finished file.
    """

    pipeline: Pipeline
    origin: Origin
    folder: Path
    on_file: Callable[[str, str, Path], None]
    outputs: Outputs

    @property
    def _latencies(self) -> Latencies:
        return Latencies(
            pipeline=self.pipeline,
            outputs=self.outputs,
            measure_given=lambda: self.measure_dense("given", self.pipeline.dense()),
            write_given_onnx=self._write_given_onnx,
        )

    def write_checkpoint(self, record: RoundRecord) -> bool:
        """Write the files of a finished target and measure its network; False when that was done
        before.

        A file that cannot be made beyond the packed ones is a warning of the checkpoint.
        """
        pipeline = self.pipeline
        pipeline.watcher.stage("export", record.id)
        stage = f"export-{record.id}"
        if pipeline.stages.open(stage) is not None:
            return False
        exported = ExportedNetwork(
            name=record.id,
            model=record.network(),
            masks=_select_masks(record),
            info=self._describe_file(record),
            compacted=record.compacted,
        )
        self._write_packed(exported, record)
        self._measure_costs(exported)
        self._write_further(exported, record)
        if not self._latencies.take(exported):
            self._latencies.measure(exported, reference=pipeline.dense())
        pipeline.stages.save(stage, {}, exported.note | {"warnings": exported.warnings})
        return True

    def load_costs(self, record: RoundRecord) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The costs of a finished target, whose files are written (FLOPs, bytes, latency, the check
        of the ONNX file), and the warnings of its files.
        """
        stored = self.pipeline.stages.open(f"export-{record.id}")
        assert stored is not None
        costs = dict(stored.note)
        costs.pop(SHAPES, None)
        return costs, tuple(costs.pop("warnings", ()))

    def measure_dense(self, name: str, model: nn.Module) -> dict[str, Any]:
        """The costs of the dense network `given` or the dense `control`, which is compared with the
        given one.

        The control's latency is that of the given one, from which it differs in its values alone.
        """
        pipeline = self.pipeline
        stage = f"export-{name}"
        if pipeline.stages.open(stage) is None:
            start_masks = pipeline.build_start_masks(model)
            exported = ExportedNetwork(
                name=name,
                model=model,
                masks={key: mask.cpu() for key, mask in start_masks.items()},
                info=self._describe_file(None),
            )
            self._measure_costs(exported)
            if name == "given":
                if "onnxruntime" in self.outputs.latency.runtimes:
                    try:
                        exported.onnx_path = self._write_given_onnx()
                    except CheckpointError as error:
                        exported.warnings.append(f"no latency in onnxruntime: {error}")
                self._latencies.measure(exported, reference=None)
            else:
                self._latencies.take(exported)
            pipeline.stages.save(stage, {}, exported.note | {"warnings": exported.warnings})
        stored = pipeline.stages.open(stage)
        assert stored is not None
        costs = dict(stored.note)
        costs.pop(SHAPES, None)
        for warning in costs.pop("warnings", ()):
            message = f"the dense network: {warning}"
            if message not in pipeline.ledger.warnings:
                pipeline.ledger.warn(message)
        return costs

    def _write_packed(self, exported: ExportedNetwork, record: RoundRecord) -> None:
        """Write the formats that every checkpoint has."""
        for format, write in WRITERS.items():
            path = self.folder / f"{exported.name}.{format}.safetensors"
            applied = exported.masks if format == "masks" else exported.applied_masks
            write(path, exported.model.state_dict(), applied, **exported.info)
            self.on_file(exported.name, format, path)
        if has_arch(record):
            path = self.folder / name_file(exported.name, "arch")
            origin = self.origin.of(record)
            write_arch(path, exported.model, origin.architecture, origin.kwargs)
            self.on_file(exported.name, "arch", path)

    def _write_further(self, exported: ExportedNetwork, record: RoundRecord) -> None:
        """Write the formats that the job asks for."""
        state = exported.model.state_dict()
        if "pth" in self.outputs.formats:
            path = self.folder / name_file(exported.name, "pth")
            write_pth(path, state)
            self._announce(exported, "pth", path)
        if "compressed" in self.outputs.formats:
            self._write_compressed(exported)
        if "semi_structured" in self.outputs.formats:
            path = self.folder / name_file(exported.name, "semi_structured")
            if write_semi_structured(path, state, exported.applied_masks, **exported.info):
                self._announce(exported, "semi_structured", path)
            else:
                path.unlink()
                exported.warnings.append(
                    "no semi_structured file: no layer has at most 2 of every 4 weights and a "
                    "multiple of 32 outputs and of 64 inputs"
                )
        if "huggingface" in self.outputs.formats:
            self._write_huggingface(exported, record)
        if self.outputs.needs_onnx:
            self._write_onnx(exported)
        if "onnx" in self.outputs.formats:
            self._check_onnx(exported, record)

    def _write_compressed(self, exported: ExportedNetwork) -> None:
        """Write the compressed file, and measure the network of its values where they are rounded;
        where they cannot be, warn.
        """
        path = self.folder / name_file(exported.name, "compressed")
        values = self.outputs.compressed_values
        state = exported.model.state_dict()
        try:
            write_compressed(path, state, exported.applied_masks, values=values, **exported.info)
        except CheckpointError as error:
            exported.warnings.append(f"no compressed file: {error}")
            return
        if values != "exact":
            check = check_rounded(path, exported.model, self.pipeline.data, values)
            exported.note["rounded"] = check.model_dump(mode="json")
        self._announce(exported, "compressed", path)

    def _write_huggingface(self, exported: ExportedNetwork, record: RoundRecord) -> None:
        """Write the folder of Hugging Face; where there is none of such a network, warn."""
        origin = self.origin.of(record)
        reason = explain_no_folder(origin.architecture, compacts=has_arch(record))
        path = self.folder / name_file(exported.name, "huggingface")
        try:
            if reason is not None:
                raise CheckpointError(reason)
            write_huggingface(
                path,
                exported.model,
                origin.kwargs,
                classes=self.pipeline.data.classes,
                preprocessing=exported.info["preprocessing"],
                card=write_model_card(self._collect_facts(record)),
            )
        except (CheckpointError, MissingPackageError) as error:
            exported.warnings.append(f"no huggingface file: {error}")
            return
        self._announce(exported, "huggingface", path)

    def _collect_facts(self, record: RoundRecord) -> CardFacts:
        """The facts of the model card of a checkpoint."""
        pipeline = self.pipeline
        control = find_control(pipeline.controls, record)
        assert control is not None
        return CardFacts(
            id=record.id,
            job=self.origin.job_id,
            task="segmentation" if pipeline.data.segmentation else "classification",
            dataset=self.origin.dataset_name,
            test_images=len(pipeline.data.test),
            criterion=record.criterion,
            sparsity=record.sparsity,
            retrain_epochs=record.retrain_epochs,
            pruned=record.measured.document(),
            given=pipeline.given_measured.document(),
            control=control.measured.document(),
        )

    def _write_given_onnx(self) -> Path:
        """The ONNX file of the network as given, which others run in turn with, made once.

        Raises `CheckpointError` where it cannot be made.
        """
        path = self.folder / name_file("given", "onnx")
        if not path.exists():
            network, info = self.pipeline.dense(), self._describe_file(None)
            write_onnx(path, network, self.pipeline.data.shape, **info)
        return path

    def _write_onnx(self, exported: ExportedNetwork) -> None:
        """Write the ONNX file of a network; where that fails, warn."""
        path = self.folder / name_file(exported.name, "onnx")
        try:
            write_onnx(path, exported.model, self.pipeline.data.shape, **exported.info)
        except CheckpointError as error:
            exported.warnings.append(f"no ONNX file: {error}")
            return
        exported.onnx_path = path

    def _check_onnx(self, exported: ExportedNetwork, record: RoundRecord) -> None:
        """Compare the ONNX file with its network, and hand it out where onnxruntime runs it."""
        path = exported.onnx_path
        if path is None:
            return
        try:
            check = check_onnx(path, exported.model, self.pipeline.data)
        except CheckpointError as error:
            exported.warnings.append(f"no ONNX file: {error}")
            exported.onnx_path = None
            return
        exported.note["onnx"] = check.model_dump(mode="json")
        disagreement = describe_disagreement(check, record.measured.document().error.value)
        if disagreement is not None:
            exported.warnings.append(disagreement)
        self._announce(exported, "onnx", path)

    def _announce(self, exported: ExportedNetwork, format: FileFormat, path: Path) -> None:
        """Hand out a file, with its size in the report."""
        exported.note["size_bytes"][format] = path.stat().st_size
        self.on_file(exported.name, format, path)

    def _measure_costs(self, exported: ExportedNetwork) -> None:
        """Count FLOPs, and bytes by format."""
        flops_masks = None if exported.compacted else exported.masks
        exported.note |= {
            "flops": count_flops(exported.model, self.pipeline.data.shape, flops_masks),
            "size_bytes": measure_file_sizes(
                exported.model.state_dict(),
                exported.masks,
                compacted=exported.compacted,
                **exported.info,
            ),
        }

    def _describe_file(self, record: RoundRecord | None) -> dict[str, Any]:
        """The metadata of a checkpoint file; nothing in it differs between two equal runs."""
        origin = self.origin if record is None else self.origin.of(record)
        info = describe_origin(origin, self.pipeline.data)
        if record is not None:
            info["criterion"] = record.criterion.model_dump(mode="json")
            info["sparsity"] = record.sparsity
        return info
