"""A report as JUnit XML: a missed gate or answer is a failure, a broken evaluation or member an
error, and a CI system stops on either.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.etree import ElementTree as ET

from pruning import wording
from pruning.reporting import family, summary
from pruning.reporting.gates import describe_limit, describe_measured
from pruning.schemas.family_report import FamilyReport
from pruning.schemas.report import Report

UNDECIDED = "undecided"
"""The type of a skipped case that the images do not decide."""
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(report: Report) -> str:
    """Return one `testsuite`: a case for each gate, one for each failed evaluation, and one that
    fails where the job did not come to its end.

    A gate that is undecided is `skipped` with the type `undecided`. Where no checkpoint is
    recommended that gates could be held against, one case more says so: it fails where nothing is
    to be shipped, and is undecided else.
    """
    suite = _create_suite(
        report.job_id,
        {
            "architecture": report.model.architecture,
            "dataset": report.data.name,
            "recipe_digest": report.recipe_digest,
            "recommended_checkpoint": report.recommendation.checkpoint or "",
            "partial": str(report.partial).lower(),
        },
    )
    for gate in report.gates:
        case = _add_case(suite, "gates", describe_limit(gate))
        text = "\n".join(
            (
                gate.message,
                f"measured: {describe_measured(gate)}",
                f"checkpoint: {gate.checkpoint or 'none'}",
            )
        )
        if gate.outcome == "passed":
            ET.SubElement(case, "system-out").text = _clean(text)
        elif gate.outcome == "failed":
            _add_outcome(case, "failure", code=gate.name, message=gate.message, text=text)
        else:
            _add_outcome(case, "skipped", code=UNDECIDED, message=gate.message, text=text)
    if report.gates and report.recommendation.checkpoint is None:
        case = _add_case(suite, "gates", "a checkpoint is recommended")
        verdict, reason = summary.read_verdict(report), report.recommendation.reason
        kind = "skipped" if verdict == UNDECIDED else "failure"
        _add_outcome(case, kind, code=verdict, message=reason)
    for failure in report.failures:
        case = _add_case(suite, "evaluations", failure.name)
        _add_outcome(case, "error", code=failure.code, message=failure.message)
    case = _add_case(suite, "job", "complete")
    if report.partial:
        message = (
            f"the job ended before all its targets; {len(report.checkpoints)} checkpoints are whole"
        )
        _add_outcome(case, "error", code="partial", message=message)
    return _format_xml(suite, sum(report.usage.values()))


def render_family(report: FamilyReport) -> str:
    """Return one `testsuite`: a case for each answer, one for each member or law that failed, and
    one that fails where not all members have ended.

    An answer fails where it measured above the tolerated error, or the law names no network. It is
    skipped, with the type `undecided`, where the test images do not prove its error.
    """
    suite = _create_suite(
        report.job_id,
        {
            "architecture": report.architecture,
            "dataset": report.data,
            "recommended_job": report.recommendation.job or "",
            "recommended_checkpoint": report.recommendation.checkpoint or "",
            "partial": str(report.partial).lower(),
        },
    )
    for row in family.list_answers(report):
        case = _add_case(suite, "answers", f"error <= {wording.number(row.answer.max_error)}")
        text = "\n".join(
            (
                f"{row.verdict}, {row.band}" if row.band != "–" else row.verdict,
                *row.remarks,
                f"network: {row.network}",
                f"parameters: {row.kept}",
                f"predicted: {row.predicted}",
                f"measured: {row.measured}",
                f"job: {row.answer.job or 'none'}",
            )
        )
        if row.outcome in ("exceeded", "refused"):
            message = row.answer.refused or row.verdict
            _add_outcome(case, "failure", code=row.outcome, message=message, text=text)
        elif row.outcome == "not proven":
            skipped = ET.SubElement(case, "skipped", type="undecided", message=_clean(row.verdict))
            skipped.text = _clean(text)
        elif row.outcome in ("open", "failed"):
            ET.SubElement(case, "skipped", message=_clean(row.verdict)).text = _clean(text)
        else:
            ET.SubElement(case, "system-out").text = _clean(text)
    for failure in report.failures:
        group = "members" if failure.code.startswith("member_") else "laws"
        case = _add_case(suite, group, failure.name)
        _add_outcome(case, "error", code=failure.code, message=failure.message)
    case = _add_case(suite, "job", "complete")
    if report.partial:
        members = wording.count_of(len(report.members), "member")
        message = f"{family.count_measured(report)} of {members} measured, and not all have ended"
        _add_outcome(case, "error", code="partial", message=message)
    return _format_xml(suite, 0.0)


def _create_suite(job: str, properties: Mapping[str, str]) -> ET.Element:
    suite = ET.Element("testsuite", name=_clean(f"secateur {job}"))
    listed = ET.SubElement(suite, "properties")
    for name, value in {"job_id": job, **properties}.items():
        ET.SubElement(listed, "property", name=name, value=_clean(value))
    return suite


def _add_case(suite: ET.Element, group: str, name: str) -> ET.Element:
    return ET.SubElement(
        suite, "testcase", classname=f"secateur.{group}", name=_clean(name), time="0"
    )


def _add_outcome(
    case: ET.Element, kind: str, *, code: str, message: str, text: str | None = None
) -> None:
    """Add a failure, an error or a skip to a case; without `text` its message is the text."""
    outcome = ET.SubElement(case, kind, type=_clean(code), message=_clean(message))
    outcome.text = _clean(message if text is None else text)


def _format_xml(suite: ET.Element, seconds: float) -> str:
    """Return the suite as a document, its cases counted."""
    suite.set("tests", str(len(suite.findall("testcase"))))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("errors", str(len(suite.findall("testcase/error"))))
    suite.set("skipped", str(len(suite.findall("testcase/skipped"))))
    suite.set("time", f"{seconds:.3f}")
    ET.indent(suite)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(suite, encoding="unicode") + "\n"
    )


def _clean(text: str) -> str:
    """Return the text with the characters that XML 1.0 forbids replaced."""
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)
