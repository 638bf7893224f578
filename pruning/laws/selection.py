"""The choice of a law for one set of points, by the errors at densities that were left out."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from pruning.errors import InsufficientPointsError
from pruning.laws.broken import BrokenLaw, fit_broken_law
from pruning.laws.density import DensityLaw, fit_density_law
from pruning.laws.feature_law import PlainLaw
from pruning.laws.pruning_law import PruningLaw
from pruning.schemas.base import Document


class Contender(Document):
    """A law of the comparison, and its errors at points that it was not fitted to."""

    name: str
    parameters: int
    sigma: float
    held_out: float | None
    """Mean relative deviation at densities left out one by one; the sparsest, which is beyond the
    others, does not count.
    """
    back_test: float | None
    """Mean relative deviation at the sparsest third, from a fit on the rest."""


class Selection(Document):
    """The contenders, the best first, and the laws that could not be fitted."""

    best: str
    """The law with the least `held_out`: for densities between the measured ones."""
    best_beyond: str | None
    """The law with the least `back_test`: for densities below the sparsest; often another one."""
    contenders: tuple[Contender, ...]
    refused: dict[str, str] = {}


def rank_laws(
    laws: Mapping[str, PruningLaw | PlainLaw], refused: Mapping[str, str] | None = None
) -> Selection:
    """Rank fitted laws of the same points by `held_out`, equal ones by the number of parameters.

    Raises `InsufficientPointsError` where no law was tried on points that it was not fitted to.
    """
    contenders = [
        Contender(
            name=name,
            parameters=len(law.fit.free),
            sigma=law.sigma,
            held_out=law.held_out,
            back_test=None if law.back_test is None else law.back_test.mean_absolute,
        )
        for name, law in laws.items()
    ]
    ranked = sorted(
        (law for law in contenders if law.held_out is not None),
        key=lambda law: (law.held_out, law.parameters),
    )
    if not ranked:
        raise InsufficientPointsError(
            "no law could be tried on points that it was not fitted to; 4 points on one network "
            "would do"
        )
    back_tested = [law for law in ranked if law.back_test is not None]
    best_beyond = min(back_tested, key=lambda law: (law.back_test, law.parameters), default=None)
    return Selection(
        best=ranked[0].name,
        best_beyond=None if best_beyond is None else best_beyond.name,
        contenders=tuple(ranked),
        refused=dict(refused or {}),
    )


def compare_density_laws(
    density: ArrayLike,
    error: ArrayLike,
    unpruned_error: float,
    *,
    classes: int | None = None,
    guessing_error: float | None = None,
    law: DensityLaw | None = None,
) -> tuple[Selection, dict[str, DensityLaw | BrokenLaw]]:
    """Compare the pruning law with a power law and a broken one on the points of one network.

    `law` is the pruning law where it is fitted already. A challenger with too few points is among
    `refused`; the pruning law's own refusal is raised.

    >>> import numpy as np
    >>> from pruning.laws.forms import evaluate_pruned_error
    >>> d = 0.8 ** np.arange(1, 16)
    >>> selection, laws = compare_density_laws(
    ...     d, evaluate_pruned_error(d, 0.08, 0.6, 0.003, 0.9), 0.08, classes=10
    ... )
    >>> selection.best, sorted(laws)
    ('pruning', ['broken', 'power', 'pruning'])
    """
    law = law or fit_density_law(
        density, error, unpruned_error, classes=classes, guessing_error=guessing_error
    )
    laws: dict[str, DensityLaw | BrokenLaw] = {"pruning": law}
    refused = {}
    for name, breaks in (("power", 0), ("broken", 1)):
        try:
            laws[name] = fit_broken_law(
                density,
                error,
                unpruned_error,
                classes=classes,
                guessing_error=guessing_error,
                breaks=1 if breaks else 0,
            )
        except InsufficientPointsError as refusal:
            refused[name] = refusal.message
        except np.linalg.LinAlgError as failure:
            refused[name] = f"the fit failed: {failure}"
    return rank_laws(laws, refused), laws
