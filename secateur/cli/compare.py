"""`secateur compare`."""

from __future__ import annotations

from typing import Annotated

import typer

from pruning.schemas.comparison import ComparedNetwork, Comparison, PairedDifference
from secateur.cli.console import Json, print_json, print_table, tell
from secateur.cli.results import interval
from secateur.client import Client

app = typer.Typer()
HEADINGS = {
    "size_bytes": "bytes of the sparse file",
    "flops": "FLOPs",
    "latency_ms": "milliseconds",
}
"""The name of each cost of a front."""


@app.command()
def compare(
    job_ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="Two or more finished jobs.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="ID", help="Instead: all checkpoints of this model.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare jobs on the images that they share: which errs less, and what is cheapest."""
    with Client() as client:
        comparison = client.jobs.compare(*(job_ids or ()), model=model)
    if as_json:
        print_json(comparison.model_dump(mode="json"))
        return
    print_table(
        ("job", "network", "error", "on validation", "sparse file", "FLOPs", "ms"),
        [_list_cells(network) for network in comparison.networks],
    )
    if comparison.differences:
        tell("")
        _print_differences(comparison)
    for front in comparison.fronts:
        names = ", ".join(f"{name.network} of {name.job}" for name in front.networks)
        tell(f"fewest {HEADINGS[front.cost]} for their validation error: {names}")
    for note in comparison.notes:
        tell(f"note: {note}")


def _list_cells(network: ComparedNetwork) -> tuple[object, ...]:
    return (
        network.job,
        network.network + (" (recommended)" if network.recommended else ""),
        interval(network.error.model_dump()),
        f"{network.val_error.value:.2%}",
        f"{network.size_bytes:,}",
        f"{network.flops:,}",
        "" if network.latency_ms is None else f"{network.latency_ms:.2f}",
    )


def _print_differences(comparison: Comparison) -> None:
    tell(f"differences of errors on {comparison.images:,} test images that all jobs have")
    print_table(
        ("first", "second", "first - second", "adjusted p", "smaller error"),
        [
            (
                f"{row.first.network} of {row.first.job}",
                f"{row.second.network} of {row.second.job}",
                interval(row.difference.model_dump(), sign=True),
                "" if row.p_value is None else f"{row.p_value:.3g}",
                _name_lower(row),
            )
            for row in comparison.differences
        ],
    )


def _name_lower(row: PairedDifference) -> str:
    """The job of the network with the smaller error, where the test shows one."""
    if row.p_value is None:
        return ""
    return "not shown" if row.lower is None else getattr(row, row.lower).job
