"""Latencies, memory, and files that were checked, as a report shows them."""

from __future__ import annotations

from collections.abc import Iterable

from pruning import wording
from pruning.schemas.outputs import OnnxCheck, RoundedCheck
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


ROUNDED_HEAD = (
    "Checkpoint",
    "Values",
    "Test error of the file",
    "Other answers",
    "Largest difference",
)
ROUNDED_NOTE = (
    "The weights in these compressed files are rounded. Each file was read back, and its network "
    "run on the test images; all other numbers of this report are of the network that was not "
    "rounded."
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
    if item.measured_of not in (None, "given"):
        parts.append(f"measured of {item.measured_of}, of equal shapes")
    return ", ".join(parts)


def describe_ratio(item: Latency) -> str:
    """Return the ratio of a latency to that of the network as given, with its interval; words where
    it is that network's own, which is no measured ratio.
    """
    if item.measured_of == "given":
        return "that of given, whose shapes are equal"
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
            *_describe_check(check, checkpoint, "in PyTorch", digits),
        )
        for checkpoint in checkpoints
        if (check := checkpoint.onnx) is not None
    ]


def list_rounded_rows(
    checkpoints: Iterable[Checkpoint], digits: int
) -> list[tuple[str, str, str, str, str]]:
    """Return the checks of files with rounded values: checkpoint, type of the values, test error of
    the file, answers that differ, and the largest difference of logits.
    """
    return [
        (
            checkpoint.id,
            f"rounded to {check.values}",
            *_describe_check(check, checkpoint, "not rounded", digits),
        )
        for checkpoint in checkpoints
        if (check := checkpoint.rounded) is not None
    ]


def _describe_check(
    check: OnnxCheck | RoundedCheck, checkpoint: Checkpoint, otherwise: str, digits: int
) -> tuple[str, str, str]:
    """Return the test error of a file beside its checkpoint's, the answers that differ, and the
    largest difference of logits.
    """
    return (
        f"{wording.percent_with_interval(check.error, digits)}; {otherwise} "
        f"{wording.percent(checkpoint.error.value, digits)}",
        f"{wording.count(check.differing_images)} of {wording.count(check.images)}",
        f"{check.largest_difference:.1e} (the largest logit is {check.largest_logit:.3g})",
    )
