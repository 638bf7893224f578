"""What every rendering says first: the verdict, the facts behind it and the rows of the tables."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from pruning import wording
from pruning.schemas.recipe import Method
from pruning.schemas.report import Checkpoint, Estimate, Latency, Network, Report
from pruning.verdict.recommendation import is_proven_beyond

FORMATS = {
    "sparse": "sparse",
    "sparse_gzip": "sparse, gzip",
    "dense": "dense",
    "dense_gzip": "dense, gzip",
    "masks": "masks",
}
BATCHNORM_NOTE = (
    "right after pruning, its statistics taken anew from training images; undone where the loss "
    "on other "
    "training images (nats, before → after) did not fall."
)
LATENCY_NOTE = (
    "Latency is measured, on dense kernels. “× given” is the ratio of the fastest passes of a "
    "network and the "
    "given one, run in turn; the p50 of each row is from a moment of its own, so on a busy "
    "machine two p50s can "
    "contradict the ratio: go by the ratio."
)


@dataclass(frozen=True)
class Fact:
    """One number of the verdict, with its name and what it is to be compared with."""

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Verdict:
    """What a reader takes away in ten seconds."""

    headline: str
    tone: Literal["good", "bad", "open"]
    sentence: str
    facts: tuple[Fact, ...]


@dataclass(frozen=True)
class Row:
    """One network of the tables; `checkpoint` is `None` for the two dense references."""

    label: str
    network: Network
    checkpoint: Checkpoint | None
    recommended: bool = False


def choose_digits(report: Report) -> int:
    """Return the decimals of a percentage that the number of test images supports."""
    return 2 if report.data.test >= 2000 else 1


def order_checkpoints(report: Report) -> tuple[Checkpoint, ...]:
    """Return the checkpoints by criterion, as asked for, then by sparsity."""
    criteria = list_labels(report)
    return tuple(
        sorted(
            report.checkpoints,
            key=lambda c: (criteria.index(find_label(report, c.criterion)), c.requested_sparsity),
        )
    )


def list_labels(report: Report) -> list[str]:
    """Return the criteria of the report by label, each once, in order of appearance."""
    criteria = [c.criterion for c in report.checkpoints] + [r.criterion for r in report.rounds]
    return list(dict.fromkeys(find_label(report, criterion) for criterion in criteria))


def find_label(report: Report, criterion: Method) -> str:
    """Return what the ids of a criterion's checkpoints begin with; its name and parameters where it
    has no checkpoint.
    """
    for c in report.checkpoints:
        if c.criterion == criterion:
            return c.id.removesuffix(f"-{c.requested_sparsity!r}")
    return wording.method_call(criterion)


def find_recommended(report: Report) -> Checkpoint | None:
    """Return the recommended checkpoint where the report holds it."""
    return next((c for c in report.checkpoints if c.id == report.recommendation.checkpoint), None)


def is_loss_proven(report: Report) -> bool:
    """Return whether the test images prove a loss beyond the margin for the recommended
    checkpoint.
    """
    best = find_recommended(report)
    return best is not None and is_proven_beyond(best, report.recommendation.margin)


def choose_tag(report: Report) -> str:
    """Return what the recommended checkpoint is called."""
    return "chosen on validation" if is_loss_proven(report) else "recommended"


def list_rows(report: Report) -> tuple[Row, ...]:
    """Return the two dense references and every checkpoint."""
    chosen = report.recommendation.checkpoint
    references = (Row("given", report.baseline, None), Row("control", report.control, None))
    return references + tuple(
        Row(find_label(report, c.criterion), c, c, c.id == chosen)
        for c in order_checkpoints(report)
    )


def list_file_formats(report: Report) -> tuple[str, ...]:
    """Return the file formats that any network of the report has, the known ones first."""
    found = dict.fromkeys(name for row in list_rows(report) for name in row.network.size_bytes)
    return tuple(
        [name for name in FORMATS if name in found]
        + sorted(name for name in found if name not in FORMATS)
    )


def compute_file_ratio(report: Report, network: Network) -> float | None:
    """Return the size of a sparse file over that of the given network's dense file, where both are
    known.
    """
    sparse, dense = network.size_bytes.get("sparse"), report.baseline.size_bytes.get("dense")
    return sparse / dense if sparse and dense else None


def has_lost_channels(report: Report, checkpoint: Checkpoint) -> bool:
    """Return whether a checkpoint is physically smaller: its dense file is, by a byte or more for
    each parameter removed.
    """
    given, own = report.baseline.size_bytes.get("dense"), checkpoint.size_bytes.get("dense")
    removed = report.baseline.parameters - checkpoint.parameters
    return given is not None and own is not None and 0 < removed <= given - own


def describe_costs(report: Report) -> str:
    """Return what was done to the networks, zeros or fewer channels, and what that means for size,
    work and time.
    """
    smaller = [c.id for c in order_checkpoints(report) if has_lost_channels(report, c)]
    zeros = len(smaller) < len(report.checkpoints)
    notes = []
    if smaller:
        notes.append(
            f"{'Without whole channels: ' + ', '.join(smaller) + '.' if zeros else 'Whole channels were removed.'} Such a "
            "network is itself smaller: its dense file holds fewer parameters, and any kernel "
            "needs fewer FLOPs."
        )
    if zeros:
        notes.append(
            f"{'The others hold zeros, which' if smaller else 'Zeros'} make the sparse file "
            "smaller, not the network "
            "faster: dense kernels multiply by zero as slowly as by any other number, so there a "
            "latency ratio off 1 is "
            "noise; FLOPs count what a sparse kernel would need."
        )
    return " ".join(notes)


def list_warnings(report: Report) -> tuple[str, ...]:
    """Return the warnings of the report without those of rounds that a checkpoint of the same
    criterion repeats.
    """
    told = {
        (find_label(report, c.criterion), warning)
        for c in report.checkpoints
        for warning in c.warnings
    }

    def repeated(text: str) -> bool:
        found = re.fullmatch(r"(.+?), round \d+: (.+)", text, re.DOTALL)
        return found is not None and (found[1], found[2]) in told

    return tuple(warning for warning in report.warnings if not repeated(warning))


def describe_latency(item: Latency) -> str:
    """Return a measured latency with its factor to the network as given, measured in turn with
    it.
    """
    text = f"{wording.milliseconds(item.p50)} ({item.device}, batch {item.batch})"
    return text if item.against_given is None else f"{text}, {item.against_given:.2f}× given"


def count_epochs(network: Network) -> str:
    """Return the epochs of retraining the network has had."""
    return wording.count_of(network.retrain_epochs, "epoch")


def compute_compression(network: Network) -> str:
    """Return 1/density."""
    return wording.factor(1 / network.density) if network.density > 0 else "–"


def has_batchnorm(report: Report) -> bool:
    """Return whether BatchNorm was re-estimated for any checkpoint."""
    return any(c.batchnorm is not None for c in report.checkpoints)


def describe_batchnorm(checkpoint: Checkpoint | None) -> str:
    """Return whether the new statistics of BatchNorm were kept, and the losses that decided it."""
    if checkpoint is None or checkpoint.batchnorm is None:
        return "–"
    found = checkpoint.batchnorm
    before, after = (
        wording.nats(Estimate(value=loss)) for loss in (found.loss_before, found.loss_after)
    )
    return f"{'kept' if found.kept else 'undone'} [loss {before} → {after}]"


def count_gates(report: Report) -> str:
    """Return how many gates passed."""
    if not report.gates:
        return "none set"
    passed = sum(gate.passed for gate in report.gates)
    return f"{passed} of {len(report.gates)} passed" if passed else f"{len(report.gates)} failed"


def format_json(value: Any) -> str:
    """Return a value as indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def describe_verdict(report: Report) -> Verdict:
    """Return the verdict: what was pruned, what to ship, what it loses, whether the gates hold."""
    d = choose_digits(report)
    best = find_recommended(report)
    failed = [gate for gate in report.gates if not gate.passed]
    beyond = is_loss_proven(report)
    subject = f"{report.model.architecture} on {report.data.name}"
    if best is None:
        headline = (
            f"{subject}: no checkpoint recommended"
            if report.checkpoints
            else f"{subject}: no checkpoint finished"
        )
        facts = [
            Fact(
                "Test error as given",
                wording.percent(report.baseline.error.value, d),
                _span(report.baseline, d),
            ),
            Fact(
                "Dense control",
                wording.percent(report.control.error.value, d),
                _span(report.control, d),
            ),
            Fact("Checkpoints", str(len(report.checkpoints)), ", ".join(list_labels(report))),
        ]
    else:
        headline = (
            f"{subject}: "
            f"{'' if beyond or failed else 'ship '}{wording.short_percent(best.requested_sparsity)} "
            "sparsity"
        )
        facts = [
            Fact(
                choose_tag(report).capitalize(),
                f"{wording.short_percent(best.requested_sparsity)} sparse",
                f"{wording.method_call(best.criterion)}, {best.id}",
            ),
            Fact(
                "Test error",
                wording.percent(best.error.value, d),
                f"{_span(best, d)}; given {wording.percent(report.baseline.error.value, d)}",
            ),
            Fact(
                "Over dense control",
                *split_estimate(wording.points_with_interval(best.error_increase.control, d)),
            ),
            Fact(
                "Over network as given",
                *split_estimate(wording.points_with_interval(best.error_increase.given, d)),
            ),
            Fact(
                "Weights kept",
                f"1 in {1 / best.density:.3g}" if best.density > 0 else "none",
                f"{wording.count(best.parameters)} of {wording.count(report.model.parameters)} parameters "
                "remain",
            ),
        ]
        ratio = compute_file_ratio(report, best)
        if ratio is not None:
            facts.append(
                Fact(
                    "File" if has_lost_channels(report, best) else "Sparse file",
                    wording.file_size(best.size_bytes["sparse"]),
                    f"{wording.percent(ratio)} of the given network's "
                    f"{wording.file_size(report.baseline.size_bytes['dense'])}",
                )
            )
    facts.append(Fact("Gates", count_gates(report), "; ".join(gate.message for gate in failed)))
    if failed:
        return Verdict(
            f"{headline}, but a gate failed" if best else headline,
            "bad",
            report.recommendation.reason,
            tuple(facts),
        )
    if beyond:
        headline += ", but the test images prove a loss beyond the margin"
    good = best is not None and not beyond and not report.partial
    return Verdict(headline, "good" if good else "open", report.recommendation.reason, tuple(facts))


def split_estimate(text: str) -> tuple[str, str]:
    """Return a formatted estimate as its value and, as a detail, its interval."""
    value, bracket, rest = text.partition(" [")
    return value, f"95 % interval {'[' + rest}" if bracket else ""


def _span(network: Network, d: int) -> str:
    return split_estimate(wording.percent_with_interval(network.error, d))[1]
