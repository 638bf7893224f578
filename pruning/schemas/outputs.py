"""Outputs of a job beyond its packed checkpoints: further file formats, and latencies."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator

from pruning.schemas.base import Document
from pruning.schemas.estimates import Estimate

ExportFormat = Literal["compressed", "onnx", "pth", "semi_structured", "huggingface"]
"""A format of checkpoint files that a job writes where it is asked for."""
FileFormat = Literal[
    "sparse",
    "dense",
    "masks",
    "arch",
    "compressed",
    "onnx",
    "pth",
    "semi_structured",
    "huggingface",
]
"""A format in which a checkpoint is downloaded."""
StoredValues = Literal["exact", "bfloat16"]
"""The values of a compressed file: as they are, or rounded to bfloat16."""
Runtime = Literal["torch", "onnxruntime"]
FILE_ENDINGS: dict[FileFormat, str] = {
    "arch": "arch.json",
    "compressed": "compressed.xz",
    "onnx": "onnx",
    "pth": "pth",
    "huggingface": "huggingface.zip",
}
"""The endings of file names; those that are not listed end in `<format>.safetensors`."""


def name_file(checkpoint: str, format: FileFormat) -> str:
    """Return the name of the file of a checkpoint in a format.

    >>> name_file("magnitude-0.5", "dense"), name_file("magnitude-0.5", "onnx")
    ('magnitude-0.5.dense.safetensors', 'magnitude-0.5.onnx')
    """
    return f"{checkpoint}.{FILE_ENDINGS.get(format, f'{format}.safetensors')}"


class LatencyRequest(Document):
    """The runtimes and batches that latencies are measured with.

    Every network runs in turn with the network as given. With `onnxruntime` both runtimes are
    measured with one thread and with all threads of the job.
    """

    runtimes: Annotated[tuple[Runtime, ...], Field(min_length=1)] = ("torch",)
    batches: (
        Annotated[
            tuple[Annotated[int, Field(ge=1, le=1024)], ...], Field(min_length=1, max_length=4)
        ]
        | None
    ) = None
    """`null`: 1 and 64 images, for segmentation 1."""

    @field_validator("runtimes", "batches")
    @classmethod
    def _listed_once(cls, value: tuple[object, ...] | None) -> tuple[object, ...] | None:
        return refuse_repeats(value)


def refuse_repeats(values: tuple[object, ...] | None) -> tuple[object, ...] | None:
    """Return the values; raise `ValueError` where one is listed twice."""
    if values is not None and len(set(values)) < len(values):
        raise ValueError("an entry is listed twice")
    return values


class CompressedExport(Document):
    """The format `compressed` with its parameter."""

    format: Literal["compressed"]
    values: StoredValues = "exact"
    """`bfloat16`: float32 weights of layers are rounded to it, and the report has the test error of
    the network with these weights. Biases and the tensors of BatchNorm stay exact.
    """


Export = ExportFormat | CompressedExport
"""A format that a job writes: its name, or an object with its parameters."""


def name_format(export: Export) -> ExportFormat:
    """Return the name of a format.

    >>> name_format("onnx"), name_format(CompressedExport(format="compressed"))
    ('onnx', 'compressed')
    """
    return export.format if isinstance(export, CompressedExport) else export


def _list_each_once(exports: tuple[Export, ...]) -> tuple[Export, ...]:
    """The formats; `ValueError` where one is listed twice."""
    refuse_repeats(tuple(name_format(export) for export in exports))
    return exports


Exports = Annotated[tuple[Export, ...], AfterValidator(_list_each_once)]
"""Formats that a job writes, each once."""


class Outputs(Document):
    """The further formats that a job writes, and the latencies that it measures."""

    export: tuple[Export, ...] = ()
    latency: LatencyRequest = LatencyRequest()

    @property
    def formats(self) -> tuple[ExportFormat, ...]:
        """The names of the further formats."""
        return tuple(name_format(export) for export in self.export)

    @property
    def compressed_values(self) -> StoredValues:
        """The values that a compressed file holds."""
        given = [export for export in self.export if isinstance(export, CompressedExport)]
        return given[0].values if given else "exact"

    @property
    def needs_onnx(self) -> bool:
        """Whether networks are exported to ONNX."""
        return "onnx" in self.formats or "onnxruntime" in self.latency.runtimes


class Latency(Document):
    """Measured wall-clock time of one forward pass in milliseconds, dense kernels, fp32."""

    device: str
    runtime: Runtime = "torch"
    threads: int
    batch: int
    p50: float
    p95: float
    against_given: float | None = None
    """Ratio to the network as given, which ran in turn: the median of the ratios of a pass to its
    neighbour. Reports of earlier versions have the ratio of the fastest passes, and no interval.
    """
    against_given_low: float | None = None
    """The lower end of its 95 % interval, from the order of the ratios alone; `null` for fewer than
    six pairs.
    """
    against_given_high: float | None = None
    peak_memory_bytes: int | None = None
    """The most memory that the runtime held for this pass, weights included; `null` where it was
    not measured.
    """
    measured_of: str | None = None
    """The network of equal shapes whose measurement this is, `given` or a checkpoint's id: dense
    kernels take the same time whatever the values. With `given` the ratio and its interval are 1 by
    construction and not measured. `null` where the network itself was run.
    """


class OnnxCheck(Document):
    """An ONNX file, run in onnxruntime on the test images and compared with PyTorch."""

    opset: int
    runtime: str
    """The runtime with its version."""
    images: int
    error: Estimate
    """The test error, computed again from the file."""
    largest_difference: float
    """The largest absolute difference of two logits, over all test images with finite outputs."""
    largest_logit: float
    """The largest absolute logit of the network in PyTorch, which the difference is to be compared
    with.
    """
    differing_images: int
    """Test images with another answer; for segmentation, with another answer for a pixel."""


class RoundedCheck(Document):
    """A file with rounded values, read back and compared with its network on the test images."""

    format: FileFormat
    values: StoredValues
    """The type that the values are rounded to."""
    images: int
    error: Estimate
    """The test error of the network with the rounded values."""
    largest_difference: float
    """The largest absolute difference of two logits, over all test images with finite outputs."""
    largest_logit: float
    """The largest absolute logit of the network that was not rounded."""
    differing_images: int
    """Test images with another answer; for segmentation, with another answer for a pixel."""
