"""What every rendering says first: the verdict, the facts behind it and the rows of the tables."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from pruning.reporting import quantities as q
from pruning.schemas.recipe import Method
from pruning.schemas.report import Checkpoint, Estimate, Latency, Network, Report

FORMATS = {"sparse": "sparse", "sparse_gzip": "sparse, gzip", "dense": "dense", "dense_gzip": "dense, gzip",
           "masks": "masks"}
SPEED_NOTE = (
    "Unstructured zeros make the file smaller, not the network faster: dense kernels multiply by zero as slowly as by "
    "any other number. FLOPs count what a sparse kernel would need; latency is measured, on dense kernels."
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


def digits(report: Report) -> int:
    """Return the decimals of a percentage that the number of test images supports."""
    return 2 if report.data.test >= 2000 else 1


def ordered(report: Report) -> tuple[Checkpoint, ...]:
    """Return the checkpoints by criterion, as asked for, then by sparsity."""
    criteria = labels(report)
    return tuple(
        sorted(report.checkpoints, key=lambda c: (criteria.index(label(report, c.criterion)), c.requested_sparsity))
    )


def labels(report: Report) -> list[str]:
    """Return the criteria of the report by label, each once, in order of appearance."""
    criteria = [c.criterion for c in report.checkpoints] + [r.criterion for r in report.rounds]
    return list(dict.fromkeys(label(report, criterion) for criterion in criteria))


def label(report: Report, criterion: Method) -> str:
    """Return what the ids of a criterion's checkpoints begin with; its name and parameters where it has no checkpoint."""
    for c in report.checkpoints:
        if c.criterion == criterion:
            return c.id.removesuffix(f"-{c.requested_sparsity!r}")
    return q.method(criterion)


def recommended(report: Report) -> Checkpoint | None:
    """Return the recommended checkpoint where the report holds it."""
    return next((c for c in report.checkpoints if c.id == report.recommendation.checkpoint), None)


def rows(report: Report) -> tuple[Row, ...]:
    """Return the two dense references and every checkpoint."""
    chosen = report.recommendation.checkpoint
    references = (Row("given", report.baseline, None), Row("control", report.control, None))
    return references + tuple(Row(label(report, c.criterion), c, c, c.id == chosen) for c in ordered(report))


def file_formats(report: Report) -> tuple[str, ...]:
    """Return the file formats that any network of the report has, the known ones first."""
    found = dict.fromkeys(name for row in rows(report) for name in row.network.size_bytes)
    return tuple([name for name in FORMATS if name in found] + sorted(name for name in found if name not in FORMATS))


def file_ratio(network: Network) -> float | None:
    """Return sparse over dense file size, where both are known."""
    sparse, dense = network.size_bytes.get("sparse"), network.size_bytes.get("dense")
    return sparse / dense if sparse and dense else None


def latency(item: Latency) -> str:
    """Return a measured latency with its factor to the network as given, measured in turn with it."""
    text = f"{q.milliseconds(item.p50)} ({item.device}, batch {item.batch})"
    return text if item.against_given is None else f"{text}, {item.against_given:.2f}× given"


def epochs(network: Network) -> str:
    """Return the epochs of retraining the network has had."""
    return f"{network.retrain_epochs} {'epoch' if network.retrain_epochs == 1 else 'epochs'}"


def compression(network: Network) -> str:
    """Return 1/density."""
    return q.factor(1 / network.density) if network.density > 0 else "–"


def has_batchnorm(report: Report) -> bool:
    """Return whether BatchNorm was re-estimated for any checkpoint."""
    return any(c.batchnorm is not None for c in report.checkpoints)


def batchnorm(checkpoint: Checkpoint | None) -> str:
    """Return whether the new statistics of BatchNorm were kept, and the losses that decided it."""
    if checkpoint is None or checkpoint.batchnorm is None:
        return "–"
    found = checkpoint.batchnorm
    before, after = (q.nats(Estimate(value=loss)) for loss in (found.loss_before, found.loss_after))
    return f"{'kept' if found.kept else 'undone'} [loss {before} → {after}]"


def gate_counts(report: Report) -> str:
    """Return how many gates passed."""
    if not report.gates:
        return "none set"
    passed = sum(gate.passed for gate in report.gates)
    return f"{passed} of {len(report.gates)} passed" if passed else f"{len(report.gates)} failed"


def pretty(value: Any) -> str:
    """Return a value as indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def verdict(report: Report) -> Verdict:
    """Return the verdict: what was pruned, what to ship, what it loses, whether the gates hold."""
    d = digits(report)
    best = recommended(report)
    failed = [gate for gate in report.gates if not gate.passed]
    subject = f"{report.model.architecture} on {report.data.name}"
    if best is None:
        headline = (
            f"{subject}: no checkpoint recommended" if report.checkpoints else f"{subject}: no checkpoint finished"
        )
        facts = [
            Fact("Test error as given", q.percent(report.baseline.error.value, d), _span(report.baseline, d)),
            Fact("Dense control", q.percent(report.control.error.value, d), _span(report.control, d)),
            Fact("Checkpoints", str(len(report.checkpoints)), ", ".join(labels(report))),
        ]
    else:
        headline = f"{subject}: ship {q.share(best.requested_sparsity)} sparsity"
        facts = [
            Fact("Recommended", f"{q.share(best.requested_sparsity)} sparse", f"{q.method(best.criterion)}, {best.id}"),
            Fact(
                "Test error",
                q.percent(best.error.value, d),
                f"{_span(best, d)}; given {q.percent(report.baseline.error.value, d)}",
            ),
            Fact("Over dense control", *split(q.points(best.error_increase.control, d))),
            Fact("Over network as given", *split(q.points(best.error_increase.given, d))),
            Fact(
                "Weights kept",
                f"1 in {1 / best.density:.3g}" if best.density > 0 else "none",
                f"{q.count(best.parameters)} of {q.count(report.model.parameters)} parameters remain",
            ),
        ]
        ratio = file_ratio(best)
        if ratio is not None:
            facts.append(
                Fact(
                    "Sparse file",
                    q.size(best.size_bytes["sparse"]),
                    f"{q.percent(ratio)} of the dense {q.size(best.size_bytes['dense'])}",
                )
            )
    facts.append(Fact("Gates", gate_counts(report), "; ".join(gate.message for gate in failed)))
    if failed:
        return Verdict(
            f"{headline}, but a gate failed" if best else headline, "bad", report.recommendation.reason, tuple(facts)
        )
    return Verdict(
        headline, "good" if best and not report.partial else "open", report.recommendation.reason, tuple(facts)
    )


def split(text: str) -> tuple[str, str]:
    """Return a formatted estimate as its value and, as a detail, its interval."""
    value, bracket, rest = text.partition(" [")
    return value, f"95 % interval {'[' + rest}" if bracket else ""


def _span(network: Network, d: int) -> str:
    return split(q.measured(network.error, d))[1]
