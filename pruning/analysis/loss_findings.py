"""What the loss-modelling paper found about the loss right after pruning, looked for in the
criteria of one job.

Source: Laurent et al., Revisiting loss modelling for unstructured pruning, 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from pruning import wording as q
from pruning.analysis.job_record import RoundRecord
from pruning.analysis.loss_changes import LossChange, compare_first_rounds
from pruning.criteria import criteria
from pruning.evidence.criterion import PredictsLossChange
from pruning.schemas.recipe import Method
from pruning.schemas.report import Estimate

LOCALITY = {"pi": "more stages (pi) lower", "lambda_": "a larger lambda lowers"}
"""Parameters that keep a local model of the loss near where it was made."""


def read_settings(method: Method) -> dict[str, Any]:
    """Every parameter of a criterion, defaults written in."""
    return dict(vars(criteria.create(method.name, method.params)))


def predicts_loss(method: Method) -> bool:
    """Whether the criterion predicts what removing weights does to the loss."""
    return isinstance(criteria.create(method.name, method.params), PredictsLossChange)


ANSWERS = {
    "seen": "yes",
    "the opposite": "no, the opposite",
    "no evidence": "no evidence either way",
    "both": "yes at some targets or settings, the opposite at others",
}


@dataclass(frozen=True)
class Pair:
    """Two criteria at one target: loss after pruning of the first less that of the second, on the
    same training images.
    """

    first: RoundRecord
    second: RoundRecord
    change: LossChange

    @property
    def verdict(self) -> str:
        """`seen` where the first loses less beyond noise, `the opposite` where it loses more, else
        `no evidence`.
        """
        found = self.change.estimate
        if found is None:
            return "off the scale"
        if found.low is None or found.high is None or found.low <= 0 <= found.high:
            return "no evidence"
        return "seen" if found.high < 0 else "the opposite"

    def row(self) -> dict[str, Any]:
        """The line of a table."""
        return {
            "target_sparsity": self.first.target,
            "first": self.first.label,
            "second": self.second.label,
            "loss_difference_first_less_second_nats": self.change.document(),
            "finding": self.verdict,
        }


@dataclass(frozen=True)
class Finding:
    """One statement, the pairs that speak to it, and the outcome in a sentence."""

    statement: str
    pairs: tuple[Pair, ...]

    @property
    def outcome(self) -> str:
        """A key of `ANSWERS`."""
        verdicts = [pair.verdict for pair in self.pairs]
        seen, opposite = "seen" in verdicts, "the opposite" in verdicts
        if seen and opposite:
            return "both"
        return "seen" if seen else "the opposite" if opposite else "no evidence"

    def count(self, verdict: str) -> int:
        """How many pairs have this verdict."""
        return sum(pair.verdict == verdict for pair in self.pairs)

    def sentence(self) -> str:
        """The outcome with how often, and the pair that shows it most."""
        verdicts = [pair.verdict for pair in self.pairs]
        text = (
            f"Paper's finding: {self.statement}. Seen here: {ANSWERS[self.outcome]}. Of "
            f"{q.count_of(len(self.pairs), 'comparison')}, {verdicts.count('seen')} for and "
            f"{verdicts.count('the opposite')} against it beyond noise"
        )
        if "off the scale" in verdicts:
            text += f", {verdicts.count('off the scale')} off the scale (a loss overflows)"
        wanted = {"no evidence": None, "the opposite": "the opposite"}.get(self.outcome, "seen")
        shown = [
            (pair, pair.change.estimate)
            for pair in self.pairs
            if pair.change.estimate is not None and wanted in (None, pair.verdict)
        ]
        if shown:
            pair, found = max(shown, key=lambda one: abs(one[1].value))
            text += (
                f"; largest difference: {pair.first.label} less {pair.second.label} at "
                f"{q.short_percent(pair.first.target or 0.0)}, {format_nats(found)}"
            )
        return text + "."


def format_nats(found: Estimate) -> str:
    """A difference of losses with its unit."""
    return (
        q.by_name("loss difference (nats)", found).replace(" [", " nats [", 1)
        if found.low is not None
        else q.by_name("loss difference (nats)", found) + " nats"
    )


def compare_locality(targets: Sequence[RoundRecord]) -> list[Finding]:
    """Of each loss model, more stages against fewer and a larger lambda against a smaller one, all
    else equal.
    """
    found: dict[tuple[str, str], list[Pair]] = {}
    for one, other in _at_equal_targets(targets):
        if one.criterion.name != other.criterion.name or not predicts_loss(one.criterion):
            continue
        a, b = read_settings(one.criterion), read_settings(other.criterion)
        apart = [name for name in a if a[name] != b[name]]
        if len(apart) == 1 and apart[0] in LOCALITY:
            more, less = (one, other) if a[apart[0]] > b[apart[0]] else (other, one)
            _add(found, (one.criterion.name, apart[0]), more, less)
    return [
        Finding(f"{name}: {LOCALITY[parameter]} the loss after pruning", tuple(pairs))
        for (name, parameter), pairs in found.items()
    ]


def compare_with_magnitude(targets: Sequence[RoundRecord]) -> list[Finding]:
    """Each loss model against magnitude pruning."""
    found: dict[tuple[str, str], list[Pair]] = {}
    for one, other in _at_equal_targets(targets, both_ways=True):
        if predicts_loss(one.criterion) and other.criterion.name == "magnitude":
            _add(found, (one.label, other.label), one, other)
    return [
        Finding(f"{label} preserves the loss better than {magnitude}", tuple(pairs))
        for (label, magnitude), pairs in found.items()
    ]


def compare_gradient(targets: Sequence[RoundRecord]) -> list[Finding]:
    """QM, which keeps the gradient, against OBD, which drops it, at the same parameters."""
    found: dict[tuple[str, str], list[Pair]] = {}
    for one, other in _at_equal_targets(targets, both_ways=True):
        if (one.criterion.name, other.criterion.name) == ("qm", "obd") and _equal(
            read_settings(one.criterion), read_settings(other.criterion)
        ):
            _add(found, ("qm", "obd"), one, other)
    return [
        Finding(
            "dropping the gradient forfeits the gain (QM leaves a lower loss after pruning than "
            "OBD)",
            tuple(pairs),
        )
        for pairs in found.values()
    ]


FINDINGS: Mapping[str, Callable[[Sequence[RoundRecord]], list[Finding]]] = {
    "locality": compare_locality,
    "against_magnitude": compare_with_magnitude,
    "gradient": compare_gradient,
}
CAUTION = (
    "Each of these comparisons stands at 95 % by itself: of twenty without a difference, one "
    "is seen by chance."
)


def describe_findings(name: str, found: Sequence[Finding]) -> list[str]:
    """The findings in words; those against magnitude, one for every criterion, in one line."""
    if name != "against_magnitude":
        return [finding.sentence() for finding in found]
    lines: dict[str, list[str]] = {}
    for finding in found:
        pair = finding.pairs[0]
        lines.setdefault(pair.second.label, []).append(
            f"with {pair.first.label} lower at {finding.count('seen')} and higher at "
            f"{finding.count('the opposite')} of "
            f"{q.count_of(len(finding.pairs), 'target')}"
        )
    return [
        f"Paper's finding: models of the loss preserve it better than {magnitude}. Seen here: "
        "the loss right after "
        f"pruning, against {magnitude}'s and beyond noise, is {'; '.join(counts)}."
        for magnitude, counts in lines.items()
    ]


def _at_equal_targets(
    targets: Sequence[RoundRecord], both_ways: bool = False
) -> Iterator[tuple[RoundRecord, RoundRecord]]:
    for one, other in combinations(targets, 2):
        if one.target == other.target and one.label != other.label:
            yield one, other
            if both_ways:
                yield other, one


def _add(
    found: dict[tuple[str, str], list[Pair]],
    key: tuple[str, str],
    first: RoundRecord,
    second: RoundRecord,
) -> None:
    change = compare_first_rounds(first, second)
    if change is not None:
        found.setdefault(key, []).append(Pair(first, second, change))


def _equal(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return all(a[name] == b[name] for name in a.keys() & b.keys())
