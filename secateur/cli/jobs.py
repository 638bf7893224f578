"""`secateur jobs …`."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pruning.schemas.recipe import Retrain, Shifts
from secateur.cli.console import Json, print_json, print_table, say, show, tell
from secateur.cli.estimates import print_validation
from secateur.cli.judging import find_pruned, read_gates
from secateur.cli.specs import choose_layers, override, read_dataset, read_evaluations, read_spec
from secateur.cli.watch import watch as watch_job
from secateur.client import Client

app = typer.Typer(help="Submit jobs and steer them.", no_args_is_help=True)
JobId = Annotated[str, typer.Argument(metavar="ID")]
Timeout = Annotated[
    float | None, typer.Option(min=0, metavar="SECONDS", help="Stop watching after so long.")
]
DATASET = typer.Option(
    metavar="ID|builtin:NAME|PATH", help="A dataset; a folder or a file is uploaded first."
)
EvaluationNames = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME|all", help="What to report on; repeat for several, or all."),
]
GateLimits = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=LIMIT", help="As max_error_increase=0.01; repeat for several."),
]
Seed = Annotated[int | None, typer.Option(help="The seed of everything random.")]
ValidateOnly = Annotated[
    bool, typer.Option("--validate-only", help="Check and estimate, store no job.")
]
Watch = Annotated[bool, typer.Option("--watch", help="Then watch it to its end.")]
IdempotencyKey = Annotated[
    str | None, typer.Option(help="Submitting twice with one key starts one job.")
]
JOB = ("id", "type", "status", "stage", "attempt", "created_at", "finished_at")
MEMBER = (
    "id",
    "status",
    "role",
    "depth",
    "width",
    "fraction",
    "seed",
    "density",
    "stage",
    "finished_at",
)
if TYPE_CHECKING:
    Mode = str
    Knowledge = str
else:
    Knowledge = Shifts.model_fields["knowledge"].annotation
    Mode = Retrain.model_fields["mode"].annotation


@app.command()
def submit(
    spec: Annotated[
        str | None, typer.Argument(metavar="SPEC.json|-", help="The job as JSON, `-` for stdin.")
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="ID", help="An uploaded model.")] = None,
    *,
    dataset: Annotated[str | None, DATASET] = None,
    sparsity: Annotated[
        list[float] | None, typer.Option(help="A target; repeat for several.")
    ] = None,
    flops: Annotated[
        list[str] | None,
        typer.Option(help="A budget instead: a share of the dense network's FLOPs, or a number."),
    ] = None,
    parameters: Annotated[
        list[str] | None, typer.Option(help="A budget: a share of the parameters, or a number.")
    ] = None,
    size: Annotated[
        list[str] | None, typer.Option(help="A budget: a share of the bytes, or a size as 4MB.")
    ] = None,
    max_error_increase: Annotated[
        list[str] | None,
        typer.Option(
            help="As small as it gets: the most that the error may be above the dense control's, "
            "as 0.01; repeat for several."
        ),
    ] = None,
    criterion: Annotated[
        list[str] | None, typer.Option(help="What to prune by; repeat to compare.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Epochs of retraining after each round.")
    ] = None,
    retrain: Annotated[Mode | None, typer.Option(help="How to retrain.")] = None,
    seed: Seed = None,
    replicates: Annotated[
        int | None, typer.Option(help="Runs under as many seeds, pooled in one report.")
    ] = None,
    evaluation: EvaluationNames = None,
    gate: GateLimits = None,
    granularity: Annotated[
        str | None, typer.Option(metavar="NAME", help="What is removed as a whole: channel, …")
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN|kind:KIND", help="Prune these layers alone; repeat for several."
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN|kind:KIND", help="Layers left dense; repeat for several."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--override",
            metavar="PATTERN=SPARSITY",
            help="The sparsity of some layers at every target; repeat for several.",
        ),
    ] = None,
    validate_only: ValidateOnly = False,
    watch: Watch = False,
    timeout: Timeout = None,
    idempotency_key: IdempotencyKey = None,
    as_json: Json = False,
) -> None:
    """Submit a job, or with a file a family of them; flags override the file."""
    document = override(
        read_spec(spec),
        model=model,
        dataset=dataset,
        sparsity=sparsity or (),
        budgets={
            "flops": flops or (),
            "parameters": parameters or (),
            "size_bytes": size or (),
            "max_error_increase": max_error_increase or (),
        },
        criterion=criterion or (),
        epochs=epochs,
        retrain=retrain,
        seed=seed,
        replicates=replicates,
        evaluation=evaluation or (),
    )
    document = choose_layers(
        document, include=include or (), exclude=exclude or (), overrides=overrides or ()
    )
    if granularity is not None:
        document["granularity"] = {"name": granularity}
    if gate:
        document["gates"] = read_gates(gate)
    sending = Sending(validate_only, watch, timeout, idempotency_key, as_json)
    with Client() as client:
        _upload_dataset(client, document, dataset)
        _send(client, document, sending)


@dataclass(frozen=True)
class Sending:
    """The way in which a job is submitted."""

    validate_only: bool
    watch: bool
    timeout_s: float | None
    idempotency_key: str | None
    as_json: bool

    def __post_init__(self) -> None:
        if self.watch and self.validate_only:
            raise typer.BadParameter("--validate-only starts no job to --watch")


def _upload_dataset(client: Client, document: dict[str, Any], dataset: str | None) -> None:
    """Upload the dataset of a job where it is a path, and name it in the job."""
    if dataset is not None and Path(dataset).exists():
        uploaded = client.datasets.upload(dataset)
        document["dataset"]["id"] = uploaded.id
        say(f"uploaded {uploaded.id}")


def _send(client: Client, document: dict[str, Any], sending: Sending) -> None:
    """Submit a job and watch it, or check it alone."""
    if sending.validate_only:
        validation = client.jobs.validate(document)
        if sending.as_json:
            print_json(validation.document())
        else:
            print_validation(validation)
        return
    job = client.jobs.submit(document, idempotency_key=sending.idempotency_key)
    if sending.watch:
        say(f"submitted {job.id}")
        _watch(client, job.id, sending.timeout_s, sending.as_json)
    if sending.as_json:
        print_json(job.document())
    else:
        tell(f"{job.id} {job.status}")


@app.command()
def evaluate(
    dense: Annotated[str, typer.Argument(metavar="DENSE", help="The id of the dense original.")],
    pruned: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]PRUNED...",
            help="Networks that were pruned from it: ids of models, or files, which are uploaded.",
        ),
    ],
    *,
    dataset: Annotated[str, DATASET],
    evaluation: EvaluationNames = None,
    gate: GateLimits = None,
    shifts: Annotated[
        Knowledge | None, typer.Option(help="What is known of the data that it will meet.")
    ] = None,
    export: Annotated[
        list[str] | None, typer.Option(help="A file format to write; repeat for several.")
    ] = None,
    seed: Seed = None,
    validate_only: ValidateOnly = False,
    watch: Watch = False,
    timeout: Timeout = None,
    idempotency_key: IdempotencyKey = None,
    as_json: Json = False,
) -> None:
    """Judge networks that were pruned elsewhere beside their dense original."""
    document: dict[str, Any] = {
        "type": "evaluate",
        "model": {"id": dense},
        "dataset": read_dataset(dataset),
    }
    if evaluation:
        document["evaluations"] = read_evaluations(evaluation)
    if gate:
        document["gates"] = read_gates(gate)
    if shifts is not None:
        document["shifts"] = {"knowledge": shifts}
    if export:
        document["export"] = export
    if seed is not None:
        document["seed"] = seed
    sending = Sending(validate_only, watch, timeout, idempotency_key, as_json)
    with Client() as client:
        document["pruned"] = find_pruned(client, dense, pruned)
        _upload_dataset(client, document, dataset)
        _send(client, document, sending)


@app.command()
def watch(job_id: JobId, timeout: Timeout = None, as_json: Json = False) -> None:
    """Watch a job to its end; Ctrl-C leaves it running."""
    with Client() as client:
        _watch(client, job_id, timeout, as_json)


def _watch(client: Client, job_id: str, timeout_s: float | None, as_json: bool) -> None:
    code, document = watch_job(client, job_id, timeout_s)
    if as_json:
        print_json(document)
    elif "status" in document["job"]:
        tell(f"{job_id} {document['job']['status']}")
    raise typer.Exit(code)


@app.command("list")
def list_all(
    status: Annotated[str | None, typer.Option(help="Only jobs of this status.")] = None,
    label: Annotated[str | None, typer.Option(help="Only jobs with this label.")] = None,
    parent: Annotated[
        str | None, typer.Option(metavar="ID|none", help="Only a family's members, or no family's.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    as_json: Json = False,
) -> None:
    """List the jobs."""
    with Client() as client:
        listed = client.jobs.list(status=status, label=label, parent=parent, limit=min(limit, 100))
        rows = [job.document() for job in islice(listed, limit)]
    if as_json:
        print_json({"data": rows})
    else:
        columns = MEMBER if parent not in (None, "none") else JOB
        print_table(
            columns,
            (
                [_cell((row | (row.get("member") or {})).get(column)) for column in columns]
                for row in rows
            ),
        )


def _cell(value: object) -> object:
    return f"{value:.4g}" if isinstance(value, float) else value


@app.command("show")
def show_one(job_id: JobId, as_json: Json = False) -> None:
    """Show a job as it stands."""
    with Client() as client:
        show(client.jobs.get(job_id).document(), as_json)


def _steer(verb: Literal["cancel", "pause", "resume", "retry"], summary: str) -> None:
    @app.command(verb, help=summary)
    def steer(job_id: JobId, as_json: Json = False) -> None:
        with Client() as client:
            job = getattr(client.jobs, verb)(job_id)
        if as_json:
            print_json(job.document())
        else:
            tell(f"{job.id} {job.status}")


_steer("cancel", "Cancel a job; the checkpoints it finished are kept.")
_steer("pause", "Pause a job; a resume goes on from its last saved step.")
_steer("resume", "Queue a paused job again.")
_steer("retry", "Queue a failed or cancelled job again, from what it finished.")
