"""The files of checkpoints, and the costs of the networks in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from pruning.analysis.job_record import RoundRecord
from pruning.channels.compaction import write_arch
from pruning.measurement.costs import count_flops, measure_file_sizes, measure_latency
from pruning.pipeline.pipeline import Pipeline
from pruning.storage.checkpoints import WRITERS
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


@dataclass(frozen=True)
class Exports:
    """Writes the files of checkpoints into a folder, and measures what networks cost, each once.

    `on_file(checkpoint, format, path)` is called with every finished file.
    """

    pipeline: Pipeline
    origin: Origin
    folder: Path
    on_file: Callable[[str, str, Path], None]

    def write_checkpoint(self, record: RoundRecord) -> bool:
        """Write the files of a finished target and measure its network; False when that was done
        before.
        """
        pipeline = self.pipeline
        pipeline.watcher.stage("export", record.id)
        stage = f"export-{record.id}"
        if pipeline.stages.open(stage) is not None:
            return False
        model = record.network()
        masks = {name: mask.cpu() for name, mask in record.masks().items()}
        info = self._describe_file(record)
        for format, write in WRITERS.items():
            path = self.folder / f"{record.id}.{format}.safetensors"
            # The tensors of a compacted network no longer have the shapes of the masks.
            applied = {} if record.compacted and format != "masks" else masks
            write(path, model.state_dict(), applied, **info)
            self.on_file(record.id, format, path)
        if record.compacted:
            path = self.folder / f"{record.id}.arch.json"
            write_arch(path, model, self.origin.architecture, self.origin.kwargs)
            self.on_file(record.id, "arch", path)
        costs = self._measure_costs(
            model, masks, info, reference=pipeline.dense(), compacted=record.compacted
        )
        pipeline.stages.save(stage, {}, costs)
        return True

    def load_costs(self, record: RoundRecord) -> dict[str, Any]:
        """The costs of a finished target, whose files are written: FLOPs, bytes, latency."""
        stored = self.pipeline.stages.open(f"export-{record.id}")
        assert stored is not None
        return stored.note

    def measure_dense(self, name: str, model: nn.Module) -> dict[str, Any]:
        """The costs of the dense network `given` or the dense `control`, which is compared with the
        given one.
        """
        pipeline = self.pipeline
        stage = f"export-{name}"
        stored = pipeline.stages.open(stage)
        if stored is None:
            start_masks = pipeline.build_start_masks(model)
            masks = {key: mask.cpu() for key, mask in start_masks.items()}
            reference = None if name == "given" else pipeline.dense()
            info = self._describe_file(None)
            costs = self._measure_costs(model, masks, info, reference=reference)
            pipeline.stages.save(stage, {}, costs)
            stored = pipeline.stages.open(stage)
            assert stored is not None
        return stored.note

    def _measure_costs(
        self,
        model: nn.Module,
        masks: Masks,
        info: dict[str, Any],
        *,
        reference: nn.Module | None,
        compacted: bool = False,
    ) -> dict[str, Any]:
        """FLOPs, bytes by format, and latencies; `info` is what the files say of themselves."""
        data = self.pipeline.data
        batches = (1,) if data.segmentation else (1, 64)
        flops = count_flops(model, data.shape, None if compacted else masks)
        sizes = measure_file_sizes(model.state_dict(), masks, compacted=compacted, **info)
        latencies = measure_latency(model, data.shape, reference, batches)
        return {
            "flops": flops,
            "size_bytes": sizes,
            "latency_ms": [latency.model_dump() for latency in latencies],
        }

    def _describe_file(self, record: RoundRecord | None) -> dict[str, Any]:
        """The metadata of a checkpoint file; nothing in it differs between two equal runs."""
        data = self.pipeline.data
        info: dict[str, Any] = {
            "architecture": self.origin.architecture,
            "kwargs": self.origin.kwargs,
            "classes": data.classes,
            "normalize": {"mean": data.mean, "std": data.std},
            "preprocessing": data.preprocessing.model_dump(mode="json"),
        }
        if record is not None:
            info["criterion"] = record.criterion.model_dump(mode="json")
            info["sparsity"] = record.sparsity
        return info
