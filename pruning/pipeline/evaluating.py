"""The evaluations of a job, run one after the other; each is saved, and one that fails leaves the
rest whole.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import Any

from pruning.analysis.applicability import applies_to, check_task
from pruning.analysis.job_record import JobRecord
from pruning.errors import SecateurError
from pruning.evaluations import evaluations
from pruning.pipeline.evaluation_traits import list_evaluations, list_pixel_evaluations
from pruning.pipeline.pipeline import Pipeline
from pruning.pipeline.second_network import train_second_network
from pruning.schemas.recipe import Method
from pruning.schemas.report import Failure, Section
from pruning.schemas.targets import NOUNS, Targets
from pruning.storage.tensor_cache import TensorCache

logger = logging.getLogger(__name__)


def run_evaluations(
    pipeline: Pipeline, cache: TensorCache | None
) -> tuple[dict[str, Section], list[Failure]]:
    """A section of every evaluation of the job, or a failure."""
    sections: dict[str, Section] = {}
    failures: list[Failure] = []
    record = _record_job(pipeline, sections, cache)
    methods = list_evaluations(
        pipeline.recipe,
        segmentation=pipeline.data.segmentation,
        has_shifted_sets=bool(pipeline.data.shifted),
    )
    # Evaluations that read the sections of others come last.
    for method in sorted(methods, key=_reads_sections):
        pipeline.watcher.stage("evaluate", method.name)
        stage = f"evaluation-{method.name}"
        stored = _load_section(pipeline, method)
        if stored is not None:
            with pipeline.ledger.share(pipeline.evaluations.get(method.name, 0)):
                sections[method.name] = stored
            continue
        begin = time.monotonic()
        with pipeline.ledger.share(pipeline.evaluations.get(method.name, 0)):
            try:
                section = _evaluate(method, record)
            except Exception as error:  # an evaluation must not cost the user the checkpoints
                logger.exception("evaluation %s failed", method.name)
                failures.append(_describe_failure(method, error))
                section = None
        if section is None:
            continue
        sections[method.name] = section
        pipeline.stages.save(stage, {}, {"section": section.model_dump(mode="json")})
        pipeline.ledger.seconds[stage] = time.monotonic() - begin
    listed = [method.name for method in methods if method.name in sections]
    return {name: sections[name] for name in listed}, failures


def _load_section(pipeline: Pipeline, method: Method) -> Section | None:
    """The section of an evaluation that is finished; None where another version of it was."""
    stored = pipeline.stages.open(f"evaluation-{method.name}")
    if stored is None:
        return None
    section = Section.model_validate(stored.note["section"])
    if section.version != evaluations.get(method.name).version:
        return None
    return section


def _record_job(
    pipeline: Pipeline, sections: dict[str, Section], cache: TensorCache | None
) -> JobRecord:
    """The record of a job for its evaluations; `sections` fills up while they run."""
    return JobRecord(
        data=pipeline.data,
        dense=pipeline.dense,
        given_measured=pipeline.given_measured,
        controls=pipeline.controls,
        rounds=pipeline.done,
        recipe=pipeline.recipe,
        sections=sections,
        separate=partial(train_second_network, pipeline),
        cache=cache,
        advance=pipeline.ledger.advance,
    )


def _evaluate(method: Method, record: JobRecord) -> Section | None:
    """The section of an evaluation; None where it was not named and does not apply."""
    evaluation = evaluations.create(method.name, method.params)
    if not record.recipe.names_evaluations and not applies_to(evaluation, record):
        return None
    check_task(
        evaluation,
        method.name,
        segmentation=record.data.segmentation,
        alternatives=list_pixel_evaluations(),
    )
    return _tell_budgets(evaluation.evaluate(record), record.recipe.targets)


def _tell_budgets(section: Section, targets: Targets) -> Section:
    """The section of a job with budgets: its targets are shares that go, and no sparsities."""
    if not targets.are_budgets:
        return section
    details = _rename_targets(section.details)
    if details == section.details:
        return section
    noun = NOUNS[targets.quantity]
    note = f"Targets are told as the shares of the dense network's {noun} that are to go."
    units = _rename_targets(section.units)
    return section.model_copy(
        update={"details": details, "units": units, "notes": (note, *section.notes)}
    )


def _rename_targets(value: Any) -> Any:
    """The value with the key `target_removed` for `target_sparsity`, everywhere in it."""
    if isinstance(value, dict):
        return {
            "target_removed" if key == "target_sparsity" else key: _rename_targets(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_rename_targets(item) for item in value]
    return value


def _describe_failure(method: Method, error: Exception) -> Failure:
    code = error.code if isinstance(error, SecateurError) else "evaluation_failed"
    return Failure(name=method.name, code=code, message=f"{type(error).__name__}: {error}")


def _reads_sections(method: Method) -> bool:
    """Whether an evaluation reads the sections of others."""
    if method.name not in evaluations.names():
        return False
    return bool(getattr(evaluations.get(method.name), "reads", ()))
