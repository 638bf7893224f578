"""The report of a job with replicates: complete, or partial while some of them run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pruning import wording
from pruning.replicates.finished import FEWEST, Finished
from pruning.replicates.networks import (
    GIVEN,
    pool_checkpoint,
    pool_controls,
    pool_given,
    pool_increase,
    pool_round,
)
from pruning.replicates.plan import Run
from pruning.replicates.sections import build_sections
from pruning.schemas.job import JobSpec
from pruning.schemas.replicates import ReplicateRow
from pruning.schemas.report import (
    Checkpoint,
    Failure,
    Network,
    Recommendation,
    Report,
    Round,
)
from pruning.verdict.decision import decide
from pruning.verdict.gates import check_gates
from pruning.verdict.joint import state_jointly
from pruning.verdict.recommendation import References, recommend
from pruning.verdict.shift_guidelines import apply_guideline


def build_report(
    job_id: str,
    document: Mapping[str, Any],
    runs: Sequence[Run],
    finished: Sequence[Finished],
) -> Report:
    """Build the report of at least two replicates that have succeeded; `document` is the job as
    submitted, `runs` all its replicates.
    """
    spec = JobSpec.model_validate(document)
    recipe = spec.recipe()
    first = finished[0].report
    checkpoints = tuple(
        pool_checkpoint(id, owners) for id, owners in _list_owners(finished).items()
    )
    given, controls = pool_given(finished), pool_controls(finished)
    sections = build_sections(recipe, finished, checkpoints)
    partial = not all(run.ended for run in runs) or len(runs) < spec.replicates
    over_given, _ = pool_increase(
        finished, [controls[-1].name] * len(finished), [GIVEN] * len(finished)
    )
    references = References(given=given, control=controls[-1], control_over_given=over_given)
    recommendation = apply_guideline(
        recommend(checkpoints, recipe.gates, references),
        checkpoints,
        recipe.shifts,
        sections.get("prune_potential"),
    )
    gates = check_gates(checkpoints, recommendation, recipe.gates, sections)
    recommendation = decide(
        recommendation, checkpoints, gates, recipe.gates.confidence, partial=partial
    )
    warnings = list(_list_warnings(finished))
    if references.retraining_harms:
        warnings.append(references.warning())
    return Report(
        job_id=job_id,
        spec=dict(document),
        recipe_digest=recipe.digest(),
        model=first.model,
        data=first.data,
        environment=first.environment,
        baseline=given,
        control=Network(**{name: getattr(controls[0], name) for name in Network.model_fields}),
        controls=controls,
        checkpoints=checkpoints,
        rounds=tuple(_pool_rounds(finished)),
        sections=sections,
        recommendation=_name_network(recommendation, finished),
        gates=gates,
        joint=state_jointly(checkpoints, recommendation, recipe.gates, sections),
        failures=tuple(_list_failures(runs, finished)),
        warnings=tuple(warnings),
        partial=partial,
        replicates=tuple(
            ReplicateRow(job=run.job, seed=run.member.seed, status=run.status, remark=run.error)
            for run in runs
        ),
    )


def _list_owners(finished: Sequence[Finished]) -> dict[str, list[Finished]]:
    """The replicates that have each checkpoint, for those that enough of them have."""
    ids = dict.fromkeys(id for replicate in finished for id in replicate.checkpoints)
    owners = {
        id: [replicate for replicate in finished if id in replicate.checkpoints] for id in ids
    }
    return {id: own for id, own in owners.items() if len(own) >= FEWEST}


def _pool_rounds(finished: Sequence[Finished]) -> list[Round]:
    """The rounds that enough replicates have, by criterion and number."""
    rounds: dict[str, list[Round]] = {}
    for replicate in finished:
        for row in replicate.report.rounds:
            rounds.setdefault(f"{row.criterion.model_dump_json()} {row.round}", []).append(row)
    return [pool_round(rows) for rows in rounds.values() if len(rows) >= FEWEST]


def _name_network(recommendation: Recommendation, finished: Sequence[Finished]) -> Recommendation:
    """The recommendation with the replicate whose network of the recommended checkpoint has the
    smallest validation error.
    """
    id = recommendation.checkpoint
    owners = [replicate for replicate in finished if id in replicate.checkpoints]
    if id is None or not owners:
        return recommendation

    def read_val_error(replicate: Finished) -> float:
        checkpoint: Checkpoint = replicate.checkpoints[id]
        return checkpoint.val_error.value

    best = min(owners, key=read_val_error)
    reason = (
        f"{recommendation.reason} All of this is of the mean over "
        f"{wording.count_of(len(owners), 'replicate')}; of their networks that of seed {best.seed} "
        f"(job {best.run.job}) has the smallest validation error."
    )
    return recommendation.model_copy(update={"reason": reason, "job": best.run.job})


def _list_warnings(finished: Sequence[Finished]) -> Iterator[str]:
    """Yield the warnings of the replicates, each once; one that not all have names the seeds."""
    seeds_by_text: dict[str, list[int]] = {}
    for replicate in finished:
        for text in dict.fromkeys(replicate.report.warnings):
            seeds_by_text.setdefault(text, []).append(replicate.seed)
    for text, seeds in seeds_by_text.items():
        if len(seeds) == len(finished):
            yield text
        else:
            noun = "seed" if len(seeds) == 1 else "seeds"
            yield f"{noun} {', '.join(map(str, seeds))}: {text}"


def _list_failures(runs: Sequence[Run], finished: Sequence[Finished]) -> list[Failure]:
    """The replicates that ended without success, and what failed in those that succeeded."""
    failures = [
        Failure(
            name=run.member.key,
            code=f"replicate_{run.status}",
            message=run.error or f"job {run.job} was {run.status}",
        )
        for run in runs
        if run.ended and run.status != "succeeded"
    ]
    for replicate in finished:
        failures += [
            failure.model_copy(update={"message": f"seed {replicate.seed}: {failure.message}"})
            for failure in replicate.report.failures
        ]
    return failures
