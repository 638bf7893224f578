"""What a job left: `secateur results`, `download` and `report`."""

from __future__ import annotations

import json
import re
import sys
import uuid
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.filesize import decimal

from secateur.cli.console import Json, print_json, print_table, tell
from secateur.cli.outcomes import job_code
from secateur.cli.watch import gate_line, percent
from secateur.client import Client
from secateur.operations.jobs import ReportFormat
from secateur.wire import CheckpointResult, Results

app = typer.Typer()
JobId = Annotated[str, typer.Argument(metavar="ID")]
FileFormat = Literal["sparse", "dense", "masks", "arch"]


@app.command()
def results(job_id: JobId, as_json: Json = False) -> None:
    """Show what each checkpoint loses and weighs, which one to ship, and whether the gates passed;
    a family's answers.
    """
    with Client() as client:
        found = client.jobs.results(job_id)
    if as_json:
        print_json(found.document())
    elif found.of_family:
        _print_family(found)
    else:
        _print(found)
    raise typer.Exit(job_code(found.job, found))


@app.command()
def download(
    job_id: JobId,
    checkpoint: Annotated[
        str, typer.Option(metavar="CID|recommended|all", help="Which of them.")
    ] = "recommended",
    format: Annotated[
        FileFormat, typer.Option(help="Packed, plain, masks alone, or the JSON that rebuilds it.")
    ] = "sparse",
    directory: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where to; made if missing.")
    ] = Path("."),
    as_json: Json = False,
) -> None:
    """Download checkpoints, each checked against its SHA-256."""
    files: list[dict[str, Any]] = []
    with Client() as client:
        found = client.jobs.results(job_id)
        chosen = _choose(found, checkpoint)
        directory.mkdir(parents=True, exist_ok=True)
        for each in chosen:
            ending, owner = "json" if format == "arch" else "safetensors", each.job or job_id
            target = directory / re.sub(
                r"[^A-Za-z0-9._-]", "_", f"{owner}-{each.id}-{format}.{ending}"
            )
            digest = each.sha256.get(format)
            client.jobs.download(owner, each.id, target, format=format, sha256=digest)
            files.append(
                {
                    "job": owner,
                    "checkpoint": each.id,
                    "format": format,
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
    as_json: Json = False,
) -> None:
    """Fetch the report of a job."""
    with Client() as client:
        content = client.jobs.report(job_id, format=format)
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


def _choose(found: Results, which: str) -> list[CheckpointResult]:
    if which == "all":
        return list(found.checkpoints)
    wanted = found.recommended if which == "recommended" else which
    ids = ", ".join(each.id for each in found.checkpoints) or "none"
    if wanted is None:
        raise typer.BadParameter(f"no checkpoint is recommended; there are: {ids}")
    owner = (found.recommendation or {}).get("job") if which == "recommended" else None
    chosen = [
        each
        for each in found.checkpoints
        if each.id == wanted and (owner is None or each.job in (None, owner))
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


def _print(found: Results) -> None:
    reported = {
        each.get("id"): each
        for each in (found.report or {}).get("checkpoints", ())
        if isinstance(each, dict)
    }
    print_table(
        (
            "checkpoint",
            "criterion",
            "requested",
            "sparsity",
            "error [95 %]",
            "over control [95 %]",
            "sizes",
        ),
        (
            (
                each.id,
                _name(each.criterion),
                percent(each.requested_sparsity),
                percent(each.sparsity),
                interval(each.error.model_dump() if each.error else None),
                interval(
                    (reported.get(each.id, {}).get("error_increase") or {}).get("control"),
                    sign=True,
                ),
                ", ".join(f"{name} {decimal(size)}" for name, size in each.size_bytes.items()),
            )
            for each in found.checkpoints
        ),
    )
    _print_verdict(found)


def _print_family(found: Results) -> None:
    """Its answers, predicted beside measured, and how many of its members they rest on."""
    report = found.report or {}
    print_table(
        (
            "tolerated",
            "depth",
            "width",
            "density",
            "parameters",
            "predicted [band]",
            "measured [95 %]",
            "",
            "job",
        ),
        (_answer(each) for each in report.get("answers", ())),
    )
    members = report.get("members", ())
    tell(
        f"{sum(each.get('status') == 'succeeded' for each in members)} of {len(members)} members "
        "measured"
    )
    for failure in report.get("failures", ()):
        tell(f"failed: {failure.get('name')}: {failure.get('message')}")
    _print_verdict(found)


def _answer(row: dict[str, Any]) -> tuple[Any, ...]:
    kept = (
        row.get("parameters")
        if row.get("measured_parameters") is None
        else row["measured_parameters"]
    )
    parameters = "" if kept is None else f"{round(kept)} of {row.get('unpruned_parameters')}"
    said = {
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
        row.get("refused") or said[row.get("within_band")],
        row.get("job"),
    )


def _print_verdict(found: Results) -> None:
    advice = found.recommendation or {}
    of = f" of {advice['job']}" if advice.get("job") else ""
    tell(f"recommended: {found.recommended or 'none'}{of}. {advice.get('reason') or ''}".rstrip())
    for gate in found.gates:
        tell(gate_line(gate))
    if found.job.status != "succeeded":
        tell(f"job {found.job.status}: these results are partial")


def _name(criterion: Any) -> Any:
    return criterion.get("name") if isinstance(criterion, dict) else criterion


def interval(estimate: dict[str, Any] | None, *, sign: bool = False) -> str:
    """An error in percent with its interval."""
    if not estimate:
        return ""
    value, low, high = (estimate.get(part) for part in ("value", "low", "high"))
    bounds = "" if low is None or high is None else f" [{100 * low:.2f}, {100 * high:.2f}]"
    return f"{percent(value, sign=sign)}{bounds}"
