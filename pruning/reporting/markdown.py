"""A report as GitHub-flavoured Markdown: the verdict and the tables, short enough for a pull-request comment."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from pruning.reporting import quantities as q
from pruning.reporting import summary as s
from pruning.reporting.tables import heading, shown, table
from pruning.schemas.report import Checkpoint, Curve, Report, Section

COMMENT_LIMIT = 60_000
"""Characters; GitHub takes 65,536 in one comment."""
COLUMNS = 6
_SPECIAL = re.compile(r"([\\`*_{}\[\]#|~])")


def render(report: Report) -> str:
    """Return the comment; curves, layers and spec are left out, with a note, where it would grow too long."""
    text = _document(report, full=True)
    return text if len(text) <= COMMENT_LIMIT else _document(report, full=False)


def escape(text: str) -> str:
    """Return text that Markdown shows as it is, also in a table cell, without links, mentions or HTML.

    >>> print(escape("a|b <script> @all"))
    a\\|b &lt;script&gt; &#64;all
    """
    text = " ".join(text.split()).replace("&", "&amp;")
    text = _SPECIAL.sub(r"\\\1", text)
    text = text.replace("<", "&lt;").replace(">", "&gt;").replace("@", "&#64;")
    return text.replace("://", "&#58;//").replace("www.", "www&#46;")


def _document(report: Report, full: bool) -> str:
    verdict = s.verdict(report)
    mark = {"good": "✅", "bad": "❌", "open": "⚠️"}[verdict.tone]
    parts = [f"## {mark} {escape(verdict.headline)}"]
    if report.partial:
        parts.append("**Partial.** The job ended before all its targets; the checkpoints listed here are whole.")
    parts.append(
        _table(["", "", ""], ((f"**{fact.label}**", escape(fact.value), escape(fact.detail)) for fact in verdict.facts))
    )
    parts.append(escape(verdict.sentence))
    if report.gates:
        parts += [
            "### Gates",
            _table(
                ["Gate", "Limit", "Measured", "", ""],
                (
                    (
                        escape(gate.name),
                        q.pp(gate.limit),
                        q.points(gate.measured, 2) if gate.measured else "not measured",
                        "✅ passed" if gate.passed else "❌ failed",
                        escape(gate.message),
                    )
                    for gate in report.gates
                ),
            ),
        ]
    if s.warnings(report):
        parts += ["### Warnings", _list(s.warnings(report))]
    parts += [
        "### Checkpoints",
        _errors(report),
        *([f"BatchNorm re-estimated: {s.BATCHNORM_NOTE}"] if s.has_batchnorm(report) else []),
        *_checkpoint_warnings(report),
        "### Size, work and time",
        escape(s.cost_note(report)),
        _costs(report),
        s.LATENCY_NOTE,
    ]
    best = s.recommended(report)
    if best is not None and full:
        parts.append(_folded(f"Layers of {escape(best.id)}", _layers(best)))
    for name, section in report.sections.items():
        parts += _section(name, section, s.digits(report), full)
    if report.failures:
        parts += [
            "### Evaluations that failed",
            _list(f"{failure.name} ({failure.code}): {failure.message}" for failure in report.failures),
        ]
    parts.append(_environment(report))
    if full:
        parts.append(_folded("Spec", _fenced(s.pretty(report.spec))))
    else:
        parts.append("Curves, layers and spec are left out here for length; the HTML and JSON reports hold them.")
    return "\n\n".join(part for part in parts if part) + "\n"


def _errors(report: Report) -> str:
    d = s.digits(report)
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
    for row in s.rows(report):
        c, network = row.checkpoint, row.network
        name = f"**{escape(row.label)}** ({s.tag(report)})" if row.recommended else escape(row.label)
        body.append(
            (
                name + (" (partial)" if c and c.partial else "") + (f" {escape(c.id)}" if c else ""),
                q.share(c.requested_sparsity) if c else "–",
                q.share(network.sparsity),
                q.share(network.density),
                q.share(network.prune_ratio),
                s.compression(network),
                s.epochs(network) if network.retrain_epochs else "–",
                q.measured(network.error, d),
                q.points(c.error_increase.control, d) if c else "–",
                q.points(c.error_increase.given, d) if c else "–",
                "–" if c is None else q.measured(c.pruned.error, d) if c.retrained else "not retrained",
                *([escape(s.batchnorm(c))] if s.has_batchnorm(report) else []),
            )
        )
    return _table(head, body, right=range(1, len(head)))


def _checkpoint_warnings(report: Report) -> list[str]:
    found = [f"{c.id}: {warning}" for c in s.ordered(report) for warning in c.warnings]
    return [_list(found)] if found else []


def _costs(report: Report) -> str:
    formats = s.file_formats(report)
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
    for row in s.rows(report):
        network, ratio = row.network, s.file_ratio(report, row.network)
        body.append(
            (
                escape(row.label),
                q.share(network.sparsity),
                q.count(network.parameters),
                *(q.size(network.size_bytes[f]) if f in network.size_bytes else "–" for f in formats),
                "–" if ratio is None else q.percent(ratio),
                q.operations(network.flops),
                "<br>".join(escape(s.latency(item)) for item in network.latency_ms)
                or "not measured",
            )
        )
    return _table(head, body, right=range(1, len(head)))


def _layers(checkpoint: Checkpoint) -> str:
    return _table(
        ["Parameter", "Shape", "Kept", "of", "Density"],
        (
            (
                escape(layer.name),
                " × ".join(map(str, layer.shape)),
                q.count(layer.kept),
                q.count(layer.total),
                f"left dense: {escape(layer.reason)}"
                if layer.reason
                else q.share(layer.kept / layer.total)
                if layer.total
                else "–",
            )
            for layer in checkpoint.layers
        ),
        right=(2, 3),
    )


def _section(name: str, section: Section, digits: int, full: bool) -> list[str]:
    parts = [f"### {escape(section.title)}", _list(section.notes)]
    if section.scalars:
        parts.append(
            _table(
                ["Quantity", "Value [95 % interval]", "Samples"],
                (
                    (escape(key), q.named(key, value, digits), "–" if value.n is None else q.count(value.n))
                    for key, value in section.scalars.items()
                ),
                right=(1, 2),
            )
        )
    if full and section.curves:
        parts.append(_folded(f"Curves of {escape(name)}", "\n\n".join(_curves(section.curves))))
    if full and section.details:
        parts.append(_folded(f"Details of {escape(name)}", "\n\n".join(_details(section.details, digits))))
    return parts


def _details(details: dict[str, Any], digits: int) -> list[str]:
    """Lists of records as tables, anything else as JSON."""
    parts = []
    for key, value in shown(details).items():
        found = table(value, digits, key)
        if found is None:
            parts.append(_fenced(s.pretty({key: value})))
            continue
        text = _table(map(escape, found.head), (map(escape, row) for row in found.rows), right=found.numeric)
        parts += [f"**{escape(heading(key))}**", text]
        if found.left_off:
            parts.append(f"{q.count(found.left_off)} more rows are in the JSON report.")
    return parts


def _curves(curves: dict[str, Curve]) -> list[str]:
    """Tables of curves with equal axes and points side by side."""
    groups: dict[tuple[str, str, tuple[float | str, ...]], list[str]] = {}
    for key, curve in curves.items():
        groups.setdefault((curve.x_label, curve.y_label, curve.x_names or curve.x), []).append(key)
    tables = []
    for (x_label, y_label, xs), keys in groups.items():
        for start in range(0, len(keys), COLUMNS):
            chosen = keys[start : start + COLUMNS]
            body = [
                (
                    escape(x) if isinstance(x, str) else q.plain(x),
                    *(q.named(y_label, curves[key].y[i]) if i < len(curves[key].y) else "" for key in chosen),
                )
                for i, x in enumerate(xs)
            ]
            tables.append(
                f"{escape(y_label)} against {escape(x_label)}\n\n"
                + _table([escape(x_label), *map(escape, chosen)], body, right=range(1 + len(chosen)))
            )
    return tables


def _environment(report: Report) -> str:
    e, m, d = report.environment, report.model, report.data
    text = (
        f"{m.architecture}, {q.count(m.parameters)} parameters ({q.count(m.prunable)} prunable); {d.name}, "
        f"{q.several(d.fit, 'image')} to fit, {q.count(d.val)} for validation, {q.count(d.test)} to test; {e.device_name}, "
        f"{q.several(e.threads, 'thread')}, torch {e.torch}, secateur {e.secateur}; job {report.job_id}"
    )
    return f"<sub>{escape(text)}</sub>"


def _table(head: Iterable[str], body: Iterable[Iterable[str]], right: Iterable[int] = ()) -> str:
    head, aligned = list(head), frozenset(right)
    rule = ["---:" if i in aligned else "---" for i in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *body))


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {escape(item)}" for item in items)


def _folded(summary: str, body: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{body}\n\n</details>"


def _fenced(text: str) -> str:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}json\n{text}\n{fence}"
