"""A job that searches for the sparsest network within limits on the error: it tries few of the
steps at which networks could be, each pruned from the dense network and retrained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pruning import wording
from pruning.analysis.job_record import Asked, RoundRecord, SearchFinding, find_control
from pruning.errors import BudgetError, ParameterError
from pruning.laws.density import fit_density_law
from pruning.laws.queries import REFUSALS
from pruning.measurement.guessing import guessing_error
from pruning.pipeline.pipeline import Pipeline
from pruning.pipeline.pruner import CriterionRound
from pruning.pipeline.stage_files import RoundStage
from pruning.rounds.error_search import STEPS, find_bracket, search, space_steps
from pruning.rounds.plan import PlannedRound, plan_rounds, split_stretches
from pruning.schemas.recipe import Method
from pruning.schemas.report import Failure


@dataclass(kw_only=True)
class Searching(Pipeline):
    """The stages of a job with limits on the error: of all rounds it runs those that its searches
    ask for. What a search tries next follows from what was tried, so that a resumed job goes the
    same way.
    """

    def run(self) -> None:
        """Run every stage up to the last network that is tried."""
        super().run()
        self.ledger.reach(self.costs.total)

    def _run_rounds(self, index: int, criterion: Method, label: str) -> None:
        """Search with one criterion, the recipe's at `index`, and finish the networks it finds."""
        stretches = split_stretches(plan_rounds(self.recipe, self.costs.given))
        increases: dict[int, float] = {}
        limits = self.recipe.targets.values
        for step in search(limits, increases, lambda: self._forecast(label)):
            increases[step] = self._try(index, criterion, label, stretches[step - 1])
        others = [row for row in self.done if row.label != label]
        own = sorted((row for row in self.done if row.label == label), key=lambda row: row.round)
        self.done[:] = [*others, *own]
        self._finish_targets(label, increases, [stretch[-1] for stretch in stretches])

    def _try(
        self, index: int, criterion: Method, label: str, stretch: Sequence[PlannedRound]
    ) -> float:
        """Prune and retrain to a step, and measure the validation error above that of the control;
        infinite where the network cannot be pruned so far.
        """
        before: RoundStage | None = None
        for planned in stretch:
            current = CriterionRound.of(self.costs, index, criterion, label, planned)
            try:
                before = self._finish_round(current, before)
            except BudgetError as error:
                self.ledger.warn(
                    f"{error.message}; the search goes on with denser networks than "
                    f"{wording.short_percent(stretch[-1].sparsity)} sparsity"
                )
                return math.inf
            record = replace(
                self._record_round(current, before), target=None, is_tried=planned is stretch[-1]
            )
            self.done.append(record)
        return self._measure_increase(record)

    def _measure_increase(self, record: RoundRecord) -> float:
        """The validation error of a network above that of its control."""
        control = find_control(self.controls, record)
        assert control is not None
        errors = (
            float(measured.val_wrong.double().mean())
            for measured in (record.measured, control.measured)
        )
        # Differences of fractions of the images are exact to far more than an image.
        return round(next(errors) - next(errors), 12)

    def _forecast(self, label: str) -> list[float] | None:
        """The increase at every step by the density law of what was tried with the criterion, or
        else with one before it; None where no law can be fitted.
        """
        for name in dict.fromkeys([label, *(row.label for row in reversed(self.done))]):
            rows = [row for row in self.done if row.label == name and row.is_tried]
            if not rows:
                continue
            increases = [self._measure_increase(row) for row in rows]
            val = self.data.val
            unpruned = float(self.controls[0].measured.val_wrong.double().mean())
            try:
                law = fit_density_law(
                    [row.density for row in rows],
                    [unpruned + increase for increase in increases],
                    unpruned,
                    guessing_error=guessing_error(val.labels, len(self.data.classes)),
                    images=len(val),
                )
            except (*REFUSALS, ParameterError):
                continue
            errors = law.curve(space_steps(self.costs.given))
            return [float(error) - unpruned for error in errors]
        return None

    def _finish_targets(
        self, label: str, increases: dict[int, float], steps: Sequence[PlannedRound]
    ) -> None:
        """Finish the sparsest network within each limit as a target; say where there is none, or
        where it is that of a lower limit.
        """
        chosen: dict[int, float] = {}
        for limit in self.recipe.targets.values:
            within, beyond = find_bracket(increases, limit)
            name = f"{label}-max_error_increase-{limit!r}"
            if within == 0:
                message = _describe_miss(label, limit, increases, steps)
                self.failures.append(Failure(name=name, code=BudgetError.code, message=message))
                self.ledger.warn(message)
            elif within in chosen:
                self.ledger.warn(
                    f"{label}: the sparsest network within {_tell(limit)} is that within "
                    f"{_tell(chosen[within])}; it is one checkpoint, listed under the lower limit"
                )
            else:
                chosen[within] = limit
                next_sparsity = steps[beyond - 1].sparsity if beyond <= STEPS else None
                finding = SearchFinding(
                    increase=increases[within], next_sparsity=next_sparsity, tried=len(increases)
                )
                self._finish_target(label, steps[within - 1], limit, finding)

    def _finish_target(
        self, label: str, planned: PlannedRound, limit: float, finding: SearchFinding
    ) -> None:
        """Finish a network that was tried as the target of a limit."""
        if finding.next_sparsity is None:
            self.ledger.warn(
                f"{label}: the search ended at its sparsest step, "
                f"{wording.short_percent(planned.sparsity)} sparsity, which is still within "
                f"{_tell(limit)}; a sparser network may be, too: ask for it by targets.sparsity"
            )
        (position,) = (
            position
            for position, row in enumerate(self.done)
            if row.label == label and row.round == planned.number
        )
        record = replace(
            self.done[position],
            target=planned.sparsity,
            budget=Asked(self.recipe.targets.quantity, limit),
            finding=finding,
        )
        self.done[position] = record
        self.target_done(record)


def _tell(limit: float) -> str:
    """A limit in words."""
    return f"{100 * limit:g} pp of validation error above the dense control"


def _describe_miss(
    label: str, limit: float, increases: dict[int, float], steps: Sequence[PlannedRound]
) -> str:
    """The sentence for a limit that no network keeps."""
    step = min(increases)
    lost = increases[step]
    outcome = "could not be made" if math.isinf(lost) else f"lost {100 * lost:.2f} pp"
    return (
        f"{label}: not reachable: no network that was tried is within {_tell(limit)}; the least "
        f"that was tried, {wording.short_percent(steps[step - 1].sparsity)} sparsity, {outcome}; "
        "allow more, or retrain for longer"
    )
