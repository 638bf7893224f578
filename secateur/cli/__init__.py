"""The `secateur` command."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache

import typer

from secateur.cli import compare, jobs, predict, results, service, uploads
from secateur.cli.console import complain, print_json
from secateur.cli.outcomes import INTERRUPTED, USAGE, document_of, exit_code
from secateur.errors import SecateurError

app = typer.Typer(
    name="secateur",
    help="Prune networks, and know what is lost.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(uploads.models, name="models")
app.add_typer(uploads.datasets, name="datasets")
app.add_typer(jobs.app, name="jobs")
for module in (results, compare, predict, service):
    app.registered_commands += module.app.registered_commands


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code (see `outcomes`)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    wants_json = "--json" in words
    try:
        _build_command()(args=words, prog_name="secateur")
    except SystemExit as end:
        # None is success, a text is 1.
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if wants_json and code in (USAGE, INTERRUPTED):
            reason = "usage" if code == USAGE else "interrupted"
            print_json({"error": {"code": reason, "detail": "see stderr"}})
        return code
    except (SecateurError, OSError) as error:
        complain(str(error))
        if wants_json:
            print_json({"error": document_of(error)})
        return exit_code(error)
    return 0


@cache
def _build_command() -> Callable[..., object]:
    return typer.main.get_command(app)
