"""The sections of the report of replicates."""

from __future__ import annotations

from collections.abc import Sequence

from pruning.replicates.classes_section import build_classes_section
from pruning.replicates.finished import Finished
from pruning.replicates.law_section import build_law_section
from pruning.replicates.runs_section import build_runs_section
from pruning.replicates.shift_sections import build_potential_section, build_robustness_section
from pruning.schemas.recipe import Recipe
from pruning.schemas.report import Checkpoint, Section
from pruning.verdict.recommendation import find_margin

CERTIFICATE = "certificate"


def build_sections(
    recipe: Recipe, finished: Sequence[Finished], checkpoints: Sequence[Checkpoint]
) -> dict[str, Section]:
    """Build the sections of what the replicates have in common, their own first; a note says which
    evaluations are in their reports alone.
    """
    margin = find_margin(recipe.gates)
    pooled = {
        "class_damage": build_classes_section(finished, checkpoints, margin),
        "robustness": build_robustness_section(finished),
        "prune_potential": build_potential_section(finished),
        "scaling_law": build_law_section(recipe, finished, checkpoints),
        CERTIFICATE: _build_certificate_section(finished, checkpoints),
    }
    sections = {name: section for name, section in pooled.items() if section is not None}
    others = {
        name: section.title
        for replicate in finished
        for name, section in replicate.report.sections.items()
        if name not in sections
    }
    runs = build_runs_section(finished, checkpoints)
    if others:
        titles = "; ".join(others.values())
        note = f"Not pooled, see the reports of the replicates: {titles}."
        runs = runs.model_copy(update={"notes": (*runs.notes, note)})
    return {"replicates": runs, **sections}


def _build_certificate_section(
    finished: Sequence[Finished], checkpoints: Sequence[Checkpoint]
) -> Section | None:
    """The section on certified accuracies: of each checkpoint the least that a replicate certifies;
    None where not all replicates have one.
    """
    tables = [
        {row["checkpoint"]: row for row in replicate.report.sections[CERTIFICATE].details["limits"]}
        for replicate in finished
        if CERTIFICATE in replicate.report.sections
    ]
    if len(tables) < len(finished):
        return None
    shared = [row.id for row in checkpoints if all(row.id in table for table in tables)]
    rows = [
        {
            "checkpoint": id,
            "error": sum(table[id]["error"] for table in tables) / len(tables),
            "accuracy_at_least_labelled": min(
                table[id]["accuracy_at_least_labelled"] for table in tables
            ),
        }
        for id in shared
    ]
    return Section(
        title="Certificates",
        version=1,
        details={"limits": rows},
        units={"error": "fraction", "accuracy_at_least_labelled": "fraction"},
        notes=(
            "The least accuracy that a replicate certifies, at the confidence of the evaluation "
            "for its own network, beside the mean error.",
        ),
    )
