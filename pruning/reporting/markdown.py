"""A report as GitHub-flavoured Markdown: the verdict and the tables, short enough for a
pull-request comment.
"""

from __future__ import annotations

from pruning import wording
from pruning.reporting import summary
from pruning.reporting.comment import (
    COMMENT_LIMIT,
    MARKS,
    escape,
    format_bullets,
    format_details,
    format_json,
    format_section,
    format_table,
)
from pruning.schemas.report import Checkpoint, Report


def render(report: Report) -> str:
    """Return the comment; curves, layers and spec are left out, with a note, where it would grow
    too long.
    """
    text = _document(report, full=True)
    return text if len(text) <= COMMENT_LIMIT else _document(report, full=False)


def _document(report: Report, full: bool) -> str:
    verdict = summary.describe_verdict(report)
    parts = [f"## {MARKS[verdict.tone]} {escape(verdict.headline)}"]
    if report.partial:
        parts.append(
            "**Partial.** The job ended before all its targets; the checkpoints listed here are "
            "whole."
        )
    parts.append(
        format_table(
            ["", "", ""],
            (
                (f"**{fact.label}**", escape(fact.value), escape(fact.detail))
                for fact in verdict.facts
            ),
        )
    )
    parts.append(escape(verdict.sentence))
    if report.gates:
        parts += [
            "### Gates",
            format_table(
                ["Gate", "Limit", "Measured", "", ""],
                (
                    (
                        escape(gate.name),
                        wording.percentage_points(gate.limit),
                        wording.points_with_interval(gate.measured, 2)
                        if gate.measured
                        else "not measured",
                        "✅ passed" if gate.passed else "❌ failed",
                        escape(gate.message),
                    )
                    for gate in report.gates
                ),
            ),
        ]
    if summary.list_warnings(report):
        parts += ["### Warnings", format_bullets(summary.list_warnings(report))]
    parts += [
        "### Checkpoints",
        _errors(report),
        *(
            [f"BatchNorm re-estimated: {summary.BATCHNORM_NOTE}"]
            if summary.has_batchnorm(report)
            else []
        ),
        *_checkpoint_warnings(report),
        "### Size, work and time",
        escape(summary.describe_costs(report)),
        _costs(report),
        summary.LATENCY_NOTE,
    ]
    best = summary.find_recommended(report)
    if best is not None and full:
        parts.append(format_details(f"Layers of {escape(best.id)}", _layers(best)))
    for name, section in report.sections.items():
        parts += format_section(name, section, summary.choose_digits(report), full)
    if report.failures:
        parts += [
            "### Evaluations that failed",
            format_bullets(
                f"{failure.name} ({failure.code}): {failure.message}" for failure in report.failures
            ),
        ]
    parts.append(_environment(report))
    if full:
        parts.append(format_details("Spec", format_json(summary.format_json(report.spec))))
    else:
        parts.append(
            "Curves, layers and spec are left out here for length; the HTML and JSON reports "
            "hold them."
        )
    return "\n\n".join(part for part in parts if part) + "\n"


def _errors(report: Report) -> str:
    d = summary.choose_digits(report)
    head = [
        "Network",
        "Sparsity asked",
        "realised",
        "Density",
        "Prune ratio",
        "Compression",
        "Retrained",
        "Test error",
        "over control",
        "over given",
        "Right after pruning",
        *(["BatchNorm re-estimated"] if summary.has_batchnorm(report) else []),
    ]
    body = []
    for row in summary.list_rows(report):
        c, network = row.checkpoint, row.network
        name = (
            f"**{escape(row.label)}** ({summary.choose_tag(report)})"
            if row.recommended
            else escape(row.label)
        )
        body.append(
            (
                name
                + (" (partial)" if c and c.partial else "")
                + (f" {escape(c.id)}" if c else ""),
                wording.short_percent(c.requested_sparsity) if c else "–",
                wording.short_percent(network.sparsity),
                wording.short_percent(network.density),
                wording.short_percent(network.prune_ratio),
                summary.compute_compression(network),
                summary.count_epochs(network) if network.retrain_epochs else "–",
                wording.percent_with_interval(network.error, d),
                wording.points_with_interval(c.error_increase.control, d) if c else "–",
                wording.points_with_interval(c.error_increase.given, d) if c else "–",
                "–"
                if c is None
                else wording.percent_with_interval(c.pruned.error, d)
                if c.retrained
                else "not retrained",
                *([escape(summary.describe_batchnorm(c))] if summary.has_batchnorm(report) else []),
            )
        )
    return format_table(head, body, right=range(1, len(head)))


def _checkpoint_warnings(report: Report) -> list[str]:
    found = [
        f"{c.id}: {warning}" for c in summary.order_checkpoints(report) for warning in c.warnings
    ]
    return [format_bullets(found)] if found else []


def _costs(report: Report) -> str:
    formats = summary.list_file_formats(report)
    head = [
        "Network",
        "Sparsity",
        "Parameters",
        *(f"File: {escape(summary.FORMATS.get(f, f))}" for f in formats),
        "sparse/given dense",
        "Work",
        "Latency p50",
    ]
    body = []
    for row in summary.list_rows(report):
        network, ratio = row.network, summary.compute_file_ratio(report, row.network)
        body.append(
            (
                escape(row.label),
                wording.short_percent(network.sparsity),
                wording.count(network.parameters),
                *(
                    wording.file_size(network.size_bytes[f]) if f in network.size_bytes else "–"
                    for f in formats
                ),
                "–" if ratio is None else wording.percent(ratio),
                wording.operations(network.flops),
                "<br>".join(escape(summary.describe_latency(item)) for item in network.latency_ms)
                or "not measured",
            )
        )
    return format_table(head, body, right=range(1, len(head)))


def _layers(checkpoint: Checkpoint) -> str:
    return format_table(
        ["Parameter", "Shape", "Kept", "of", "Density"],
        (
            (
                escape(layer.name),
                " × ".join(map(str, layer.shape)),
                wording.count(layer.kept),
                wording.count(layer.total),
                f"left dense: {escape(layer.reason)}"
                if layer.reason
                else wording.short_percent(layer.kept / layer.total)
                if layer.total
                else "–",
            )
            for layer in checkpoint.layers
        ),
        right=(2, 3),
    )


def _environment(report: Report) -> str:
    e, m, d = report.environment, report.model, report.data
    text = (
        f"{m.architecture}, {wording.count(m.parameters)} parameters ({wording.count(m.prunable)} prunable); "
        f"{d.name}, "
        f"{wording.count_of(d.fit, 'image')} to fit, {wording.count(d.val)} for validation, "
        f"{wording.count(d.test)} to test; {e.device_name}, "
        f"{wording.count_of(e.threads, 'thread')}, torch {e.torch}, secateur {e.secateur}; job "
        f"{report.job_id}"
    )
    return f"<sub>{escape(text)}</sub>"
