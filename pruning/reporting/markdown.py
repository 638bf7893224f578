"""A report as GitHub-flavoured Markdown: the verdict and the tables, short enough for a
pull-request comment.
"""

from __future__ import annotations

from pruning import wording
from pruning.measurement.needed_images import round_up_images
from pruning.reporting import asked, runtimes, summary
from pruning.reporting.comment import (
    COMMENT_LIMIT,
    MARKS,
    OUTCOME_MARKS,
    escape,
    format_bullets,
    format_details,
    format_json,
    format_section,
    format_table,
)
from pruning.reporting.gates import describe_limit, describe_measured
from pruning.schemas.report import Checkpoint, Layer, Report


def render(report: Report) -> str:
    """Return the comment; curves, layers and spec are left out, with a note, where it would grow
    too long.
    """
    text = _write_document(report, full=True)
    return text if len(text) <= COMMENT_LIMIT else _write_document(report, full=False)


def _write_document(report: Report, full: bool) -> str:
    verdict = summary.describe_verdict(report)
    parts = [f"## {MARKS[verdict.tone]} {escape(verdict.headline)}"]
    if verdict.joint:
        parts.append(f"**{escape(verdict.joint)}**")
    if report.partial:
        parts.append(
            "**Partial.** The job ended before all its targets; the checkpoints listed here are "
            "whole."
        )
    facts = [
        (f"**{fact.label}**", escape(fact.value), escape(fact.detail)) for fact in verdict.facts
    ]
    parts += [format_table(["", "", ""], facts), escape(verdict.sentence)]
    if report.gates:
        parts += ["### Gates", _tabulate_gates(report)]
    warnings = summary.list_warnings(report)
    if warnings:
        parts += ["### Warnings", format_bullets(warnings)]
    parts += ["### Checkpoints", _tabulate_errors(report)]
    parts.append(escape(summary.describe_references(report)))
    if summary.has_batchnorm(report):
        parts.append(f"BatchNorm re-estimated: {summary.BATCHNORM_NOTE}")
    parts += [
        *_list_checkpoint_warnings(report),
        "### Size, work and time",
        escape(summary.describe_costs(report)),
        _tabulate_costs(report),
        runtimes.LATENCY_NOTE,
        *_tabulate_files(report),
    ]
    recommended = summary.find_recommended(report)
    if recommended is not None and full:
        layers = _tabulate_layers(recommended)
        parts.append(format_details(f"Layers of {escape(recommended.id)}", layers))
    for name, section in report.sections.items():
        parts += format_section(name, section, summary.choose_digits(report), full)
    if report.failures:
        failures = [
            f"{failure.name} ({failure.code}): {failure.message}" for failure in report.failures
        ]
        parts += ["### Evaluations that failed", format_bullets(failures)]
    parts.append(_describe_environment(report))
    if full:
        parts.append(format_details("Spec", format_json(summary.format_json(report.spec))))
    else:
        parts.append(
            "Curves, layers and spec are left out here for length; the HTML and JSON reports "
            "hold them."
        )
    return "\n\n".join(part for part in parts if part) + "\n"


def _tabulate_gates(report: Report) -> str:
    rows = [
        (
            escape(describe_limit(gate)),
            escape(describe_measured(gate)),
            OUTCOME_MARKS[gate.outcome],
            "–" if gate.needed is None else wording.count(round_up_images(gate.needed)),
            escape(gate.message),
        )
        for gate in report.gates
    ]
    return format_table(["Gate", "Measured", "", "Images that would decide", ""], rows)


def _tabulate_errors(report: Report) -> str:
    head = [
        "Network",
        asked.name_column(report),
        "realised",
        "Density",
        "Prune ratio",
        "Compression of prunable weights",
        "Retrained",
        "Test error",
        "over control",
        "over given",
        "Right after pruning",
    ]
    if summary.has_batchnorm(report):
        head.append("BatchNorm re-estimated")
    rows = [_list_error_cells(report, row) for row in summary.list_rows(report)]
    return format_table(head, rows, right=range(1, len(head)))


def _list_error_cells(report: Report, row: summary.Row) -> list[str]:
    """Return the cells of one network; what only pruned networks have is a dash for others."""
    digits = summary.choose_digits(report)
    checkpoint = row.checkpoint
    network = row.network
    requested = over_control = over_given = after_pruning = "–"
    if checkpoint is not None:
        increase = checkpoint.error_increase
        requested = asked.describe_cell(checkpoint)
        over_control = wording.points_with_interval(increase.control, digits)
        over_given = wording.points_with_interval(increase.given, digits)
        after_pruning = "not retrained"
        if checkpoint.retrained:
            after_pruning = wording.percent_with_interval(checkpoint.pruned.error, digits)
    cells = [
        _describe_network(report, row),
        requested,
        wording.short_percent(network.sparsity),
        wording.short_percent(network.density),
        wording.short_percent(network.prune_ratio),
        summary.compute_compression(network),
        summary.count_epochs(network) if network.retrain_epochs else "–",
        wording.percent_with_interval(network.error, digits),
        over_control,
        over_given,
        after_pruning,
    ]
    if summary.has_batchnorm(report):
        cells.append(escape(summary.describe_batchnorm(checkpoint)))
    return cells


def _describe_network(report: Report, row: summary.Row) -> str:
    name = escape(row.label)
    if row.recommended:
        name = f"**{name}** ({summary.choose_tag(report)})"
    if row.checkpoint is None:
        return name
    id = "" if row.checkpoint.id == row.label else f" {escape(row.checkpoint.id)}"
    return f"{name}{' (partial)' if row.checkpoint.partial else ''}{id}"


def _list_checkpoint_warnings(report: Report) -> list[str]:
    warnings = [
        f"{checkpoint.id}: {warning}"
        for checkpoint in summary.order_checkpoints(report)
        for warning in checkpoint.warnings
    ]
    return [format_bullets(warnings)] if warnings else []


def _tabulate_costs(report: Report) -> str:
    formats = summary.list_file_formats(report)
    head = [
        "Network",
        "Sparsity",
        "Parameters",
        *(f"File: {escape(summary.FORMATS.get(name, name))}" for name in formats),
        "sparse/given dense",
        "Work",
        "Latency p50",
    ]
    rows = []
    for row in summary.list_rows(report):
        network = row.network
        source = summary.find_cost_source(row)
        if source is not None:
            # Measured of one control: the numbers would look like another measurement.
            costs = [f"as {escape(source)}"] * (len(formats) + 3)
            sparsity = wording.short_percent(network.sparsity)
            rows.append((escape(row.label), sparsity, wording.count(network.parameters), *costs))
            continue
        ratio = summary.compute_file_ratio(report, network)
        latencies = [escape(runtimes.describe_latency(item)) for item in network.latency_ms]
        sizes = [
            wording.file_size(network.size_bytes[name]) if name in network.size_bytes else "–"
            for name in formats
        ]
        rows.append(
            (
                escape(row.label),
                wording.short_percent(network.sparsity),
                wording.count(network.parameters),
                *sizes,
                "–" if ratio is None else wording.percent(ratio),
                wording.operations(network.flops),
                "<br>".join(latencies) or "not measured",
            )
        )
    return format_table(head, rows, right=range(1, len(head)))


def _tabulate_files(report: Report) -> list[str]:
    """The checks of ONNX files and of files with rounded values; nothing where there are none."""
    checkpoints, digits = summary.order_checkpoints(report), summary.choose_digits(report)
    tables = (
        (
            runtimes.ONNX_HEAD,
            runtimes.list_onnx_rows(checkpoints, digits),
            runtimes.ONNX_NOTE,
        ),
        (
            runtimes.ROUNDED_HEAD,
            runtimes.list_rounded_rows(checkpoints, digits),
            runtimes.ROUNDED_NOTE,
        ),
    )
    parts = []
    for head, rows, note in tables:
        if rows:
            escaped = [tuple(escape(cell) for cell in row) for row in rows]
            parts += [format_table(list(head), escaped), note]
    return parts


def _tabulate_layers(checkpoint: Checkpoint) -> str:
    overridden = any(layer.asked is not None for layer in checkpoint.layers)
    rows = [
        (
            escape(layer.name),
            " × ".join(map(str, layer.shape)),
            wording.count(layer.kept),
            wording.count(layer.total),
            _describe_density(layer),
            *([_describe_asked(layer)] if overridden else []),
        )
        for layer in checkpoint.layers
    ]
    asked = ["Sparsity asked for"] if overridden else []
    titles = ["Parameter", "Shape", "Kept", "of", "Density", *asked]
    return format_table(titles, rows, right=(2, 3))


def _describe_asked(layer: Layer) -> str:
    """The sparsity that the job asks of a layer; what it has stands beside."""
    if layer.asked is None:
        return ""
    return f"{wording.short_percent(layer.asked)} of the weights or channels"


def _describe_density(layer: Layer) -> str:
    if layer.reason:
        return f"left dense: {escape(layer.reason)}"
    return wording.short_percent(layer.kept / layer.total) if layer.total else "–"


def _describe_environment(report: Report) -> str:
    environment = report.environment
    model = report.model
    data = report.data
    parts = (
        f"{model.architecture}, {wording.count(model.parameters)} parameters "
        f"({wording.count(model.prunable)} prunable)",
        f"{data.name}, {wording.count_of(data.fit, 'image')} to fit, {wording.count(data.val)} for "
        f"validation, {wording.count(data.test)} to test",
        f"{environment.device_name}, {wording.count_of(environment.threads, 'thread')}, "
        f"torch {environment.torch}, secateur {environment.secateur}",
        f"job {report.job_id}",
    )
    return f"<sub>{escape('; '.join(parts))}</sub>"
