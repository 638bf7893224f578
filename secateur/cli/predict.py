"""The predictions of a job's scaling law: `secateur predict`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from secateur.cli.console import Json, print_json, print_table, tell
from secateur.cli.results import interval
from secateur.cli.watch import percent
from secateur.client import Client

app = typer.Typer()
SHARES = ("density", "sparsity", "unpruned_error")
BANDS = {"run": "one more run under another seed", "curve": "the mean of many runs"}
SOURCES = {
    "trials": "pooled from the runs under other seeds",
    "paper": "the paper's, as the runs under other seeds are too few to show it",
}
"""The source of what a seed does to a curve, in words."""
COLUMNS = (
    "depth",
    "width",
    "unpruned_error",
    "density",
    "sparsity",
    "parameters",
    "error",
    "law",
    "remark",
)


@app.command()
def predict(
    job_id: Annotated[str, typer.Argument(metavar="ID")],
    density: Annotated[
        list[float] | None, typer.Option(min=0, max=1, help="A kept fraction; repeat for several.")
    ] = None,
    *,
    max_error: Annotated[
        float | None, typer.Option(min=0, max=1, help="The error that is tolerated.")
    ] = None,
    criterion: Annotated[
        str | None, typer.Option(help="For a job with several: the criterion whose law predicts.")
    ] = None,
    confidence: Annotated[
        float, typer.Option(min=0.5, max=1, help="The confidence of the bands.")
    ] = 0.9,
    of: Annotated[
        Literal["run", "curve"],
        typer.Option(help="What the bands are of: one more run, or the mean of many."),
    ] = "run",
    depth: Annotated[
        float | None, typer.Option(help="For a family: only networks of this depth.")
    ] = None,
    width: Annotated[
        float | None, typer.Option(help="For a family: only networks of this width.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask a finished job's law for the error of densities, or for the smallest density at an
    error.
    """
    if bool(density) == (max_error is not None):
        raise typer.BadParameter("give either --density, once or several times, or --max-error")
    with Client() as client:
        answer = client.jobs.predict(
            job_id,
            densities=density or None,
            max_error=max_error,
            criterion=criterion,
            confidence=confidence,
            of=of,
            depth=depth,
            width=width,
        )
    if as_json:
        print_json(answer.document())
        return
    rows: list[dict[str, Any]] = answer.get("predictions", [])
    columns = [
        name
        for name in COLUMNS
        if name == "error" or any(row.get(name) not in (None, "") for row in rows)
    ]
    print_table(
        [
            f"error [{100 * confidence:g} % band]" if name == "error" else name.replace("_", " ")
            for name in columns
        ],
        ([_cell(name, row) for name in columns] for row in rows),
    )
    tell(f"bands are of {BANDS[of]}")
    law = answer.get("law") or {}
    if law.get("sigma") is not None:
        tell(
            f"one run scatters by {percent(law['sigma'])} of its error about the law (standard "
            "deviation), beside the sampling of its test images"
        )
    if of == "run" and law.get("seed_sd") is not None:
        source = SOURCES.get(str(law.get("seed_sd_from")), "unknown")
        tell(f"another seed moves a whole curve by {percent(law['seed_sd'])} ({source})")
    for warning in law.get("warnings", ()):
        tell(f"warning: {warning}")


def _cell(name: str, row: dict[str, Any]) -> Any:
    value = row.get(name)
    if name == "error":
        return interval(value) + (" (extrapolated)" if value and row.get("extrapolated") else "")
    if name == "parameters":
        return "" if value is None else round(value)
    return percent(value) if name in SHARES else value
