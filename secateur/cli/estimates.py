"""The estimate of a job that would be accepted, as `--validate-only` prints it."""

from __future__ import annotations

from collections.abc import Iterator

from pruning import wording
from secateur.cli.console import print_table, say, tell
from secateur.cli.results import interval
from secateur.forecasts import JobEstimate, Validation, WallTime


def print_validation(validation: Validation) -> None:
    """Print what a job costs, what is foreseen of its targets, and warnings."""
    estimate = validation.estimate or JobEstimate()
    work = wording.operations(estimate.flops or 0)
    tell(
        f"would be accepted: {wording.count_of(estimate.rounds or 0, 'round')}, "
        f"{wording.count(estimate.steps or 0)} steps of training, {work}, "
        f"{wording.file_size(estimate.memory_bytes or 0)} of memory"
    )
    for time in estimate.wall_times:
        tell(_describe_time(time))
    rows = list(_list_parts(estimate))
    if rows:
        print_table(("part", "share", "time"), rows)
    if validation.foreseen:
        tell("foreseen by the laws of earlier jobs")
        print_table(
            ("criterion", "sparsity", "error", "remark"),
            [
                (
                    row.criterion,
                    row.sparsity,
                    interval(row.error.model_dump() if row.error else None),
                    row.remark,
                )
                for row in validation.foreseen
            ],
        )
    for warning in estimate.warnings:
        say(f"warning: {warning}")


def _describe_time(time: WallTime) -> str:
    """The seconds that the job should take on a kind of machine, and from which jobs that is."""
    network = "this network" if time.same_network else "other networks, in proportion to FLOPs"
    text = f"about {wording.duration(time.p50_s)} on {time.device} ({time.device_name})"
    if time.p90_s is not None:
        text += f", nine in ten jobs like it within {wording.duration(time.p90_s)}"
    return f"{text}: from {wording.count_of(time.jobs, 'job')} of {network}"


def _list_parts(estimate: JobEstimate) -> Iterator[tuple[str, str, str]]:
    """The parts of the job, then those of its evaluations, largest first; those without work are
    left out.
    """
    total = estimate.units or 0.0
    seconds = estimate.wall_times[0].p50_s if estimate.wall_times else None
    for prefix, parts in (("", estimate.parts), ("evaluation ", estimate.evaluations)):
        for name, units in sorted(parts.items(), key=lambda part: -part[1]):
            if units <= 0 or total <= 0:
                continue
            share = units / total
            time = "" if seconds is None else wording.duration(share * seconds)
            yield prefix + name, f"{share:.1%}", time
