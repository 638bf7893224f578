"""What bounds of a method predict, and how far they are from what is measured. Definitions are
derived here.

Source of the questions: Gordon, When are approximation bounds useful?, ICLR 2021 submission.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pruning.analysis.bound_study import Outcome
from pruning.bounds.forms import CERTIFIED

WITH = " with "


@dataclass(frozen=True)
class Spread:
    """A quantity over inputs (and logits): its median and 95th percentile."""

    median: float
    p95: float

    @staticmethod
    def of(values: Tensor) -> Spread | None:
        """Of the values that are numbers, infinite ones too; None where there are none."""
        ordered = values[~torch.isnan(values)].double().sort().values
        return Spread(_quantile(ordered, 0.5), _quantile(ordered, 0.95)) if len(ordered) else None

    @property
    def log10(self) -> float | None:
        """Of the median; None where that is 0 or infinite."""
        return math.log10(self.median) if 0 < self.median < math.inf else None

    def document(self) -> dict[str, float | None]:
        """As JSON has it, None for what is infinite."""
        return {
            "median": _finite(self.median),
            "p95": _finite(self.p95),
            "log10_median": self.log10,
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One form of the bound at one sparsity, over all trials and inputs."""

    form: str
    requested: float
    sparsity: float
    predicted: float
    """Fraction of the inputs that the bound says are right: the logit of the label less its bound
    exceeds all others'.
    """
    optimistic: float
    """Fraction that it does not rule out."""
    measured: float
    """Fraction that are right, the mean over trials."""
    bound: Spread | None
    """Of |z' - z| of a logit."""
    tightness: Spread | None
    """Bound over measured error of a logit; errors of 0 left out."""
    layers: dict[str, Spread | None]
    """Tightness of the largest error over a layer's outputs, by weight."""
    broken: int
    """Trials in which anything was further off than the bound says."""
    trials: int
    chance: float
    """1 / classes."""
    draws_factor: float | None
    """How many times the draws the median input would need; None where nothing is drawn."""

    @property
    def certified(self) -> bool:
        """Whether it holds with the probability it claims, whatever weights and inputs are."""
        return self.form in CERTIFIED

    @property
    def vacuous(self) -> bool:
        """Whether it predicts no more than chance."""
        return self.predicted <= self.chance

    def document(self) -> dict[str, Any]:
        """As JSON has it, without layers."""
        return {
            "form": self.form,
            "sparsity": self.sparsity,
            "requested_sparsity": self.requested,
            "certified": self.certified,
            "predicted_accuracy": self.predicted,
            "optimistic_accuracy": self.optimistic,
            "measured_accuracy": self.measured,
            "vacuous": self.vacuous,
            "logit_bound": self.bound.document() if self.bound else None,
            "tightness": self.tightness.document() if self.tightness else None,
            "trials_with_violation": self.broken,
            "trials": self.trials,
            "draws_needed_factor": self.draws_factor,
        }


@dataclass(frozen=True)
class Component:
    """What one factor costs a form at one sparsity."""

    form: str
    factor: str
    requested: float
    log10: float
    """Of the ratio of the median logit bound to that with the factor as it is at the inputs;
    infinite where the factor alone makes the bound infinite.
    """

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "form": self.form,
            "factor": self.factor,
            "sparsity": self.requested,
            "log10_of_its_cost": _finite(self.log10),
            "alone_makes_it_infinite": self.log10 == math.inf,
        }


@dataclass(frozen=True, kw_only=True)
class BoundReport:
    """A method's bounds over sparsity."""

    predictions: tuple[Prediction, ...]
    components: tuple[Component, ...]
    error: dict[float, Spread | None]
    """By requested sparsity, the measured |z' - z| of a logit."""
    assumption: float | None
    """Fraction of layers' outputs at which the paper's assumption held; None for methods without.
    """
    delta: float
    images: int
    dense_accuracy: float

    def form(self, name: str) -> list[Prediction]:
        """Its predictions by sparsity."""
        return sorted(
            (one for one in self.predictions if one.form == name), key=lambda one: one.requested
        )

    @property
    def forms(self) -> list[str]:
        """Those there are."""
        return list(dict.fromkeys(one.form for one in self.predictions))

    def vacuous_from(self, form: str) -> Prediction | None:
        """The sparsest prediction below which one is not vacuous is followed by it; None where the
        last one is not.
        """
        found = None
        for one in reversed(self.form(form)):
            if not one.vacuous:
                break
            found = one
        return found

    def responsible(self, form: str, requested: float) -> Component | None:
        """The factor that costs most there."""
        mine = [one for one in self.components if (one.form, one.requested) == (form, requested)]
        return max(mine, key=lambda one: one.log10, default=None)


def summarise_outcomes(
    outcomes: Sequence[Outcome], dense: Tensor, labels: Tensor, delta: float
) -> BoundReport:
    """The report of one method's outcomes; `dense` are the logits of the dense network (N, k),
    `labels` (N,).
    """
    labels = labels.cpu()
    predictions, components, errors = [], [], {}
    for requested in dict.fromkeys(one.pruned.requested for one in outcomes):
        group = [one for one in outcomes if one.pruned.requested == requested]
        errors[requested] = Spread.of(torch.cat([one["error"].flatten() for one in group]))
        forms = [form for form in group[0].forms if WITH not in form]
        predictions += [_prediction(form, group, dense, labels) for form in forms]
        first = group[0]
        for name in first.forms:
            form, _, factor = name.partition(WITH)
            bound, other = Spread.of(first[form]), Spread.of(first[name])
            if factor and bound and other and bound.median > 0 and 0 < other.median < math.inf:
                components.append(
                    Component(form, factor, requested, _log10(bound.median / other.median))
                )
    held = [share for one in outcomes for share in one.assumption]
    right = (dense.argmax(1) == labels).double().mean()
    return BoundReport(
        predictions=tuple(predictions),
        components=tuple(components),
        error=errors,
        assumption=sum(held) / len(held) if held else None,
        delta=delta,
        images=len(labels),
        dense_accuracy=float(right),
    )


def _log10(value: float) -> float:
    return math.log10(value) if value < math.inf else math.inf


def _prediction(form: str, group: Sequence[Outcome], dense: Tensor, labels: Tensor) -> Prediction:
    own = torch.nn.functional.one_hot(labels, dense.shape[1]).bool()
    predicted, optimistic, measured, bounds, ratios, factors = [], [], [], [], [], []
    layers: dict[str, list[Tensor]] = {}
    for one in group:
        bound, error = one[form], one["error"]
        low, high = dense - bound, dense + bound
        predicted.append((low[own] > high.masked_fill(own, -math.inf).amax(1)).double().mean())
        optimistic.append((high[own] >= low.masked_fill(own, -math.inf).amax(1)).double().mean())
        measured.append((torch.cat(one.answers).argmax(1) == labels).double().mean())
        bounds.append(bound.flatten())
        ratios.append((bound / error).flatten()[error.flatten() > 0])
        margin = dense[own] - dense.masked_fill(own, -math.inf).amax(1)
        factors.append(((2 * bound.amax(1) / margin).square())[margin > 0])
        for name, kept in one.layers.items() if form in next(iter(one.layers.values())) else ():
            most, true = torch.cat(kept[form]), torch.cat(kept["error"])
            layers.setdefault(name, []).append((most / true)[true > 0])
    drawn = any(bool((law.draws > 0).any()) for one in group for law in one.pruned.laws.values())
    needed = Spread.of(torch.cat(factors))
    return Prediction(
        form=form,
        requested=group[0].pruned.requested,
        sparsity=sum(one.pruned.sparsity for one in group) / len(group),
        predicted=_mean(predicted),
        optimistic=_mean(optimistic),
        measured=_mean(measured),
        bound=Spread.of(torch.cat(bounds)),
        tightness=Spread.of(torch.cat(ratios)),
        layers={name: Spread.of(torch.cat(values)) for name, values in layers.items()},
        broken=sum(bool(torch.cat(one.above[form]).any()) for one in group),
        trials=len(group),
        chance=1 / dense.shape[1],
        draws_factor=_finite(needed.median) if needed and drawn else None,
    )


def _quantile(ordered: Tensor, part: float) -> float:
    """By linear interpolation, of any number of values; infinite where a neighbour is."""
    place = part * (len(ordered) - 1)
    low, high = float(ordered[math.floor(place)]), float(ordered[math.ceil(place)])
    return low if low == high else low + (high - low) * (place - math.floor(place))


def _mean(values: Sequence[Tensor]) -> float:
    return float(torch.stack(list(values)).mean())
