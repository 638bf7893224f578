"""Latencies, memory and ONNX files as a report shows them."""

from __future__ import annotations

from collections.abc import Iterable

from pruning import wording
from pruning.schemas.report import Checkpoint, Latency

LATENCY_NOTE = (
    "Latency is measured, on dense kernels: these rows are medians (p50). “× given” is the median "
    "of the ratios of a pass of the network to its neighbour of the given one, which ran in turn, "
    "with its 95 % interval, which covers the passes that were timed, not other machines; the two "
    "p50s may be from different moments of a busy machine, so go by the ratio. Memory is the most "
    "that one batch takes, weights included: in onnxruntime that of a process of its own, in torch "
    "that of live tensors."
)
ONNX_HEAD = (
    "Checkpoint",
    "Run in",
    "Test error of the file",
    "Other answers",
    "Largest difference",
)
ONNX_NOTE = (
    "Every ONNX file was run in onnxruntime on the test images. BatchNorm is folded into the layer "
    "before it, which rescales weights: those that are zero stay zero, others differ from the "
    "checkpoint's."
)


def list_runtime_facts(checkpoint: Checkpoint) -> list[tuple[str, str, str]]:
    """Return label, value and detail of the latency in onnxruntime of the smallest batch with all
    threads, where it was measured.
    """
    rows = [item for item in checkpoint.latency_ms if item.runtime == "onnxruntime"]
    rows = [item for item in rows if item.against_given is not None]
    if not rows:
        return []
    item = min(rows, key=lambda row: (row.batch, -row.threads))
    threads = wording.count_of(item.threads, "thread")
    detail = f"{wording.milliseconds(item.p50)}, batch {item.batch}, {threads}"
    return [("Latency in onnxruntime", describe_ratio(item), detail)]


def describe_latency(item: Latency) -> str:
    """Return a measured latency with its factor to the network as given, measured in turn with
    it, and the memory that it took.
    """
    place = item.device if item.runtime == "torch" else f"{item.runtime}, {item.device}"
    threads = wording.count_of(item.threads, "thread")
    parts = [f"{wording.milliseconds(item.p50)} ({place}, {threads}, batch {item.batch})"]
    if item.against_given is not None:
        parts.append(describe_ratio(item))
    if item.peak_memory_bytes is not None:
        parts.append(wording.file_size(item.peak_memory_bytes))
    if item.measured_of is not None:
        parts.append(f"measured of {item.measured_of}, of equal shapes")
    return ", ".join(parts)


def describe_ratio(item: Latency) -> str:
    """Return the ratio of a latency to that of the network as given, with its interval."""
    interval = ""
    if item.against_given_low is not None and item.against_given_high is not None:
        interval = f" [{item.against_given_low:.2f}, {item.against_given_high:.2f}]"
    return f"{item.against_given:.2f}{interval}× given"


def list_onnx_rows(
    checkpoints: Iterable[Checkpoint], digits: int
) -> list[tuple[str, str, str, str, str]]:
    """Return the checks of ONNX files: checkpoint, runtime, test error of the file, answers that
    differ, and the largest difference of logits.
    """
    return [
        (
            checkpoint.id,
            f"{check.runtime}, opset {check.opset}",
            f"{wording.percent_with_interval(check.error, digits)}; in PyTorch "
            f"{wording.percent(checkpoint.error.value, digits)}",
            f"{wording.count(check.differing_images)} of {wording.count(check.images)}",
            f"{check.largest_difference:.1e} (the largest logit is {check.largest_logit:.3g})",
        )
        for checkpoint in checkpoints
        if (check := checkpoint.onnx) is not None
    ]
