"""Laws of networks on unbalanced labels: chance is the error of the best constant answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pruning.errors import CurveError, ParameterError
from pruning.laws.broken import fit_broken_law
from pruning.laws.dense import fit_dense_law
from pruning.laws.density import fit_density_law
from pruning.laws.forms import evaluate_pruned_error
from pruning.laws.joint import fit_joint_law
from pruning.laws.selection import compare_density_laws

GUESSING = 0.1
"""Nine images in ten are of one of the two classes."""
D = 0.7 ** np.arange(1, 15)
ERRORS = evaluate_pruned_error(D, 0.02, 0.9, 0.02, 0.095)


def test_the_plateau_is_at_most_the_error_of_the_best_constant_answer() -> None:
    law = fit_density_law(D, ERRORS, 0.02, guessing_error=GUESSING)
    assert law.plateau == pytest.approx(0.095, rel=0.02)
    assert law.limit == GUESSING
    # By the number of classes the plateau is taken to be .5, far above any error that is measured.
    by_classes = fit_density_law(D, ERRORS, 0.02, classes=2)
    assert by_classes.plateau == 0.5
    assert by_classes.fit.residual_sd > 10 * law.fit.residual_sd


def test_the_default_is_that_of_the_classes() -> None:
    errors = evaluate_pruned_error(D, 0.1, 0.9, 0.02, 0.5)
    given = fit_density_law(D, errors, 0.1, guessing_error=0.5)
    assert given == fit_density_law(D, errors, 0.1, classes=2)


@pytest.mark.parametrize(
    "fit",
    [
        fit_density_law,
        fit_broken_law,
        lambda *curve, **options: compare_density_laws(*curve, **options)[1]["pruning"],
        lambda *curve, **options: fit_joint_law(1, 1, *curve, **options),
    ],
)
def test_every_law_of_pruned_networks_takes_it(fit: Callable[..., Any]) -> None:
    assert fit(D, ERRORS, 0.02, guessing_error=GUESSING).points
    with pytest.raises(CurveError, match=r"above chance, 0\.05"):
        fit(D, ERRORS, 0.02, guessing_error=0.05)
    for wrong in (0.0, -0.1, 1.5):
        with pytest.raises(ParameterError, match="guessing_error"):
            fit(D, ERRORS, 0.02, guessing_error=wrong)


def test_the_law_of_dense_networks_takes_it() -> None:
    m, n = (axis.ravel() for axis in np.meshgrid([1e5, 4e5, 1.6e6, 6.4e6], [5e3, 2e4, 5e4]))
    x = (n / 5e4) ** -0.66 + 0.3 * (m / 6.4e6) ** -0.53
    errors = GUESSING * x / np.hypot(x, 19.77)
    law = fit_dense_law(m, n, errors, guessing_error=GUESSING)
    assert law.coefficients["chance"] == pytest.approx(GUESSING)
    assert law.coefficients["eta"] == pytest.approx(19.77, rel=0.05)
    with pytest.raises(CurveError, match="chance"):
        fit_dense_law(m, n, errors, guessing_error=float(errors.max()))
    with pytest.raises(ParameterError, match="classes: missing; give it, or guessing_error"):
        fit_dense_law(m, n, errors)
