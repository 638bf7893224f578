"""A report as JUnit XML: gates fail, evaluations err, and a CI system stops on either."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from pruning.reporting import quantities as q
from pruning.schemas.report import Report

_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(report: Report) -> str:
    """Return one `testsuite`: a case per gate, one per failed evaluation, and one that the job came to its end."""
    suite = ET.Element("testsuite", name=_clean(f"secateur {report.job_id}"))
    properties = ET.SubElement(suite, "properties")
    for name, value in {
        "job_id": report.job_id,
        "architecture": report.model.architecture,
        "dataset": report.data.name,
        "recipe_digest": report.recipe_digest,
        "recommended_checkpoint": report.recommendation.checkpoint or "",
        "partial": str(report.partial).lower(),
    }.items():
        ET.SubElement(properties, "property", name=name, value=_clean(value))
    for gate in report.gates:
        case = ET.SubElement(
            suite, "testcase", classname="secateur.gates", name=f"{gate.name} <= {q.plain(gate.limit)}", time="0"
        )
        measured = "not measured" if gate.measured is None else q.points(gate.measured, 2)
        text = "\n".join(
            (
                gate.message,
                f"measured: {measured}",
                f"limit: {q.pp(gate.limit)}",
                f"checkpoint: {gate.checkpoint or 'none'}",
            )
        )
        if gate.passed:
            ET.SubElement(case, "system-out").text = _clean(text)
        else:
            ET.SubElement(case, "failure", type=gate.name, message=_clean(gate.message)).text = _clean(text)
    for failure in report.failures:
        case = ET.SubElement(suite, "testcase", classname="secateur.evaluations", name=_clean(failure.name), time="0")
        ET.SubElement(case, "error", type=_clean(failure.code), message=_clean(failure.message)).text = _clean(
            failure.message
        )
    case = ET.SubElement(suite, "testcase", classname="secateur.job", name="complete", time="0")
    if report.partial:
        message = f"the job ended before all its targets; {len(report.checkpoints)} checkpoints are whole"
        ET.SubElement(case, "error", type="partial", message=message).text = message
    suite.set("tests", str(len(suite.findall("testcase"))))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("errors", str(len(suite.findall("testcase/error"))))
    suite.set("skipped", "0")
    suite.set("time", f"{sum(report.usage.values()):.3f}")
    ET.indent(suite)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(suite, encoding="unicode") + "\n"


def _clean(text: str) -> str:
    """The text with what XML 1.0 forbids replaced."""
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)
