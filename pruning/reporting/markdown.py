"""A report as GitHub-flavoured Markdown: the verdict and the tables, short enough for a
pull-request comment.
"""

from __future__ import annotations

from pruning import wording as q
from pruning.reporting import summary as s
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
    verdict = s.describe_verdict(report)
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
                        q.percentage_points(gate.limit),
                        q.points_with_interval(gate.measured, 2)
                        if gate.measured
                        else "not measured",
                        "✅ passed" if gate.passed else "❌ failed",
                        escape(gate.message),
                    )
                    for gate in report.gates
                ),
            ),
        ]
    if s.list_warnings(report):
        parts += ["### Warnings", format_bullets(s.list_warnings(report))]
    parts += [
        "### Checkpoints",
        _errors(report),
        *([f"BatchNorm re-estimated: {s.BATCHNORM_NOTE}"] if s.has_batchnorm(report) else []),
        *_checkpoint_warnings(report),
        "### Size, work and time",
        escape(s.describe_costs(report)),
        _costs(report),
        s.LATENCY_NOTE,
    ]
    best = s.find_recommended(report)
    if best is not None and full:
        parts.append(format_details(f"Layers of {escape(best.id)}", _layers(best)))
    for name, section in report.sections.items():
        parts += format_section(name, section, s.choose_digits(report), full)
    if report.failures:
        parts += [
            "### Evaluations that failed",
            format_bullets(
                f"{failure.name} ({failure.code}): {failure.message}" for failure in report.failures
            ),
        ]
    parts.append(_environment(report))
    if full:
        parts.append(format_details("Spec", format_json(s.format_json(report.spec))))
    else:
        parts.append(
            "Curves, layers and spec are left out here for length; the HTML and JSON reports "
            "hold them."
        )
    return "\n\n".join(part for part in parts if part) + "\n"


def _errors(report: Report) -> str:
    d = s.choose_digits(report)
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
        *(["BatchNorm re-estimated"] if s.has_batchnorm(report) else []),
    ]
    body = []
    for row in s.list_rows(report):
        c, network = row.checkpoint, row.network
        name = (
            f"**{escape(row.label)}** ({s.choose_tag(report)})"
            if row.recommended
            else escape(row.label)
        )
        body.append(
            (
                name
                + (" (partial)" if c and c.partial else "")
                + (f" {escape(c.id)}" if c else ""),
                q.short_percent(c.requested_sparsity) if c else "–",
                q.short_percent(network.sparsity),
                q.short_percent(network.density),
                q.short_percent(network.prune_ratio),
                s.compute_compression(network),
                s.count_epochs(network) if network.retrain_epochs else "–",
                q.percent_with_interval(network.error, d),
                q.points_with_interval(c.error_increase.control, d) if c else "–",
                q.points_with_interval(c.error_increase.given, d) if c else "–",
                "–"
                if c is None
                else q.percent_with_interval(c.pruned.error, d)
                if c.retrained
                else "not retrained",
                *([escape(s.describe_batchnorm(c))] if s.has_batchnorm(report) else []),
            )
        )
    return format_table(head, body, right=range(1, len(head)))


def _checkpoint_warnings(report: Report) -> list[str]:
    found = [f"{c.id}: {warning}" for c in s.order_checkpoints(report) for warning in c.warnings]
    return [format_bullets(found)] if found else []


def _costs(report: Report) -> str:
    formats = s.list_file_formats(report)
    head = [
        "Network",
        "Sparsity",
        "Parameters",
        *(f"File: {escape(s.FORMATS.get(f, f))}" for f in formats),
        "sparse/given dense",
        "Work",
        "Latency p50",
    ]
    body = []
    for row in s.list_rows(report):
        network, ratio = row.network, s.compute_file_ratio(report, row.network)
        body.append(
            (
                escape(row.label),
                q.short_percent(network.sparsity),
                q.count(network.parameters),
                *(
                    q.file_size(network.size_bytes[f]) if f in network.size_bytes else "–"
                    for f in formats
                ),
                "–" if ratio is None else q.percent(ratio),
                q.operations(network.flops),
                "<br>".join(escape(s.describe_latency(item)) for item in network.latency_ms)
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
                q.count(layer.kept),
                q.count(layer.total),
                f"left dense: {escape(layer.reason)}"
                if layer.reason
                else q.short_percent(layer.kept / layer.total)
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
        f"{m.architecture}, {q.count(m.parameters)} parameters ({q.count(m.prunable)} prunable); "
        f"{d.name}, "
        f"{q.count_of(d.fit, 'image')} to fit, {q.count(d.val)} for validation, "
        f"{q.count(d.test)} to test; {e.device_name}, "
        f"{q.count_of(e.threads, 'thread')}, torch {e.torch}, secateur {e.secateur}; job "
        f"{report.job_id}"
    )
    return f"<sub>{escape(text)}</sub>"
