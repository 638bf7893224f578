"""The results of a job: `secateur results`, `download` and `report`."""

from __future__ import annotations

import json
import re
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.filesize import decimal

from pruning.schemas.outputs import FileFormat
from secateur.cli.console import Json, print_json, print_table, tell
from secateur.cli.outcomes import job_code
from secateur.cli.watch import gate_line, percent
from secateur.client import Client
from secateur.operations.jobs import ReportFormat, Undecided
from secateur.wire import CheckpointResult, Results

app = typer.Typer()
JobId = Annotated[str, typer.Argument(metavar="ID")]
NEEDS_ARCH: frozenset[FileFormat] = frozenset({"sparse", "dense", "pth", "compressed"})
"""The formats that `arch.json` stands beside where channels were removed."""
ENDINGS: dict[FileFormat, str] = {
    "arch": "json",
    "compressed": "xz",
    "onnx": "onnx",
    "pth": "pth",
    "huggingface": "zip",
}


@app.command()
def results(job_id: JobId, as_json: Json = False) -> None:
    """Show what each checkpoint loses and weighs, which one to ship, and whether the gates passed;
    a family's answers.
    """
    with Client() as client:
        outcome = client.jobs.results(job_id)
    if as_json:
        print_json(outcome.document())
    elif outcome.of_family:
        _print_family(outcome)
    else:
        _print_checkpoints(outcome)
    raise typer.Exit(job_code(outcome.job, outcome))


@app.command()
def download(
    job_id: JobId,
    checkpoint: Annotated[
        str, typer.Option(metavar="CID|recommended|all", help="Which of them.")
    ] = "recommended",
    format: Annotated[
        FileFormat,
        typer.Option(
            help="Packed, plain, masks alone, the JSON that rebuilds it, or what the job's export "
            "lists."
        ),
    ] = "sparse",
    directory: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where to; made if missing.")
    ] = Path("."),
    as_json: Json = False,
) -> None:
    """Download checkpoints, each checked against its SHA-256; where channels were removed, with the
    JSON that rebuilds the network.
    """
    files: list[dict[str, Any]] = []
    with Client() as client:
        outcome = client.jobs.results(job_id, fields=("recommendation", "checkpoints"))
        chosen = _choose_checkpoints(outcome, checkpoint)
        directory.mkdir(parents=True, exist_ok=True)
        for result, file_format in _list_downloads(chosen, format):
            owner = result.job or job_id
            name = f"{owner}-{result.id}-{file_format}.{ENDINGS.get(file_format, 'safetensors')}"
            target = directory / re.sub(r"[^A-Za-z0-9._-]", "_", name)
            digest = result.sha256.get(file_format)
            client.jobs.download(owner, result.id, target, format=file_format, sha256=digest)
            files.append(
                {
                    "job": owner,
                    "checkpoint": result.id,
                    "format": file_format,
                    "path": str(target),
                    "sha256": digest,
                    "size_bytes": target.stat().st_size,
                }
            )
            if not as_json:
                tell(str(target))
    if as_json:
        print_json({"files": files})


@app.command()
def report(
    job_id: JobId,
    format: Annotated[ReportFormat, typer.Option(help="html is one self-contained file.")] = "md",
    file: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Default: stdout.")
    ] = None,
    undecided: Annotated[
        Undecided, typer.Option(help="What an undecided gate is in junit.")
    ] = "skip",
    as_json: Json = False,
) -> None:
    """Fetch the report of a job."""
    with Client() as client:
        content = client.jobs.report(job_id, format=format, undecided=undecided)
    if file is not None:
        _write(file, content)
        if as_json:
            print_json({"path": str(file), "format": format, "size_bytes": len(content)})
        else:
            tell(str(file))
    elif as_json:
        print_json(
            json.loads(content)
            if format == "json"
            else {"format": format, "content": content.decode()}
        )
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()


def _list_downloads(
    chosen: list[CheckpointResult], format: FileFormat
) -> list[tuple[CheckpointResult, FileFormat]]:
    """Return the files to download: the format, and `arch` beside one that needs it."""
    downloads: list[tuple[CheckpointResult, FileFormat]] = []
    for result in chosen:
        downloads.append((result, format))
        if format in NEEDS_ARCH and "arch" in result.formats:
            downloads.append((result, "arch"))
    return downloads


def _choose_checkpoints(outcome: Results, which: str) -> list[CheckpointResult]:
    """Return the checkpoints that `--checkpoint` names."""
    if which == "all":
        return list(outcome.checkpoints)
    ids = ", ".join(checkpoint.id for checkpoint in outcome.checkpoints) or "none"
    wanted: str | None = which
    owner = None
    if which == "recommended":
        wanted = outcome.recommended
        owner = getattr(outcome.recommendation, "job", None)
    if wanted is None:
        raise typer.BadParameter(f"no checkpoint is recommended; there are: {ids}")
    chosen = [
        checkpoint
        for checkpoint in outcome.checkpoints
        if checkpoint.id == wanted and (owner is None or checkpoint.job in (None, owner))
    ]
    if not chosen:
        raise typer.BadParameter(f"no checkpoint {wanted!r}; there are: {ids}")
    return chosen


def _write(file: Path, content: bytes) -> None:
    partial = file.with_name(f".{file.name}.{uuid.uuid4().hex}.part")
    try:
        partial.write_bytes(content)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _print_checkpoints(outcome: Results) -> None:
    """Print the checkpoints; of a job with replicates their means."""
    report = outcome.report or {}
    reported = {
        checkpoint.get("id"): checkpoint
        for checkpoint in report.get("checkpoints", ())
        if isinstance(checkpoint, dict)
    }
    replicates = report.get("replicates", ())
    shown = [checkpoint.document() for checkpoint in outcome.checkpoints]
    if replicates:
        shown = list(reported.values())
    given_flops = (report.get("baseline") or {}).get("flops")
    rows = []
    for checkpoint in shown:
        measured = reported.get(checkpoint["id"], {})
        increase = measured.get("error_increase") or {}
        sizes = checkpoint.get("size_bytes") or {}
        rows.append(
            (
                checkpoint["id"],
                _name_criterion(checkpoint.get("criterion")),
                _describe_target(checkpoint),
                percent(checkpoint.get("sparsity")),
                interval(checkpoint.get("error")),
                interval(increase.get("control"), sign=True),
                percent(measured["flops"] / given_flops)
                if given_flops and "flops" in measured
                else "",
                _describe_latencies(measured),
                ", ".join(f"{name} {decimal(size)}" for name, size in sizes.items()),
            )
        )
    columns = (
        "checkpoint",
        "criterion",
        "requested",
        "sparsity",
        "error [95 %]",
        "over control [95 %]",
        "FLOPs of given",
        "latency of given",
        "sizes",
    )
    print_table(columns, rows)
    if replicates:
        succeeded = sum(replicate.get("status") == "succeeded" for replicate in replicates)
        tell(f"means over {succeeded} of {len(replicates)} replicates")
    _print_verdict(outcome)


def _describe_latencies(measured: dict[str, Any]) -> str:
    """Return the ratios of latencies to the network as given, for each runtime that of the smallest
    batch with the most threads.
    """
    rows = [row for row in measured.get("latency_ms") or () if row.get("against_given")]
    best: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: (row["batch"], -row["threads"])):
        best.setdefault(row.get("runtime", "torch"), row)
    return ", ".join(
        f"{runtime} {100 * row['against_given']:.0f} %" for runtime, row in best.items()
    )


def _print_family(outcome: Results) -> None:
    """Print the answers, predicted beside measured, and how many of the members they rest on."""
    report = outcome.report or {}
    columns = (
        "tolerated",
        "depth",
        "width",
        "density",
        "parameters",
        "predicted [band]",
        "measured [95 %]",
        "",
        "job",
    )
    print_table(columns, [_list_answer_cells(answer) for answer in report.get("answers", ())])
    members = report.get("members", ())
    measured = sum(member.get("status") == "succeeded" for member in members)
    tell(f"{measured} of {len(members)} members measured")
    for failure in report.get("failures", ()):
        tell(f"failed: {failure.get('name')}: {failure.get('message')}")
    _print_verdict(outcome)


def _list_answer_cells(row: dict[str, Any]) -> tuple[Any, ...]:
    kept = row.get("measured_parameters")
    if kept is None:
        kept = row.get("parameters")
    parameters = "" if kept is None else f"{round(kept)} of {row.get('unpruned_parameters')}"
    bands = {
        True: "inside the band",
        False: "outside the band",
        None: row.get("status") or "not trained",
    }
    return (
        percent(row.get("max_error")),
        row.get("depth"),
        row.get("width"),
        percent(row.get("density")),
        parameters,
        interval(row.get("predicted")),
        interval(row.get("measured")),
        row.get("refused") or bands[row.get("within_band")],
        row.get("job"),
    )


def _print_verdict(outcome: Results) -> None:
    job = getattr(outcome.recommendation, "job", None)
    owner = f" of {job}" if job else ""
    recommended = outcome.recommended or "none"
    if outcome.joint is not None:
        tell(outcome.joint.sentence)
    label = "recommended" if outcome.verdict in (None, "ship") else "chosen on validation"
    reason = "" if outcome.recommendation is None else outcome.recommendation.reason
    tell(f"{label}: {recommended}{owner}. {reason}".rstrip())
    for gate in outcome.gates:
        tell(gate_line(gate))
    if outcome.job.status != "succeeded":
        tell(f"job {outcome.job.status}: these results are partial")


def _describe_target(checkpoint: Mapping[str, Any]) -> str:
    """The sparsity, the budget or the limit on the error that was asked for."""
    budget = checkpoint.get("requested")
    if not isinstance(budget, Mapping):
        return percent(checkpoint.get("requested_sparsity"))
    value = budget.get("value", 0)
    quantity = str(budget.get("quantity", ""))
    if quantity == "max_error_increase":
        return f"at most {100 * value:g} pp worse"
    noun = {"flops": "FLOPs", "size_bytes": "bytes"}.get(quantity, quantity)
    return f"{percent(value)} of {noun}" if value < 1 else f"{value:,.0f} {noun}"


def _name_criterion(criterion: Any) -> Any:
    return criterion.get("name") if isinstance(criterion, dict) else criterion


def interval(estimate: dict[str, Any] | None, *, sign: bool = False) -> str:
    """Return an error in percent with its interval."""
    if not estimate:
        return ""
    low = estimate.get("low")
    high = estimate.get("high")
    text = percent(estimate.get("value"), sign=sign)
    if low is None or high is None:
        return text
    return f"{text} [{100 * low:.2f}, {100 * high:.2f}]"
