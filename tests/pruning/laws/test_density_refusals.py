"""Points that the law of one network refuses or warns of."""

from __future__ import annotations

import numpy as np
import pytest

from pruning.errors import CurveError, InsufficientPointsError, ParameterError
from pruning.laws.density import fit_density_law
from tests.support.law_cases import compute_truth, fit_single

GOOD = (0.5, 0.2, 0.1, 0.05, 0.02)
RISING = (0.081, 0.09, 0.12, 0.18, 0.3)


@pytest.mark.parametrize(
    ("density", "error", "unpruned", "options", "refusal", "message"),
    [
        (
            (0.5, 0.1),
            (0.09, 0.2),
            0.08,
            {},
            InsufficientPointsError,
            "2 points for 2 free parameters.* 2 more would do",
        ),
        ((0.5,), (0.09,), 0.08, {}, InsufficientPointsError, "3 more would do"),
        (GOOD, (0.1,) * 5, 0.08, {}, CurveError, "all errors are equal, 0.1"),
        (
            GOOD,
            (0.07, 0.071, 0.07, 0.072, 0.073),
            0.08,
            {},
            InsufficientPointsError,
            "no error is above the unpruned one",
        ),
        (GOOD, (*RISING[:4], 1.5), 0.08, {}, CurveError, "error 1.5 at point 4 is above chance, 1"),
        (GOOD, (*RISING[:3], 0.9, 0.95), 0.08, {"classes": 2}, CurveError, "above chance, 0.5"),
        (
            GOOD,
            RISING,
            0.6,
            {"classes": 2},
            CurveError,
            "unpruned_error 0.6 at point 0 is above chance",
        ),
        (
            (0.5, 0.2, 0.1, 0.05, 0.0),
            RISING,
            0.08,
            {},
            CurveError,
            "density 0 at point 4: a density is above 0 and at most 1",
        ),
        ((5.0, *GOOD[1:]), RISING, 0.08, {}, CurveError, "density 5 at point 0"),
        (GOOD, (float("nan"), *RISING[1:]), 0.08, {}, CurveError, "error is nan at point 0"),
        ((float("inf"), *GOOD[1:]), RISING, 0.08, {}, CurveError, "density is inf at point 0"),
        (GOOD, (0.0, *RISING[1:]), 0.08, {}, CurveError, "error 0 at point 0.*more images"),
        (GOOD, RISING, 0.0, {}, CurveError, "unpruned_error 0 at point 0"),
        (GOOD, RISING[:4], 0.08, {}, CurveError, "as many of each or one for all"),
        ((), (), 0.08, {}, CurveError, "at least one"),
        (GOOD, ("a",) * 5, 0.08, {}, CurveError, "numbers"),
        (
            GOOD,
            RISING,
            (0.08, 0.08, 0.08, 0.08, 0.09),
            {},
            ParameterError,
            "2 values for one network",
        ),
        (GOOD, RISING, 0.08, {"classes": 1}, ParameterError, "classes: 1; at least 2"),
        (GOOD, RISING, 0.08, {"refits": 5}, ParameterError, "at least 20"),
        (GOOD, RISING, 0.08, {"unpruned_sd": -1.0}, ParameterError, "unpruned_sd"),
        (
            GOOD,
            RISING,
            0.08,
            {"plateau": 0.95, "classes": 10},
            ParameterError,
            "at most chance, 0.9",
        ),
        (GOOD, RISING, 0.08, {"images": 0}, ParameterError, "images: 0"),
        (GOOD, RISING, 0.08, {"trial": [1, 2]}, CurveError, "trial: 2 labels of 5 points"),
    ],
)
def test_refusals(
    density: tuple[float, ...],
    error: tuple[float, ...],
    unpruned: float,
    options: dict[str, object],
    refusal: type[Exception],
    message: str,
) -> None:
    with pytest.raises(refusal, match=message):
        fit_density_law(density, error, unpruned, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "options", "warning"),
    [
        (
            (*RISING[:4], 0.95),
            {"classes": 2},
            "1 of 5 points left out: an error of 0.95 at density 0.02 is above chance, 0.5",
        ),
        ((0.075, *RISING[1:]), {}, "1 of 5 errors are below the unpruned error, by up to 6.2 %"),
        (
            (0.10, 0.085, *RISING[2:]),
            {},
            "not monotone: it falls by 15.0 % from density 0.5 to 0.2",
        ),
        (
            (0.081, 0.09, 0.12, 0.4, 0.51),
            {"classes": 2},
            "1 of 5 errors are above chance, 50.0 %, by up to 2.0 %",
        ),
        (
            (0.081, 0.09, 0.12, 0.4, 0.5),
            {"classes": 2, "plateau": 0.5},
            "1 of 5 errors are at chance, 50.0 %",
        ),
        (
            (0.081, 0.09, 0.12, 0.3, 0.48),
            {"classes": 2},
            "too few to determine the plateau: it is taken to be chance, 50.0 %",
        ),
        ((0.081, 0.2, 0.12, 0.5, 0.3), {}, "does not describe these points: they scatter by"),
        ((0.081, 0.082, 0.083, 0.085, 0.087), {}, "no error reaches 1.5 times"),
    ],
)
def test_warnings(error: tuple[float, ...], options: dict[str, object], warning: str) -> None:
    law = fit_density_law(GOOD, error, 0.08, **options)  # type: ignore[arg-type]
    assert any(warning in message for message in law.warnings), law.warnings


def test_one_odd_point_leaves_the_law_of_the_others() -> None:
    density = 0.8 ** np.arange(1.0, 15)
    errors = compute_truth(density)
    odd = errors.copy()
    odd[9] = 0.995
    law = fit_density_law(density, odd, 0.08, classes=10)
    others = fit_density_law(np.delete(density, 9), np.delete(errors, 9), 0.08, classes=10)
    assert law.fit == others.fit
    assert len(law.points) == 13


def test_a_law_whose_exponent_is_at_a_limit_stays_within_what_was_measured() -> None:
    """A jump at the last density: gamma ends at its upper limit, where the law would extrapolate
    a step that the points do not determine.
    """
    density = 0.8 ** np.arange(1.0, 11)
    errors = np.array([0.0801] * 8 + [0.084, 0.17])
    law = fit_density_law(density, errors, 0.08, classes=10)
    assert 0 not in law.fit.free
    assert law.predict(float(density[-1])).value > 0.08
    for ask in (lambda: law.predict(0.9 * density[-1]), lambda: law.density_for(0.3)):
        with pytest.raises(InsufficientPointsError, match="gamma ended at a limit of the fit"):
            ask()


@pytest.mark.parametrize(
    "ask",
    [
        lambda law: law.predict(0.0),
        lambda law: law.predict(1.1),
        lambda law: law.predict(float("nan")),
        lambda law: law.predict(0.1, confidence=1.0),
        lambda law: law.predict(0.1, of="both"),
        lambda law: law.density_for(0.0),
        lambda law: law.density_for(float("nan")),
        lambda law: law.density_for(2.0),
    ],
)
def test_questions_without_an_answer(ask: object) -> None:
    with pytest.raises(ParameterError):
        ask(fit_single(0))  # type: ignore[operator]
