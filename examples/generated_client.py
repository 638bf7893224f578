"""Read a job's results with a client that a tool generated from `docs/openapi.json`.

    pip install openapi-python-client
    openapi-python-client generate --path docs/openapi.json --meta none --output-path secateur_api
    SECATEUR_API_KEY=... PYTHONPATH=. python examples/generated_client.py http://127.0.0.1:8000 JOB

Generated clients always send a key. `secateur` itself has a client; this shows that the service
needs none of ours. A slow test generates the client, type-checks this script with `mypy --strict`
and runs it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from secateur_api import AuthenticatedClient
from secateur_api.api.results import get_results
from secateur_api.models import (
    Curve,
    FamilyGate,
    FamilyRecommendation,
    FamilyReport,
    GateResult,
    Recommendation,
    Report,
    Results,
)


def describe_recommendation(advice: Recommendation | FamilyRecommendation) -> str:
    """Return the verdict, the checkpoint and the reason."""
    job = f" of {advice.job}" if isinstance(advice, FamilyRecommendation) else ""
    return f"{advice.verdict}: {advice.checkpoint}{job}. {advice.reason}"


def describe_gate(gate: GateResult | FamilyGate) -> str:
    """Return a gate with its outcome, what was measured and the limit."""
    return f"gate {gate.name}: {gate.outcome}, {gate.value} against {gate.limit}"


def list_curves(report: Report | FamilyReport) -> Iterator[tuple[str, Curve]]:
    """Yield the curves of all sections with their names."""
    for section_name, section in report.sections.additional_properties.items():
        if section.curves:
            for curve_name, curve in section.curves.additional_properties.items():
                yield f"{section_name}: {curve_name}", curve


def describe_curve(name: str, curve: Curve) -> str:
    """Return the points of a curve, each with its interval."""
    points = zip(curve.x, curve.y, strict=True)
    texts = [f"{x:g} -> {y.value:.4g} [{y.low}, {y.high}]" for x, y in points]
    return f"{name} ({curve.x_label}, {curve.y_label}): {'; '.join(texts)}"


def list_lines(results: Results) -> Iterator[str]:
    """Yield the recommendation, the joint statement, the gates and the curves, each as a line."""
    if results.recommendation is not None:
        yield describe_recommendation(results.recommendation)
    if results.joint:
        yield results.joint.sentence
    for gate in results.gates:
        yield describe_gate(gate)
    for name, curve in list_curves(results.report) if results.report is not None else ():
        yield describe_curve(name, curve)


def main() -> None:
    """Print the results of the job that the command line names."""
    address, job = sys.argv[1:]
    client = AuthenticatedClient(base_url=address, token=os.environ["SECATEUR_API_KEY"])
    results = get_results.sync(job, client=client)
    if not isinstance(results, Results):
        sys.exit(f"{results.status} {results.detail}" if results else "no answer")
    for line in list_lines(results):
        print(line)


if __name__ == "__main__":
    main()
