"""Gates as every rendering shows them: their limit, what was measured, how many passed."""

from __future__ import annotations

from pruning import wording
from pruning.schemas.report import Estimate, GateResult, Report
from pruning.verdict.gate_readings import count_latency_digits, format_apart, format_exactly


def count_gates(report: Report) -> str:
    """Return how many gates passed, failed and are undecided."""
    if not report.gates:
        return "none set"
    counts = {"passed": 0, "failed": 0, "undecided": 0}
    for gate in report.gates:
        counts[gate.outcome] += 1
    return ", ".join(f"{number} {outcome}" for outcome, number in counts.items() if number)


def describe_limit(gate: GateResult) -> str:
    """Return a gate with its limit: `max_error_increase ≤ 0.50 pp`."""
    sign = "≥" if gate.name.startswith("min_") else "≤"
    return f"{name_gate(gate)} {sign} {format_exactly(gate.name, gate.limit)}"


def name_gate(gate: GateResult) -> str:
    """Return the name of a gate with what it is about: `min_prune_potential (fog 3)`."""
    return f"{gate.name} ({gate.subject})" if gate.subject else gate.name


def describe_measured(gate: GateResult) -> str:
    """Return what was measured for a gate, with its limits at the confidence of the gate."""
    if gate.measured is None:
        return "not measured" if gate.checkpoint else "not evaluated"
    value = gate.measured
    if gate.value is not None and gate.unit == "points":
        value = Estimate(value=gate.value, low=gate.low, high=gate.high)
    if gate.unit == "points":
        return wording.points_with_interval(value, wording.choose_digits_apart(value, gate.limit))
    if gate.unit == "factor":
        return wording.factor_with_interval(value, count_latency_digits(value, gate.limit))
    return format_apart(gate.name, value.value, gate.limit)[0]
