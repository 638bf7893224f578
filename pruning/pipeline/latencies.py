"""The latencies of a job's networks, measured once for networks of equal shapes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from pruning.errors import CheckpointError
from pruning.measurement.latency import measure_latency
from pruning.measurement.onnx_network import OnnxNetwork
from pruning.measurement.peak_memory import measure_onnx_memory, measure_torch_memory
from pruning.pipeline.exported_network import ExportedNetwork
from pruning.pipeline.pipeline import Pipeline
from pruning.schemas.outputs import Latency, Outputs

SHAPES = "shapes"
"""The entry of a stage's note by which networks of equal shapes are recognised."""


@dataclass(frozen=True, kw_only=True)
class Latencies:
    """Measures latencies into the notes of networks, each network in turn with the given one."""

    pipeline: Pipeline
    outputs: Outputs
    measure_given: Callable[[], object]
    """Measures the costs of the network as given, unless that was done."""
    write_given_onnx: Callable[[], Path]
    """Writes the ONNX file of the network as given, unless that was done."""

    def take(self, exported: ExportedNetwork) -> bool:
        """Take the latencies of a network of equal shapes that was measured before: dense kernels
        take the same time whatever the values. False where there is none.
        """
        pipeline = self.pipeline
        self.measure_given()
        exported.note[SHAPES] = hash_shapes(exported.model)
        for name in ("given", *(record.id for record in pipeline.done)):
            stored = pipeline.stages.open(f"export-{name}")
            if stored is None or stored.note.get(SHAPES) != exported.note[SHAPES]:
                continue
            rows = [Latency.model_validate(row) for row in stored.note["latency_ms"]]
            if name == "given":
                rows = [
                    row.model_copy(
                        update={
                            "against_given": 1.0,
                            "against_given_low": 1.0,
                            "against_given_high": 1.0,
                        }
                    )
                    for row in rows
                ]
            exported.note["latency_ms"] = [
                row.model_copy(update={"measured_of": row.measured_of or name}).model_dump()
                for row in rows
            ]
            return True
        return False

    def measure(self, exported: ExportedNetwork, *, reference: nn.Module | None) -> None:
        """Measure the latencies that the job asks for, each network in turn with the reference."""
        data, request = self.pipeline.data, self.outputs.latency
        batches = request.batches or ((1,) if data.segmentation else (1, 64))
        rows: list[Latency] = []
        all_threads = torch.get_num_threads()
        threads: tuple[int, ...] = (all_threads,)
        if "onnxruntime" in request.runtimes:
            threads = tuple(dict.fromkeys((1, all_threads)))
        for number in threads:
            if "torch" in request.runtimes:
                measured = measure_latency(
                    exported.model, data.shape, reference, batches, threads=number
                )
                rows += self._add_torch_memory(exported, measured)
            if "onnxruntime" in request.runtimes and exported.onnx_path is not None:
                rows += self._measure_onnxruntime(exported, batches, number)
        exported.note["latency_ms"] = [row.model_dump() for row in rows]
        exported.note[SHAPES] = hash_shapes(exported.model)

    def _add_torch_memory(
        self, exported: ExportedNetwork, rows: Sequence[Latency]
    ) -> Sequence[Latency]:
        """Add the peak memory, which stands beside that of onnxruntime."""
        if "onnxruntime" not in self.outputs.latency.runtimes:
            return rows
        shape = self.pipeline.data.shape
        return [
            row.model_copy(
                update={
                    "peak_memory_bytes": measure_torch_memory(exported.model, (row.batch, *shape))
                }
            )
            for row in rows
        ]

    def _measure_onnxruntime(
        self, exported: ExportedNetwork, batches: Sequence[int], threads: int
    ) -> list[Latency]:
        """Measure an ONNX file with so many threads, in turn with that of the given network."""
        assert exported.onnx_path is not None
        shape = self.pipeline.data.shape
        try:
            own = OnnxNetwork(exported.onnx_path, threads)
            reference = None
            if exported.name != "given":
                reference = OnnxNetwork(self.write_given_onnx(), threads)
            rows = measure_latency(
                own, shape, reference, batches, runtime="onnxruntime", threads=threads
            )
        except CheckpointError as error:
            exported.warnings.append(f"no latency in onnxruntime: {error}")
            return []
        return [
            row.model_copy(
                update={
                    "peak_memory_bytes": measure_onnx_memory(
                        exported.onnx_path, (row.batch, *shape), threads
                    )
                }
            )
            for row in rows
        ]


def hash_shapes(model: nn.Module) -> str:
    """The digest of the names, shapes and types of a network's tensors."""
    shapes = {
        name: (tuple(value.shape), str(value.dtype)) for name, value in model.state_dict().items()
    }
    return hashlib.sha256(json.dumps(shapes, sort_keys=True).encode()).hexdigest()
