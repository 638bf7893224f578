"""The rows of the section `class_damage`: a checkpoint beside its dense control, on the test images
of a class or of a group.
"""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from pruning.schemas.base import Document
from pruning.schemas.report import Estimate, Section
from pruning.schemas.verdicts import CrossedVariance

SECTION = "class_damage"
"""The name of the section."""
LABELS = {
    "n": "test images",
    "only_pruned": "wrong in the checkpoint alone",
    "only_control": "wrong in the control alone",
    "error_pruned": "error of the checkpoint",
    "error_control": "error of the control",
    "adjusted_p_value": "adjusted p-value of an increase",
    "adjusted_p_value_above_others": "adjusted p-value of an increase above the others'",
    "detectable_increase": "increase found in four of five jobs",
    "modal_answer": "most frequent answer",
}
"""The words of the names of columns."""
Finding = Literal["loses more than the others", "loses", "gains", "not distinguished"]


class Damage(Document):
    """The errors of a checkpoint and of its dense control on the same test images."""

    model_config = ConfigDict(populate_by_name=True)

    checkpoint: str
    n: int
    """Test images."""
    only_pruned: int
    """Images that only the checkpoint gets wrong."""
    only_control: int
    """Images that only the control gets wrong."""
    error_pruned: Estimate
    """Error of the checkpoint, with the exact binomial interval of this row alone."""
    error_control: Estimate
    increase: Estimate
    """Error of the checkpoint less that of the control; the intervals of all rows hold together."""
    adjusted_p_value: float
    """McNemar's exact test, adjusted over all tests of the section (Holm)."""
    adjusted_p_value_above_others: float
    """The test against the other classes or groups, adjusted alike."""
    detectable_increase: float | None
    """The increase that McNemar's test finds with 80 % here; `null` where it finds none."""
    finding: Finding
    """The outcome of both tests at 95 %."""
    variance: CrossedVariance | None = None
    """The variance of the increase over replicates and images, in the report of replicates: there
    the counts are sums over replicates, and the tests are of the mean.
    """


class ClassDamage(Damage):
    """The images of a class."""

    class_name: str = Field(alias="class")


class GroupDamage(Damage):
    """The images of a group, which is a value of a column of the dataset."""

    column: str
    group: str


def read_class_damage(section: Section) -> tuple[ClassDamage, ...]:
    """Return the rows of the section by checkpoint and class."""
    return tuple(ClassDamage.model_validate(row) for row in section.details.get("classes", ()))


def read_group_damage(section: Section) -> tuple[GroupDamage, ...]:
    """Return the rows of the section by checkpoint, column and group."""
    return tuple(GroupDamage.model_validate(row) for row in section.details.get("groups", ()))
