"""The section on the answers of a family: the fewest parameters at each tolerated error."""

from __future__ import annotations

from typing import Any

from pruning import wording
from pruning.family.turn import State
from pruning.laws.answers import Answers
from pruning.schemas.family_report import FamilyAnswer, MeasuredNetwork
from pruning.schemas.report import Section


def build_answers_section(state: State) -> Section:
    """Build the section: a sentence and a row for each answer, and the rows of all candidates."""
    notes, candidates = [], []
    for row, law_answer in zip(state.answers, state.law_answers, strict=True):
        if isinstance(law_answer, str):
            sentence = f"Error of at most {wording.percent(row.max_error, 2)}: {row.refused}."
        else:
            sentence = _describe_answer(state, row)
            candidates += _list_candidates(row.max_error, law_answer)
        notes.append(sentence + _mention_smallest_run(state, row))
    notes += [f"{remark}." for remark in state.remarks]
    moved = "" if state.law is None else f"; {state.law.seed_effect.describe()}"
    notes.append(
        "Which network, pruned how far, has the fewest parameters at an error of at most k: m* = "
        "p sqrt((r^2 - s^2) / (s^2 - 1)), s = (k / e0)^(1/gamma), density = m* / (depth^phi "
        "width^psi), for every candidate. Bands "
        f"({wording.short_percent(state.spec.confidence)}) are of one more run, trained under "
        f"another seed{moved}."
    )
    rows = [_describe_row(row) for row in state.answers]
    return Section(
        title="The fewest parameters at a tolerated error",
        version=1,
        notes=tuple(notes),
        details={"answers": rows, "candidates": candidates},
        units={"max_error": "fraction", "unpruned_error": "fraction", "density": "share"},
    )


def _describe_row(row: FamilyAnswer) -> dict[str, Any]:
    return {
        "max_error": row.max_error,
        "depth": row.depth,
        "width": row.width,
        "density": row.density,
        "rounds": row.rounds,
        "parameters": row.parameters,
        "error_predicted": None if row.predicted is None else row.predicted.model_dump(),
        "error_measured": None if row.measured is None else row.measured.model_dump(),
        "within_band": row.within_band,
        "outcome": row.outcome,
        "job": row.job,
        "remark": "; ".join((*row.notes, row.refused)).strip("; "),
    }


def _list_candidates(max_error: float, law_answer: Answers) -> list[dict[str, Any]]:
    """The candidates with their densities in the order of the law, then those without."""
    rows: list[dict[str, Any]] = []
    for order, answer in enumerate((law_answer.best, *law_answer.others), start=1):
        row = {
            "max_error": max_error,
            "order": order,
            "depth": answer.candidate.depth,
            "width": answer.candidate.width,
            "unpruned_error": answer.candidate.unpruned_error,
            "unpruned_parameters": answer.candidate.parameters,
            "density": answer.density,
            "parameters_that_remain": round(answer.parameters),
            "rounds": answer.rounds,
            "error_predicted": answer.error.model_dump(),
            "extrapolated": answer.extrapolated,
        }
        rows.append(row)
    for candidate, refusal in law_answer.refused:
        row = {
            "max_error": max_error,
            "order": None,
            "depth": candidate.depth,
            "width": candidate.width,
            "unpruned_error": candidate.unpruned_error,
            "unpruned_parameters": candidate.parameters,
            "remark": refusal,
        }
        rows.append(row)
    return rows


def _mention_smallest_run(state: State, row: FamilyAnswer) -> str:
    """A sentence on the smallest network proven to err so little; empty where it is the answer."""
    smallest = row.smallest_run
    if smallest is None:
        return ""
    if (smallest.job, smallest.parameters) == (row.job, row.measured_parameters):
        return ""
    return f" {describe_smallest_run(smallest, state.spec.method)}"


def describe_smallest_run(network: MeasuredNetwork, method: str) -> str:
    """The measured network with the fewest parameters, as a sentence."""
    images = ""
    if network.fraction < 1:
        images = f" on {wording.short_percent(network.fraction)} of the images"
    source = f"It is a checkpoint of job {network.job}."
    if method != "synflow":  # a job of several rounds keeps the checkpoint of its last one alone
        source = (
            f"The spec of job {network.job}, with {network.sparsity} as target, makes it again."
        )
    return (
        "Of all networks that were run, the smallest whose error is proven to be at most the "
        f"tolerated one, at 95 %: depth {network.depth:g} and width {network.width:g}{images}, "
        f"seed {network.seed}, at a density of {network.density:.3g}, with "
        f"{wording.count_of(network.parameters, 'parameter')} and a measured test error of "
        f"{wording.percent(network.error, 2)}. {source}"
    )


def _describe_answer(state: State, row: Any) -> str:
    """The network of an answer with its predicted and its measured error, as a sentence."""
    text = (
        f"Error of at most {wording.percent(row.max_error, 2)}: depth {row.depth:g} and width "
        f"{row.width:g}, pruned to a density of {row.density:.3g}, "
        f"{wording.count(round(row.parameters))} of {wording.count(row.unpruned_parameters)} "
        f"parameters; predicted error {wording.percent_with_interval(row.predicted, 2)}"
    )
    if row.measured is not None:
        measured = wording.percent_with_interval(row.measured, 2)
        inside = ""
        if row.within_band is not None:
            inside = f", {'inside' if row.within_band else 'outside'} the band"
        return f"{text}; trained for real {measured}{inside}."
    if row.status is not None:
        return f"{text}; its training for real: {row.status}."
    if row.density == 1.0:
        return f"{text}; this is the network without pruning, which is not trained again."
    if state.spec.confirm:
        return f"{text}; not trained for real yet."
    return f"{text}; not trained for real, as the job asks."
