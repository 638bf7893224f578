"""A job's progress on the terminal."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from secateur.cli.console import complain, err, say
from secateur.cli.outcomes import CANCELLED, job_code
from secateur.client import Client
from secateur.errors import WaitTimeout
from secateur.wire import Event, FamilyGate, Gate


class Display:
    """Events as lines on stderr and, on a terminal, a bar with stage and remaining time."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[eta]}", markup=False),
            console=err,
            transient=True,
            disable=not err.is_terminal,
        )
        self._task = self._bar.add_task("waiting", total=None, eta="")

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def show(self, event: Event) -> None:
        """Show an event; unknown types are passed over."""
        data = event.data
        match event.type:
            case "progress":
                self._bar.update(
                    self._task,
                    completed=_to_number(data.get("done")) or 0.0,
                    total=_to_number(data.get("total")),
                    eta=_format_remaining(data.get("eta_s")),
                )
            case "stage":
                stage = str(data.get("name") or data.get("stage"))
                self._bar.update(self._task, description=stage)
                say(f"stage {stage}")
            case "status":
                say(f"status {data.get('status')}")
            case "checkpoint":
                say(
                    f"checkpoint {data.get('id')}: sparsity {_format_share(data.get('sparsity'))}, "
                    f"error {_format_share(data.get('error'))}"
                )
            case "member":
                say(
                    f"{data.get('role')} {data.get('job')} (depth {_format(data.get('depth'))}, "
                    f"width {_format(data.get('width'))}) {data.get('status')}"
                )
            case "warning":
                say(f"warning: {data.get('message')}")
            case "attempt":
                say(f"attempt {data.get('attempt')}: {data.get('reason')}")


def watch(client: Client, job_id: str, timeout_s: float | None) -> tuple[int, dict[str, Any]]:
    """Show the job until it ends; returns exit code and document. Ctrl-C and a timeout leave the
    job running.
    """
    try:
        with Display() as display:
            for event in client.jobs.events(job_id, timeout_s=timeout_s):
                display.show(event)
        job = client.jobs.get(job_id)
        results = None
        if job.status == "succeeded":
            results = client.jobs.results(job_id, fields=("recommendation", "gates"))
    except (KeyboardInterrupt, WaitTimeout) as error:
        outcome = "timed_out" if isinstance(error, WaitTimeout) else "interrupted"
        say(
            f"Stopped watching ({outcome.replace('_', ' ')}); job {job_id} goes on. "
            f"Watch it again: secateur jobs watch {job_id}"
        )
        return CANCELLED, {
            "job": {"id": job_id},
            "recommendation": None,
            "gates": [],
            "stopped": outcome,
        }
    if job.error is not None:
        complain(f"{job.error.code}: {job.error.message}")
    for gate in results.gates if results else ():
        say(gate_line(gate))
    sent = results.document() if results else {}
    document = {
        "job": job.document(),
        "recommendation": sent.get("recommendation"),
        "gates": sent.get("gates", []),
    }
    return job_code(job, results), document


def gate_line(gate: Gate | FamilyGate) -> str:
    """Return a gate in one line."""
    words = {"passed": "passed", "failed": "missed", "undecided": "undecided"}
    return f"gate {gate.name} {words[gate.outcome]}: {gate.message}"


def percent(value: float | None, *, sign: bool = False) -> str:
    """Return a fraction in percent."""
    return "" if value is None else f"{100 * value:{'+' if sign else ''}.2f} %"


def _format_share(value: Any) -> str:
    number = _to_number(value.get("value") if isinstance(value, dict) else value)
    return percent(number) or "unknown"


def _to_number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _format(value: Any) -> str:
    return "unknown" if _to_number(value) is None else f"{value:g}"


def _format_remaining(eta_s: Any) -> str:
    seconds = _to_number(eta_s)
    if seconds is None:
        return ""
    hours, rest = divmod(round(seconds), 3600)
    return f"about {hours}:{rest // 60:02}:{rest % 60:02} left"
