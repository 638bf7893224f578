"""The first words of every rendering: the verdict, the facts behind it, the rows of the tables."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from pruning import wording
from pruning.reporting import asked, runtimes
from pruning.reporting.gates import count_gates, name_gate
from pruning.schemas.recipe import Method
from pruning.schemas.report import Checkpoint, ControlNetwork, Estimate, Network, Report
from pruning.schemas.verdicts import RecommendationVerdict
from pruning.verdict.recommendation import has_lost_channels

FORMATS = {
    "sparse": "sparse",
    "sparse_gzip": "sparse, gzip",
    "dense": "dense",
    "dense_gzip": "dense, gzip",
    "masks": "masks",
}
BATCHNORM_NOTE = (
    "right after pruning, its statistics are taken from training images once more; undone where "
    "the loss on other training images (nats, before → after) did not fall."
)


Tone = Literal["good", "bad", "open"]


@dataclass(frozen=True)
class Fact:
    """A number of the verdict, with its name and what it is to be compared with."""

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Verdict:
    """The conclusion of a report, to be read in ten seconds."""

    headline: str
    tone: Tone
    sentence: str
    facts: tuple[Fact, ...]
    joint: str = ""
    """The statement of what holds together, which is said first; empty where nothing was tested
    together.
    """


@dataclass(frozen=True)
class Row:
    """A network of the tables; `checkpoint` is `None` for the two dense references."""

    label: str
    network: Network
    checkpoint: Checkpoint | None
    recommended: bool = False


def choose_digits(report: Report) -> int:
    """Return the decimals of a percentage that the number of test images supports."""
    return 2 if report.data.test >= 2000 else 1


def order_checkpoints(report: Report) -> tuple[Checkpoint, ...]:
    """Return the checkpoints by criterion, as asked for, then by sparsity."""
    labels = list_labels(report)

    def by_criterion(checkpoint: Checkpoint) -> tuple[int, float]:
        label = find_label(report, checkpoint.criterion)
        return labels.index(label), checkpoint.removal

    return tuple(sorted(report.checkpoints, key=by_criterion))


def list_labels(report: Report) -> list[str]:
    """Return the criteria of the report by label, each once, in order of appearance."""
    criteria = [checkpoint.criterion for checkpoint in report.checkpoints]
    criteria += [between.criterion for between in report.rounds]
    return list(dict.fromkeys(find_label(report, criterion) for criterion in criteria))


def find_label(report: Report, criterion: Method) -> str:
    """Return the label of a criterion's checkpoints; its name and parameters where it has none."""
    for checkpoint in report.checkpoints:
        if checkpoint.criterion == criterion:
            # Reports of earlier versions have the label in the id alone.
            suffix = f"-{checkpoint.requested_sparsity!r}"
            return checkpoint.label or checkpoint.id.removesuffix(suffix)
    return wording.method_call(criterion)


def find_recommended(report: Report) -> Checkpoint | None:
    """Return the recommended checkpoint where the report holds it."""
    recommended = report.recommendation.checkpoint
    return next(
        (checkpoint for checkpoint in report.checkpoints if checkpoint.id == recommended), None
    )


def read_verdict(report: Report) -> RecommendationVerdict:
    """Return the verdict; a report of an earlier version, which has none, proves nothing: it is
    undecided where a checkpoint is recommended and no gate failed.
    """
    if report.recommendation.verdict is not None:
        return report.recommendation.verdict
    has_failed = any(gate.outcome == "failed" for gate in report.gates)
    is_open = find_recommended(report) is not None and not has_failed
    return "undecided" if is_open else "do_not_ship"


def choose_tag(report: Report) -> str:
    """Return what the recommended checkpoint is called."""
    return "recommended" if read_verdict(report) == "ship" else "chosen on validation"


def list_rows(report: Report) -> tuple[Row, ...]:
    """Return the dense references and every checkpoint."""
    rows = [Row("given", report.baseline, None)]
    rows += [Row(name, control, None) for name, control in list_controls(report).items()]
    for checkpoint in order_checkpoints(report):
        label = find_label(report, checkpoint.criterion)
        is_recommended = checkpoint.id == report.recommendation.checkpoint
        rows.append(Row(label, checkpoint, checkpoint, is_recommended))
    return tuple(rows)


def list_controls(report: Report) -> dict[str, Network]:
    """Return the dense controls by name; reports of earlier versions have one."""
    return {control.name: control for control in report.controls} or {"control": report.control}


def describe_references(report: Report) -> str:
    """Return what the dense networks of the table of errors are, and what its intervals cover."""
    control = "control: the dense network retrained as in one round, with the same data."
    if any(asked.is_uploaded(checkpoint) for checkpoint in report.checkpoints):
        control = "control: the same network, as nothing is retrained here."
    if len(list_controls(report)) > 1:
        control = (
            "control: the dense network retrained with the same data, and behind a number that "
            "many times; each checkpoint is compared with the control that was retrained as often "
            "as it."
        )
    cover = "for other test images, not the spread between training runs"
    if report.replicates:
        cover = "for other seeds and other test images"
    return (
        f"given: the network as uploaded, or as the job trained it. {control} Intervals are at "
        f"95 % {cover}; increases are paired on the same images."
    )


def find_cost_source(row: Row) -> str | None:
    """Return the control whose file sizes and latency a row repeats, where its own were not
    measured.
    """
    network = row.network
    return network.costs_of if isinstance(network, ControlNetwork) else None


def list_file_formats(report: Report) -> tuple[str, ...]:
    """Return the file formats that any network of the report has, the known ones first."""
    names = {name for row in list_rows(report) for name in row.network.size_bytes}
    known = [name for name in FORMATS if name in names]
    return (*known, *sorted(names - FORMATS.keys()))


def compute_file_ratio(report: Report, network: Network) -> float | None:
    """Return the size of a sparse file over that of the given network's dense file, where both are
    known.
    """
    sparse = network.size_bytes.get("sparse")
    dense = report.baseline.size_bytes.get("dense")
    return sparse / dense if sparse and dense else None


def describe_costs(report: Report) -> str:
    """Return what was done to the networks, zeros or fewer channels, and what that means for size,
    work and time.
    """
    smaller = [
        checkpoint.id
        for checkpoint in order_checkpoints(report)
        if has_lost_channels(report.baseline, checkpoint)
    ]
    has_zeros = len(smaller) < len(report.checkpoints)
    notes = []
    if smaller:
        subject = "Whole channels were removed."
        if has_zeros:
            subject = f"Without whole channels: {', '.join(smaller)}."
        notes.append(
            f"{subject} Such a network is itself smaller: its dense file holds fewer parameters, "
            "and any kernel needs fewer FLOPs."
        )
    if has_zeros:
        subject = "The others hold zeros, which" if smaller else "Zeros"
        notes.append(
            f"{subject} make the sparse file smaller, not the network faster: dense kernels "
            "multiply by zero as slowly as by any other number, so that a latency ratio other than "
            "1 comes from the machine and not from the zeros, also where its interval excludes 1; "
            "FLOPs count what a sparse kernel would need."
        )
    return " ".join(notes)


def list_warnings(report: Report) -> tuple[str, ...]:
    """Return the warnings of the report without those of rounds that a checkpoint of the same
    criterion repeats.
    """
    repeated = {
        (find_label(report, checkpoint.criterion), warning)
        for checkpoint in report.checkpoints
        for warning in checkpoint.warnings
    }

    def is_repeated(text: str) -> bool:
        parts = re.fullmatch(r"(.+?), round \d+: (.+)", text, re.DOTALL)
        return parts is not None and (parts[1], parts[2]) in repeated

    return tuple(warning for warning in report.warnings if not is_repeated(warning))


def list_snippets(report: Report) -> tuple[Checkpoint, ...]:
    """Return the checkpoints that have lines which load them; reports of earlier versions have
    none.
    """
    return tuple(checkpoint for checkpoint in order_checkpoints(report) if checkpoint.load_snippet)


def count_epochs(network: Network) -> str:
    """Return the epochs of retraining the network has had."""
    return wording.count_of(network.retrain_epochs, "epoch")


def compute_compression(network: Network) -> str:
    """Return 1/density: the prunable weights over those of them that remain."""
    return wording.factor(1 / network.density) if network.density > 0 else "–"


def has_batchnorm(report: Report) -> bool:
    """Return whether BatchNorm was re-estimated for any checkpoint."""
    return any(checkpoint.batchnorm is not None for checkpoint in report.checkpoints)


def describe_batchnorm(checkpoint: Checkpoint | None) -> str:
    """Return whether the new statistics of BatchNorm were kept, and the losses that decided it."""
    if checkpoint is None or checkpoint.batchnorm is None:
        return "–"
    batchnorm = checkpoint.batchnorm
    before = wording.nats(Estimate(value=batchnorm.loss_before))
    after = wording.nats(Estimate(value=batchnorm.loss_after))
    return f"{'kept' if batchnorm.kept else 'undone'} [loss {before} → {after}]"


def format_json(value: Any) -> str:
    """Return a value as indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def describe_verdict(report: Report) -> Verdict:
    """Return the verdict: what was pruned, what to ship, what it loses, whether the gates hold."""
    best = find_recommended(report)
    verdict = read_verdict(report)
    tone: Tone = "good" if verdict == "ship" and not report.partial else "open"
    has_failed = any(gate.outcome == "failed" for gate in report.gates)
    if has_failed or (verdict == "do_not_ship" and (best is not None or report.gates)):
        tone = "bad"
    facts = _list_reference_facts(report) if best is None else _list_facts(report, best)
    missed = [name_gate(gate) for gate in report.gates if gate.outcome != "passed"]
    return Verdict(
        headline=_choose_headline(report, best, verdict),
        tone=tone,
        sentence=report.recommendation.reason,
        facts=(
            *facts,
            *_list_replicates(report),
            Fact("Gates", count_gates(report), ", ".join(missed)),
        ),
        joint="" if report.joint is None else report.joint.sentence,
    )


def _list_replicates(report: Report) -> list[Fact]:
    """Return how many replicates the numbers are means over; empty for a single run."""
    if not report.replicates:
        return []
    succeeded = [row for row in report.replicates if row.status == "succeeded"]
    seeds = ", ".join(str(row.seed) for row in succeeded)
    value = f"{len(succeeded)} of {len(report.replicates)}"
    return [Fact("Replicates", value, f"means over seeds {seeds}")]


def _choose_headline(
    report: Report, best: Checkpoint | None, verdict: RecommendationVerdict
) -> str:
    subject = f"{report.model.architecture} on {report.data.name}"
    if best is None:
        state = "recommended" if report.checkpoints else "finished"
        return f"{subject}: no checkpoint {state}"
    target = asked.describe_target(best)
    if verdict == "ship":
        return f"{subject}: ship {target}"
    if verdict == "undecided":
        return f"{subject}: {target}, undecided"
    has_failed = any(gate.outcome == "failed" for gate in report.gates)
    cause = "a gate failed" if has_failed else "its loss is beyond the margin"
    return f"{subject}: do not ship {target}, {cause}"


def _detail_target(best: Checkpoint) -> str:
    """Return the criterion and the id of a checkpoint, and of a budget what was reached."""
    details = [wording.method_call(best.criterion), best.id]
    if asked.is_uploaded(best):
        details = [best.id, f"model {best.criterion.params['model']}"]
    if best.requested is not None:
        details.append(asked.describe_reached(best.requested))
    return ", ".join(details)


def _list_reference_facts(report: Report) -> list[Fact]:
    """Return the facts of a report that recommends no checkpoint: its dense networks."""
    digits = choose_digits(report)
    facts = []
    networks = {"Test error as given": report.baseline}
    for name, control in list_controls(report).items():
        networks[f"Dense {name}"] = control
    for label, network in networks.items():
        error = wording.percent(network.error.value, digits)
        facts.append(Fact(label, error, _describe_interval(network, digits)))
    labels = ", ".join(list_labels(report))
    return [*facts, Fact("Checkpoints", str(len(report.checkpoints)), labels)]


def _list_facts(report: Report, best: Checkpoint) -> list[Fact]:
    """Return the facts of the recommended checkpoint: what it is, loses, keeps and weighs."""
    digits = choose_digits(report)
    given = wording.percent(report.baseline.error.value, digits)
    increase = best.error_increase.control
    margin = report.recommendation.margin
    nearest = wording.choose_digits_apart(Estimate(value=increase.value), margin, digits)
    over_control = wording.points_with_interval(increase, nearest)
    over_given = wording.points_with_interval(best.error_increase.given, digits)
    facts = [
        Fact(
            choose_tag(report).capitalize(),
            asked.describe_state(best),
            _detail_target(best),
        ),
        Fact(
            "Test error",
            wording.percent(best.error.value, digits),
            f"{_describe_interval(best, digits)}; given {given}",
        ),
        Fact("Over dense control", *split_estimate(over_control)),
        Fact("Over network as given", *split_estimate(over_given)),
        Fact(
            "Prunable weights kept",
            f"1 in {1 / best.density:.3g}" if best.density > 0 else "none",
            f"{wording.count(best.parameters)} of {wording.count(report.model.parameters)} "
            "parameters remain",
        ),
    ]
    ratio = compute_file_ratio(report, best)
    if ratio is not None:
        given_size = wording.file_size(report.baseline.size_bytes["dense"])
        facts.append(
            Fact(
                "File" if has_lost_channels(report.baseline, best) else "Sparse file",
                wording.file_size(best.size_bytes["sparse"]),
                f"{wording.percent(ratio)} of the given network's {given_size}",
            )
        )
    facts += [Fact(*fact) for fact in runtimes.list_runtime_facts(best)]
    return facts


def split_estimate(text: str) -> tuple[str, str]:
    """Return a formatted estimate as its value and, as a detail, its interval."""
    value, bracket, rest = text.partition(" [")
    return value, f"95 % interval {'[' + rest}" if bracket else ""


def _describe_interval(network: Network, digits: int) -> str:
    return split_estimate(wording.percent_with_interval(network.error, digits))[1]
