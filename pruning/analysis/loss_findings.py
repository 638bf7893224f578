"""The findings of the loss-modelling paper on the loss right after pruning, tested on the criteria
of one job.

Source: Laurent et al., Revisiting loss modelling for unstructured pruning, 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from torch import Tensor

from pruning import wording
from pruning.analysis.job_record import RoundRecord
from pruning.analysis.loss_changes import LossChange, compare_draws, compare_first_rounds
from pruning.criteria import criteria
from pruning.evidence.criterion import PredictsLossChange
from pruning.schemas.recipe import Method
from pruning.schemas.report import Estimate

LOCALITY = {"pi": "more stages (pi) lower", "lambda_": "a larger lambda lowers"}
"""Parameters that keep a local model of the loss near where it was made."""


def read_settings(method: Method) -> dict[str, Any]:
    """Every parameter of a criterion, defaults included."""
    return dict(vars(criteria.create(method.name, method.params)))


def takes_part(method: Method) -> bool:
    """Whether the findings compare a criterion: a loss model, or magnitude pruning."""
    return method.name == "magnitude" or predicts_loss(method)


def predicts_loss(method: Method) -> bool:
    """Whether the criterion predicts how removing weights changes the loss."""
    return isinstance(criteria.create(method.name, method.params), PredictsLossChange)


ANSWERS = {
    "seen": "yes",
    "the opposite": "no, the opposite",
    "no evidence": "no evidence either way",
    "both": "yes at some targets or settings, the opposite at others",
    "not tested": "not tested",
}
ALPHA = 0.05
"""The chance that any of the comparisons of a job is called a difference where there is none."""
Repeat = Callable[[RoundRecord], Tensor | None]
"""The losses right after the pruning of a round under several draws of what is random in it, shape
(draws, n); None where they are not known.
"""


@dataclass(frozen=True)
class Pair:
    """Two criteria at one target: the loss after pruning of the first less that of the second, on
    the same training images.
    """

    first: RoundRecord
    second: RoundRecord
    losses: tuple[Tensor, Tensor] | None
    """The losses of both under the same number of draws, (draws, n) each; None where not known."""
    comparisons: int = 1
    """The number of pairs of the job, for which the test allows."""

    @property
    def change(self) -> LossChange:
        """The difference with its 95 % interval over draws and images; over the images of the job's
        own draw alone where others are not known.
        """
        if self.losses is None:
            return compare_first_rounds(self.first, self.second)
        return compare_draws(*self.losses)

    @property
    def verdict(self) -> str:
        """`seen` where the first loses less beyond noise, `the opposite` where it loses more,
        `off the scale` where a loss overflows, `not tested` where draws were not repeated, else `no
        evidence`. All pairs of a job hold together at 95 % (Bonferroni).
        """
        if self.change.estimate is None:
            return "off the scale"
        if self.losses is None:
            return "not tested"
        estimate = compare_draws(*self.losses, 1 - ALPHA / self.comparisons).estimate
        if estimate is None or estimate.low is None or estimate.high is None:
            return "no evidence"
        if estimate.low <= 0 <= estimate.high:
            return "no evidence"
        return "seen" if estimate.high < 0 else "the opposite"

    def row(self) -> dict[str, Any]:
        """The pair as a row of a table."""
        return {
            "target_sparsity": self.first.target,
            "first": self.first.label,
            "second": self.second.label,
            "loss_difference_first_less_second": self.change.document(),
            "finding": self.verdict,
        }


@dataclass(frozen=True)
class Finding:
    """A finding of the paper, the pairs of criteria that test it, and the outcome."""

    statement: str
    pairs: tuple[Pair, ...]

    @property
    def outcome(self) -> str:
        """A key of `ANSWERS`."""
        verdicts = [pair.verdict for pair in self.pairs]
        if "seen" in verdicts and "the opposite" in verdicts:
            return "both"
        for verdict in ("seen", "the opposite"):
            if verdict in verdicts:
                return verdict
        return "not tested" if set(verdicts) == {"not tested"} else "no evidence"

    def among(self, comparisons: int) -> Finding:
        """The finding with tests that allow for this number of pairs."""
        pairs = tuple(replace(pair, comparisons=comparisons) for pair in self.pairs)
        return replace(self, pairs=pairs)

    def count(self, verdict: str) -> int:
        """The number of pairs with this verdict."""
        return sum(pair.verdict == verdict for pair in self.pairs)

    def sentence(self) -> str:
        """The outcome in a sentence, with the counts and the pair that shows it most."""
        text = (
            f"Paper's finding: {self.statement}. Seen here: {ANSWERS[self.outcome]}. Of "
            f"{wording.count_of(len(self.pairs), 'comparison')}, {self.count('seen')} for and "
            f"{self.count('the opposite')} against it beyond noise"
        )
        off_scale = self.count("off the scale")
        if off_scale:
            text += f", {off_scale} off the scale (a loss overflows)"
        untested = self.count("not tested")
        if untested:
            text += f", {untested} not tested"
        return f"{text}{self._describe_largest()}."

    def _describe_largest(self) -> str:
        """The largest difference among the pairs that show the outcome; empty without one."""
        estimates = [
            (pair, pair.change.estimate)
            for pair in self.pairs
            if pair.change.estimate is not None and self._shows_outcome(pair)
        ]
        if not estimates:
            return ""
        pair, estimate = max(estimates, key=lambda of_pair: abs(of_pair[1].value))
        return (
            f"; largest difference: {pair.first.label} less {pair.second.label} at "
            f"{wording.short_percent(pair.first.target or 0.0)}, {format_nats(estimate)}"
        )

    def _shows_outcome(self, pair: Pair) -> bool:
        """Whether a pair has the verdict of the outcome: any verdict where there is no evidence or
        no test, and `seen` where there are both.
        """
        if self.outcome in ("no evidence", "not tested"):
            return True
        return pair.verdict == ("seen" if self.outcome == "both" else self.outcome)


def format_nats(estimate: Estimate) -> str:
    """A difference of losses with its unit."""
    text = wording.nats(estimate, plus=True)
    if estimate.low is None:
        return f"{text} nats"
    return text.replace(" [", " nats [", 1)  # the unit stands before the interval


def compare_locality(targets: Sequence[RoundRecord], repeat: Repeat) -> list[Finding]:
    """More stages against fewer, and a larger lambda against a smaller one, by loss model and all
    else equal.
    """
    pairs: dict[tuple[str, str], list[Pair]] = {}
    for first, second in _pair_at_equal_targets(targets):
        name = first.criterion.name
        if second.criterion.name != name or not predicts_loss(first.criterion):
            continue
        settings, others = read_settings(first.criterion), read_settings(second.criterion)
        different = [
            parameter for parameter in settings if settings[parameter] != others[parameter]
        ]
        if len(different) != 1 or different[0] not in LOCALITY:
            continue
        (parameter,) = different
        if settings[parameter] > others[parameter]:
            _add_pair(pairs, (name, parameter), first, second, repeat)
        else:
            _add_pair(pairs, (name, parameter), second, first, repeat)
    return [
        Finding(f"{name}: {LOCALITY[parameter]} the loss after pruning", tuple(of_parameter))
        for (name, parameter), of_parameter in pairs.items()
    ]


def compare_with_magnitude(targets: Sequence[RoundRecord], repeat: Repeat) -> list[Finding]:
    """Each loss model against magnitude pruning."""
    pairs: dict[tuple[str, str], list[Pair]] = {}
    for first, second in _pair_at_equal_targets(targets, both_ways=True):
        if predicts_loss(first.criterion) and second.criterion.name == "magnitude":
            _add_pair(pairs, (first.label, second.label), first, second, repeat)
    return [
        Finding(f"{label} preserves the loss better than {magnitude}", tuple(of_labels))
        for (label, magnitude), of_labels in pairs.items()
    ]


def compare_gradient(targets: Sequence[RoundRecord], repeat: Repeat) -> list[Finding]:
    """QM, which keeps the gradient, against OBD, which drops it, at the same parameters."""
    pairs: dict[tuple[str, str], list[Pair]] = {}
    for first, second in _pair_at_equal_targets(targets, both_ways=True):
        if (first.criterion.name, second.criterion.name) != ("qm", "obd"):
            continue
        if _agree(read_settings(first.criterion), read_settings(second.criterion)):
            _add_pair(pairs, ("qm", "obd"), first, second, repeat)
    statement = (
        "dropping the gradient forfeits the gain (QM leaves a lower loss after pruning than OBD)"
    )
    return [Finding(statement, tuple(of_models)) for of_models in pairs.values()]


FINDINGS: Mapping[str, Callable[[Sequence[RoundRecord], Repeat], list[Finding]]] = {
    "locality": compare_locality,
    "against_magnitude": compare_with_magnitude,
    "gradient": compare_gradient,
}
"""The comparisons of each finding, by the name of its table in the report."""


def find_all(targets: Sequence[RoundRecord], repeat: Repeat) -> dict[str, list[Finding]]:
    """The findings of every table, whose tests allow for the number of pairs in all of them."""
    tables = {name: find(targets, repeat) for name, find in FINDINGS.items()}
    comparisons = sum(len(finding.pairs) for table in tables.values() for finding in table)
    return {
        name: [finding.among(comparisons) for finding in table] for name, table in tables.items()
    }


def describe_tests(tables: Mapping[str, Sequence[Finding]], draws: int) -> list[str]:
    """The notes on what the comparisons are tested over, and on why some are not tested."""
    pairs = [pair for table in tables.values() for finding in table for pair in finding.pairs]
    if not pairs:
        return []
    notes = []
    tested = sum(pair.losses is not None for pair in pairs)
    if tested:
        notes.append(
            f"These comparisons are tested over images and over {draws} draws of calibration "
            "images and random choices, with which the dense network was pruned again without "
            "retraining. They hold together at 95 %: each is tested at "
            f"{100 * ALPHA / len(pairs):.3g} %, which allows for {len(pairs)}. The intervals shown "
            "are at 95 % each."
        )
    if tested < len(pairs):
        notes.append(
            f"Not tested: {wording.count_of(len(pairs) - tested, 'comparison')} of rounds whose "
            "draws were not repeated, as they go on from a round before (independent targets do "
            "not), prune before training, or were to be drawn once (`draws`). What one draw or one "
            "training makes of two equal settings is often apart beyond the noise of images."
        )
    return notes


def describe_findings(name: str, findings: Sequence[Finding]) -> list[str]:
    """The findings in words; those against magnitude, one for every criterion, in one line."""
    if name != "against_magnitude":
        return [finding.sentence() for finding in findings]
    counts_by_magnitude: dict[str, list[str]] = {}
    for finding in findings:
        pair = finding.pairs[0]
        tested = len(finding.pairs) - finding.count("not tested")
        counts = (
            f"with {pair.first.label} lower at {finding.count('seen')} and higher at "
            f"{finding.count('the opposite')} of {wording.count_of(tested, 'target')} tested"
        )
        if not tested:
            counts = f"with {pair.first.label} not tested"
        counts_by_magnitude.setdefault(pair.second.label, []).append(counts)
    return [
        f"Paper's finding: models of the loss preserve it better than {magnitude}. Seen here: "
        f"the loss right after pruning, against {magnitude}'s and beyond noise, is "
        f"{'; '.join(counts)}."
        for magnitude, counts in counts_by_magnitude.items()
    ]


def _pair_at_equal_targets(
    targets: Sequence[RoundRecord], both_ways: bool = False
) -> Iterator[tuple[RoundRecord, RoundRecord]]:
    """Every two criteria at the same target, in the order of the targets or in both orders."""
    for first, second in combinations(targets, 2):
        if first.target == second.target and first.label != second.label:
            yield first, second
            if both_ways:
                yield second, first


def _add_pair(
    pairs: dict[tuple[str, str], list[Pair]],
    key: tuple[str, str],
    first: RoundRecord,
    second: RoundRecord,
    repeat: Repeat,
) -> None:
    of_first, of_second = repeat(first), repeat(second)
    losses = None if of_first is None or of_second is None else (of_first, of_second)
    pairs.setdefault(key, []).append(Pair(first, second, losses))


def _agree(settings: Mapping[str, Any], others: Mapping[str, Any]) -> bool:
    """Whether two criteria agree in all parameters that both have."""
    return all(settings[name] == others[name] for name in settings.keys() & others.keys())
