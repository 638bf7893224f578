"""The law that answers for one network: the pruning law, and between the measured densities a
challenger that predicts left-out densities better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pruning.errors import UnreachableError
from pruning.laws.bands import BandTarget
from pruning.laws.broken import BrokenLaw
from pruning.laws.curves import SAME_POINT
from pruning.laws.density import DensityLaw
from pruning.laws.documents import Forecast
from pruning.laws.selection import Selection
from pruning.schemas.base import Document

PRUNING = "pruning"
"""The name of the pruning law beside its answers."""


class Interpolation(Document):
    """A law that answers between the measured densities: `broken` or `power`."""

    name: str
    law: BrokenLaw


class LawPair(Document):
    """The pruning law of one network and, where one does better there, the law that interpolates.

    Densities below the sparsest measured one are always the pruning law's.
    """

    law: DensityLaw
    interpolation: Interpolation | None = None

    def forecasts(
        self, densities: Sequence[float], *, confidence: float, of: BandTarget = "run"
    ) -> tuple[Forecast, ...]:
        """The error at each density with its band and the name of the law; raises as `DensityLaw`
        does.
        """
        return tuple(self._forecast(density, confidence, of) for density in densities)

    def density_for(self, error: float) -> float:
        """The smallest density whose error is at most `error`, by the law that answers there;
        raises as `DensityLaw.density_for` does.

        0 where any density will do, 1 where only the network without pruning does.
        """
        if self.interpolation is None or error < self.law.unpruned_error:
            return self.law.density_for(error)
        law, sparsest = self.interpolation.law, self.law.fit_range[0]
        if float(law.curve(sparsest)[0]) <= error:
            return min(self.law.density_for(error), sparsest)
        try:
            return min(1.0, max(law.density_for(error), sparsest))
        except UnreachableError:  # the law lies a little above the unpruned error at density 1
            return 1.0

    def _forecast(self, density: float, confidence: float, of: BandTarget) -> Forecast:
        if self.interpolation is None or density < self.law.fit_range[0] * (1 - SAME_POINT):
            (forecast,) = self.law.forecasts(density, confidence=confidence, of=of)
            return forecast.model_copy(update={"law": PRUNING})
        inside = max(density, self.law.fit_range[0])
        (forecast,) = self.interpolation.law.forecasts(inside, confidence=confidence, of=of)
        most = max(forecast.error.value, self.law.limit_band("run"))
        update = {"value": min(1.0, forecast.error.value)}
        if forecast.error.high is not None:
            update["high"] = min(most, forecast.error.high)
        error = forecast.error.model_copy(update=update)
        return forecast.model_copy(
            update={"density": density, "error": error, "law": self.interpolation.name}
        )


def pair_laws(
    law: DensityLaw, selection: Selection, laws: Mapping[str, DensityLaw | BrokenLaw]
) -> LawPair:
    """Pair the pruning law with the best of the comparison, where that is another law."""
    best = laws[selection.best]
    if not isinstance(best, BrokenLaw):
        return LawPair(law=law)
    best = best.model_copy(update={"seed_effect": law.seed_effect})
    return LawPair(law=law, interpolation=Interpolation(name=selection.best, law=best))


def read_law_pair(entry: Mapping[str, Any]) -> LawPair:
    """Read the laws of one criterion from a report; reports of earlier versions have no
    `interpolation`.
    """
    return LawPair.model_validate(
        {"law": entry["law"], "interpolation": entry.get("interpolation")}
    )
