"""The sections of a family's report."""

from __future__ import annotations

from pruning.family.answers_section import build_answers_section
from pruning.family.invariant_section import build_invariant_section
from pruning.family.law_section import build_law_section
from pruning.family.turn import State
from pruning.family.unpruned_section import build_unpruned_section
from pruning.schemas.report import Section


def build_sections(state: State) -> dict[str, Section]:
    """Build the sections that the points so far allow."""
    sections = {}
    if state.law is not None and state.points is not None:
        sections["scaling_law"] = build_law_section(state, state.law, state.points)
        sections["invariant"] = build_invariant_section(state.law, state.points)
        sections["answers"] = build_answers_section(state)
    if state.dense is not None or state.dense_refusal:
        sections["unpruned_errors"] = build_unpruned_section(state)
    return sections
