"""The predictions of a method's bounds, and how far they are from what is measured.

The definitions are derived here.

Source of the questions: Gordon, When are approximation bounds useful?, ICLR 2021 submission.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pruning.analysis.bound_study import Outcome
from pruning.bounds.forms import CERTIFIED
from pruning.measurement.crossed import crossed_mean
from pruning.measurement.guessing import guessing_error
from pruning.measurement.objective import choose_answers
from pruning.schemas.report import Estimate

WITH = " with "
"""Stands between a form and the factor that is replaced in it."""


@dataclass(frozen=True)
class Spread:
    """A quantity over inputs (and logits): its median and 95th percentile."""

    median: float
    p95: float

    @staticmethod
    def from_values(values: Tensor) -> Spread | None:
        """The spread of the values that are numbers, infinite ones included; None without any."""
        ordered = values[~torch.isnan(values)].double().sort().values
        if len(ordered) == 0:
            return None
        return Spread(_interpolate_quantile(ordered, 0.5), _interpolate_quantile(ordered, 0.95))

    @property
    def log10(self) -> float | None:
        """The logarithm of the median; None where that is 0 or infinite."""
        return math.log10(self.median) if 0 < self.median < math.inf else None

    def document(self) -> dict[str, float | None]:
        """The spread as JSON, None for infinite numbers."""
        return {
            "median": _drop_infinite(self.median),
            "p95": _drop_infinite(self.p95),
            "log10_median": self.log10,
        }


def _drop_infinite(value: float) -> float | None:
    """The number itself; None for one that JSON cannot hold."""
    return value if math.isfinite(value) else None


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A form of the bound at one sparsity, over all trials and inputs."""

    form: str
    requested: float
    sparsity: float
    predicted: float
    """The fraction of the inputs that the bound says are right: the logit of the label less its
    bound exceeds every other logit plus its own.
    """
    optimistic: float
    """The fraction that the bound does not rule out."""
    measured: float
    """The fraction that are right, the mean over trials."""
    intervals: Mapping[str, Estimate]
    """These three, by `predicted`, `optimistic` and `measured`, with their 95 % intervals for other
    images and other trials.
    """
    bound: Spread | None
    """The bound of |z' - z| of a logit."""
    tightness: Spread | None
    """The bound over the measured error of a logit; errors of 0 are left out."""
    layers: dict[str, Spread | None]
    """The tightness of the largest error over a layer's outputs, by weight."""
    broken: int
    """The number of trials in which anything was further off than the bound says."""
    trials: int
    chance: float
    """The accuracy of guessing: that of the best constant answer on the images."""
    draws_factor: float | None
    """The factor by which the median input would need more draws; None where nothing is drawn."""

    @property
    def certified(self) -> bool:
        """Whether the form holds with the probability it claims, for all weights and inputs."""
        return self.form in CERTIFIED

    @property
    def vacuous(self) -> bool:
        """Whether the bound predicts no more than chance."""
        return self.predicted <= self.chance

    def document(self) -> dict[str, Any]:
        """The prediction as JSON, without its layers."""
        return {
            "form": self.form,
            "sparsity": self.sparsity,
            "requested_sparsity": self.requested,
            "certified": self.certified,
            "predicted_accuracy": self.predicted,
            **self._list_limits("predicted"),
            "optimistic_accuracy": self.optimistic,
            **self._list_limits("optimistic"),
            "measured_accuracy": self.measured,
            **self._list_limits("measured"),
            "vacuous": self.vacuous,
            "logit_bound": self.bound.document() if self.bound else None,
            "tightness": self.tightness.document() if self.tightness else None,
            "trials_with_violation": self.broken,
            "trials": self.trials,
            "draws_needed_factor": self.draws_factor,
        }

    def _list_limits(self, name: str) -> dict[str, float | None]:
        estimate = self.intervals[name]
        return {f"{name}_accuracy_low": estimate.low, f"{name}_accuracy_high": estimate.high}


@dataclass(frozen=True)
class Component:
    """The cost of one factor in a form at one sparsity."""

    form: str
    factor: str
    requested: float
    log10: float
    """log10 of the ratio of the median logit bound to that with the factor as it is at the inputs;
    infinite where the factor alone makes the bound infinite.
    """

    def document(self) -> dict[str, Any]:
        """The component as JSON."""
        return {
            "form": self.form,
            "factor": self.factor,
            "sparsity": self.requested,
            "log10_of_its_cost": _drop_infinite(self.log10),
            "alone_makes_it_infinite": self.log10 == math.inf,
        }


@dataclass(frozen=True, kw_only=True)
class BoundReport:
    """A method's bounds over sparsity."""

    predictions: tuple[Prediction, ...]
    components: tuple[Component, ...]
    error: dict[float, Spread | None]
    """The measured |z' - z| of a logit by requested sparsity."""
    assumption: float | None
    """The fraction of layers' outputs at which the paper's assumption held; None for a method
    without one.
    """
    delta: float
    images: int
    dense_accuracy: float

    def form(self, name: str) -> list[Prediction]:
        """The predictions of one form, by sparsity."""
        predictions = [prediction for prediction in self.predictions if prediction.form == name]
        return sorted(predictions, key=lambda prediction: prediction.requested)

    @property
    def forms(self) -> list[str]:
        """The names of the forms, in the order of the predictions."""
        return list(dict.fromkeys(prediction.form for prediction in self.predictions))

    def find_vacuous_start(self, form: str) -> Prediction | None:
        """The prediction from which on all sparser ones are vacuous; None where the last one is
        not.
        """
        start = None
        for prediction in reversed(self.form(form)):
            if not prediction.vacuous:
                break
            start = prediction
        return start

    def find_costliest(self, form: str, requested: float) -> Component | None:
        """The factor that costs a form most at one sparsity; None for a form without factors."""
        factors = self.list_factors(form, requested)
        return max(factors, key=lambda component: component.log10, default=None)

    def list_factors(self, form: str, requested: float) -> list[Component]:
        """The factors of a form that were replaced one at a time, at one sparsity."""
        return [
            component
            for component in self.components
            if component.form == form and component.requested == requested
        ]


def summarise_outcomes(
    outcomes: Sequence[Outcome], dense: Tensor, labels: Tensor, delta: float
) -> BoundReport:
    """The report of one method's outcomes; `dense` are the logits of the dense network (N, k),
    `labels` (N,).
    """
    labels = labels.to(dense.device)
    predictions: list[Prediction] = []
    components: list[Component] = []
    errors: dict[float, Spread | None] = {}
    for requested in dict.fromkeys(outcome.pruned.requested for outcome in outcomes):
        trials = [outcome for outcome in outcomes if outcome.pruned.requested == requested]
        measured = torch.cat([outcome["error"].flatten() for outcome in trials])
        errors[requested] = Spread.from_values(measured)
        forms = [form for form in trials[0].forms if WITH not in form]
        predictions += [_predict(form, trials, dense, labels) for form in forms]
        components += _compare_factors(trials[0])
    assumption_shares = [share for outcome in outcomes for share in outcome.assumption]
    assumption = None
    if assumption_shares:
        assumption = sum(assumption_shares) / len(assumption_shares)
    return BoundReport(
        predictions=tuple(predictions),
        components=tuple(components),
        error=errors,
        assumption=assumption,
        delta=delta,
        images=len(labels),
        dense_accuracy=float((choose_answers(dense) == labels).double().mean()),
    )


def _compare_factors(outcome: Outcome) -> list[Component]:
    """The cost of every factor that was replaced by what it is at the inputs, one at a time."""
    components = []
    for name in outcome.forms:
        form, _, factor = name.partition(WITH)
        if not factor:
            continue
        bound = Spread.from_values(outcome[form])
        replaced = Spread.from_values(outcome[name])
        if bound is None or replaced is None:
            continue
        if bound.median > 0 and 0 < replaced.median < math.inf:
            cost = _log10(bound.median / replaced.median)
            components.append(
                Component(form=form, factor=factor, requested=outcome.pruned.requested, log10=cost)
            )
    return components


def _log10(value: float) -> float:
    """log10, infinite for infinity."""
    return math.log10(value) if value < math.inf else math.inf


@dataclass(frozen=True, kw_only=True)
class _Trial:
    """A form of the bound in one trial, beside the measured errors.

    `predicted`, `optimistic` and `measured` tell of each input whether it counts in the fraction of
    that name in `Prediction`, float64 (N,).
    """

    predicted: Tensor
    optimistic: Tensor
    measured: Tensor
    bounds: Tensor
    """The bound of every logit at every input."""
    tightness: Tensor
    """Bound over error of the logits with an error."""
    draws_factors: Tensor
    """The factor by which each input that the dense network has right would need more draws."""
    layers: dict[str, Tensor]
    """Bound over error of a layer by weight, of the inputs with an error there."""
    broken: bool


def _compare_trial(form: str, outcome: Outcome, dense: Tensor, labels: Tensor) -> _Trial:
    """Compare a form of the bound with the measured errors in one trial."""
    bound, error = outcome[form], outcome["error"]
    low, high = dense - bound, dense + bound
    own = torch.nn.functional.one_hot(labels, dense.shape[1]).bool()  # the label's logit

    def others(logits: Tensor) -> Tensor:
        """The largest logit beside that of the label, (N,)."""
        return logits.masked_fill(own, -math.inf).amax(1)

    # An image is right for certain where twice the largest bound fits into the margin, and the
    # bound falls with the root of the draws.
    margin = dense[own] - others(dense)
    factors = (2 * bound.amax(1) / margin).square()
    layers = {}
    if form in next(iter(outcome.layers.values())):
        for name, by_form in outcome.layers.items():
            layer_error = torch.cat(by_form["error"])
            layers[name] = (torch.cat(by_form[form]) / layer_error)[layer_error > 0]
    return _Trial(
        predicted=(low[own] > others(high)).double(),
        optimistic=(high[own] >= others(low)).double(),
        measured=(choose_answers(torch.cat(outcome.answers)) == labels).double(),
        bounds=bound.flatten(),
        tightness=(bound / error).flatten()[error.flatten() > 0],
        draws_factors=factors[margin > 0],
        layers=layers,
        broken=bool(torch.cat(outcome.violations[form]).any()),
    )


def _predict(form: str, outcomes: Sequence[Outcome], dense: Tensor, labels: Tensor) -> Prediction:
    """Summarise a form of the bound over all trials at one sparsity."""
    trials = [_compare_trial(form, outcome, dense, labels) for outcome in outcomes]
    layers: dict[str, list[Tensor]] = {}
    for trial in trials:
        for name, tightness in trial.layers.items():
            layers.setdefault(name, []).append(tightness)
    laws = [law for outcome in outcomes for law in outcome.pruned.laws.values()]
    drawn = any(bool((law.draws > 0).any()) for law in laws)
    draws_factor = Spread.from_values(torch.cat([trial.draws_factors for trial in trials]))
    intervals = {
        "predicted": _average([trial.predicted for trial in trials]),
        "optimistic": _average([trial.optimistic for trial in trials]),
        "measured": _average([trial.measured for trial in trials]),
    }
    return Prediction(
        form=form,
        requested=outcomes[0].pruned.requested,
        sparsity=sum(outcome.pruned.sparsity for outcome in outcomes) / len(outcomes),
        predicted=intervals["predicted"].value,
        optimistic=intervals["optimistic"].value,
        measured=intervals["measured"].value,
        intervals=intervals,
        bound=Spread.from_values(torch.cat([trial.bounds for trial in trials])),
        tightness=Spread.from_values(torch.cat([trial.tightness for trial in trials])),
        layers={name: Spread.from_values(torch.cat(values)) for name, values in layers.items()},
        broken=sum(trial.broken for trial in trials),
        trials=len(trials),
        chance=1 - guessing_error(labels, dense.shape[1]),
        draws_factor=_drop_infinite(draws_factor.median) if draws_factor and drawn else None,
    )


def _interpolate_quantile(ordered: Tensor, share: float) -> float:
    """The quantile of any number of ordered values, by linear interpolation; infinite where a
    neighbour is.
    """
    place = share * (len(ordered) - 1)
    low, high = float(ordered[math.floor(place)]), float(ordered[math.ceil(place)])
    return low if low == high else low + (high - low) * (place - math.floor(place))


def _average(trials: Sequence[Tensor]) -> Estimate:
    """The mean over trials (N,) and inputs, with its interval for others of both."""
    by_trial = torch.stack(list(trials)).cpu()
    return crossed_mean(by_trial, torch.ones(by_trial.shape[1]), proportion=True)
