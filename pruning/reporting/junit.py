"""A report as JUnit XML: gates and answers fail, evaluations and members err, and a CI system stops
on either.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.etree import ElementTree as ET

from pruning import wording
from pruning.reporting import family
from pruning.schemas.family_report import FamilyReport
from pruning.schemas.report import Report

_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(report: Report) -> str:
    """Return one `testsuite`: a case per gate, one per failed evaluation, and one that the job came
    to its end.
    """
    suite = _suite(
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
        case = _case(suite, "gates", f"{gate.name} <= {wording.number(gate.limit)}")
        measured = (
            "not measured"
            if gate.measured is None
            else wording.points_with_interval(gate.measured, 2)
        )
        text = "\n".join(
            (
                gate.message,
                f"measured: {measured}",
                f"limit: {wording.percentage_points(gate.limit)}",
                f"checkpoint: {gate.checkpoint or 'none'}",
            )
        )
        if gate.passed:
            ET.SubElement(case, "system-out").text = _clean(text)
        else:
            _told(case, "failure", gate.name, gate.message, text)
    for failure in report.failures:
        _told(_case(suite, "evaluations", failure.name), "error", failure.code, failure.message)
    case = _case(suite, "job", "complete")
    if report.partial:
        _told(
            case,
            "error",
            "partial",
            f"the job ended before all its targets; {len(report.checkpoints)} checkpoints are "
            "whole",
        )
    return _written(suite, sum(report.usage.values()))


def render_family(report: FamilyReport) -> str:
    """Return one `testsuite`: a case per answer, one per member or law that failed, and one that
    all members have ended.

    An answer fails where the test images prove more than the tolerated error, or the law names no
    network.
    """
    suite = _suite(
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
        case = _case(suite, "answers", f"error <= {wording.number(row.answer.max_error)}")
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
            _told(case, "failure", row.outcome, row.answer.refused or row.verdict, text)
        elif row.outcome in ("open", "failed"):
            ET.SubElement(case, "skipped", message=_clean(row.verdict)).text = _clean(text)
        else:
            ET.SubElement(case, "system-out").text = _clean(text)
    for failure in report.failures:
        room = "members" if failure.code.startswith("member_") else "laws"
        _told(_case(suite, room, failure.name), "error", failure.code, failure.message)
    case = _case(suite, "job", "complete")
    if report.partial:
        _told(
            case,
            "error",
            "partial",
            f"{family.count_measured(report)} of {wording.count_of(len(report.members), 'member')} "
            "measured, "
            "and not all has ended",
        )
    return _written(suite, 0.0)


def _suite(job: str, properties: Mapping[str, str]) -> ET.Element:
    suite = ET.Element("testsuite", name=_clean(f"secateur {job}"))
    found = ET.SubElement(suite, "properties")
    for name, value in {"job_id": job, **properties}.items():
        ET.SubElement(found, "property", name=name, value=_clean(value))
    return suite


def _case(suite: ET.Element, room: str, name: str) -> ET.Element:
    return ET.SubElement(
        suite, "testcase", classname=f"secateur.{room}", name=_clean(name), time="0"
    )


def _told(case: ET.Element, kind: str, code: str, message: str, text: str | None = None) -> None:
    """A failure or an error of a case; without `text` its message is the text."""
    found = ET.SubElement(case, kind, type=_clean(code), message=_clean(message))
    found.text = _clean(message if text is None else text)


def _written(suite: ET.Element, seconds: float) -> str:
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
    """The text with what XML 1.0 forbids replaced."""
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)
