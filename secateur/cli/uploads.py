"""`secateur models …` and `secateur datasets …`."""

from __future__ import annotations

import shutil
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.console import (
    Json,
    complain,
    parse_option,
    print_json,
    print_table,
    say,
    show,
    tell,
)
from secateur.cli.outcomes import GATE, USAGE
from secateur.client import Client
from secateur.folders import pack_folder
from secateur.resources import Datasets, Models

models = typer.Typer(help="Upload networks and look after them.", no_args_is_help=True)
datasets = typer.Typer(help="Upload datasets and look after them.", no_args_is_help=True)

FileOrFolder = Annotated[Path, typer.Argument(exists=True, readable=True, metavar="FOLDER|FILE")]
Classes = Annotated[
    str | None,
    typer.Option(metavar="JSON", help="Names of numbered classes, in the order of the labels."),
]
Identifier = Annotated[str, typer.Argument(metavar="ID")]
Name = Annotated[str | None, typer.Option(help="A name to recognise it by.")]
Limit = Annotated[int, typer.Option(min=1, help="At most so many.")]
Normalize = Annotated[
    str | None, typer.Option(metavar="JSON", help='For instance {"mean": [0.5], "std": [0.25]}.')
]
Preprocessing = Annotated[
    str | None,
    typer.Option(
        metavar="JSON",
        help='For instance {"resize": 256, "crop": 224}, also with interpolation, mean and std; or '
        "the preprocessor_config.json of transformers, or the pretrained_cfg of timm.",
    ),
]


@models.command("upload")
def upload_model(
    file: FileOrFolder,
    architecture: Annotated[
        str | None,
        typer.Option(
            help="Its registered name (`secateur methods architectures`); a checkpoint of the "
            "service says it itself."
        ),
    ] = None,
    *,
    kwargs: Annotated[
        str | None, typer.Option(metavar="JSON", help="Arguments of the architecture.")
    ] = None,
    name: Name = None,
    normalize: Normalize = None,
    preprocessing: Preprocessing = None,
    classes: Annotated[
        str | None, typer.Option(metavar="JSON", help="Class names, in the order of outputs.")
    ] = None,
    arch: Annotated[
        Path | None,
        typer.Option(
            exists=True, metavar="FILE", help="The arch.json of a network that has lost channels."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Upload a network: a state dict (safetensors, .pth), or a folder or zip as transformers saves
    it.
    """
    with Client() as client:
        model = client.models.upload(
            file,
            architecture,
            name=name,
            kwargs=parse_option("--kwargs", kwargs, dict),
            normalize=parse_option("--normalize", normalize, dict),
            preprocessing=parse_option("--preprocessing", preprocessing, dict),
            classes=parse_option("--classes", classes, list),
            arch=arch,
        )
    show(model.document(), as_json)


@datasets.command("upload")
def upload_dataset(
    file: FileOrFolder,
    name: Name = None,
    normalize: Normalize = None,
    preprocessing: Preprocessing = None,
    *,
    classes: Classes = None,
    as_json: Json = False,
) -> None:
    """Upload a dataset: a folder or a zip in ImageFolder layout or of images/ and masks/, npz or
    safetensors.
    """
    with Client() as client:
        dataset = client.datasets.upload(
            file,
            name=name,
            normalize=parse_option("--normalize", normalize, dict),
            preprocessing=parse_option("--preprocessing", preprocessing, dict),
            classes=parse_option("--classes", classes, list),
        )
    show(dataset.document(), as_json)


@datasets.command("fetch")
def fetch_dataset(
    url: Annotated[str, typer.Argument(help="https://… or s3://bucket/key.")],
    sha256: Annotated[str, typer.Option(help="The SHA-256 of the file, in hexadecimal digits.")],
    name: Name = None,
    preprocessing: Preprocessing = None,
    *,
    classes: Classes = None,
    as_json: Json = False,
) -> None:
    """Have the service fetch a dataset; `datasets show ID` says when it can be used."""
    with Client() as client:
        dataset = client.datasets.fetch(
            url,
            sha256,
            name=name,
            preprocessing=parse_option("--preprocessing", preprocessing, dict),
            classes=parse_option("--classes", classes, list),
        )
    show(dataset.document(), as_json)


@datasets.command("check")
def check_dataset(file: FileOrFolder, *, classes: Classes = None, as_json: Json = False) -> None:
    """Read a dataset here as the service would, and tell what it finds; exit code 1 where it would
    be refused.
    """
    try:
        from pruning.errors import SecateurError as Refusal
        from tasks.check_dataset import check_dataset as check
    except ImportError as error:
        complain(f"{error}. Datasets are checked with the server's code: install secateur[server]")
        raise typer.Exit(USAGE) from None
    names = parse_option("--classes", classes, list)
    packed = pack_folder(file) if file.is_dir() else None
    try:
        document = check(packed or file, names)
    except Refusal as error:
        complain(error.message)
        if as_json:
            print_json({"error": {"code": error.code, "detail": error.message}})
        raise typer.Exit(GATE) from None
    finally:
        if packed is not None:
            shutil.rmtree(packed.parent, ignore_errors=True)
    show(document, as_json)


@models.command("check")
def check_file(
    file: FileOrFolder,
    architecture: Annotated[
        str | None, typer.Option(help="The architecture that it is meant for.")
    ] = None,
    *,
    kwargs: Annotated[
        str | None, typer.Option(metavar="JSON", help="Arguments of the architecture.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a file of weights or a Hugging Face folder locally: what is in it, and which
    architecture takes it.

    Needs the server's packages (`pip install secateur[server]`). Exit code 1 when the service could
    not use the file.
    """
    from pruning.networks.file_check import check_weights_file

    report = check_weights_file(file, architecture, parse_option("--kwargs", kwargs, dict) or {})
    if as_json:
        print_json(report.model_dump(mode="json"))
    else:
        for line in report.lines():
            tell(line)
    if not report.usable:
        raise typer.Exit(1)


@models.command("layers")
def list_layers(identifier: Identifier, as_json: Json = False) -> None:
    """List the layers of a network: what can be pruned or why not, and what is coupled."""
    with Client() as client:
        table = client.models.layers(identifier)
    if as_json:
        print_json(table.document())
        return
    columns = ("name", "kind", "shape", "parameters", "prunable", "coupled with")
    rows = (
        (
            layer.name,
            layer.kind,
            " x ".join(map(str, layer.shape)),
            layer.parameters,
            "yes" if layer.prunable else f"no: {layer.reason}",
            ", ".join(layer.coupled),
        )
        for layer in table.layers
    )
    print_table(columns, rows)
    if table.note is not None:
        say(table.note)


def _add_shared_commands(app: typer.Typer, kind: str) -> None:
    """Add the commands that models and datasets have in common."""

    def resource(client: Client) -> Models[Client] | Datasets[Client]:
        return client.models if kind == "models" else client.datasets

    @app.command("list", help=f"List the {kind}.")
    def list_all(limit: Limit = 100, as_json: Json = False) -> None:
        with Client() as client:
            listed = resource(client).list(limit=min(limit, 100))
            rows = [upload.document() for upload in islice(listed, limit)]
        if as_json:
            print_json({"data": rows})
        else:
            special = ("architecture", "parameters") if kind == "models" else ()
            columns = ("id", "name", *special, "size_bytes", "created_at")
            print_table(columns, ([row.get(column) for column in columns] for row in rows))

    @app.command("show", help=f"Show one of the {kind}.")
    def show_one(identifier: Identifier, as_json: Json = False) -> None:
        with Client() as client:
            show(resource(client).get(identifier).document(), as_json)

    @app.command("delete", help=f"Delete one of the {kind}.")
    def delete(identifier: Identifier, as_json: Json = False) -> None:
        with Client() as client:
            resource(client).delete(identifier)
        show({"id": identifier, "deleted": True}, as_json)


_add_shared_commands(models, "models")
_add_shared_commands(datasets, "datasets")
