"""The law of one network: golden values, inverse, gradient and bands."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.optimize import approx_fprime, curve_fit

from pruning.errors import CurveError, InsufficientPointsError, UnreachableError
from pruning.laws.bands import BandTarget
from pruning.laws.density import DensityLaw, fit_density_law
from pruning.laws.forms import PruningForm, evaluate_pruned_error, invert_pruned_error
from pruning.laws.seeds import SeedEffect
from pruning.laws.solver import Box, Rows, minimise, minimise_from_starts
from tests.support.law_cases import TRUTH, compute_truth, fit_single, list_hits
from tests.support.oracles import bisect

D = 0.8 ** np.arange(0.0, 21.0)
GOLDEN = [  # unpruned, gamma, p, plateau: error at the densities
    (
        (0.08, 0.6, 0.003, 0.9),
        ("0.08068209", "0.08253299", "0.12004141", "0.42632449", "0.87200666", "0.899997"),
    ),
    (
        (0.24, 1, 0.01, 0.999),
        ("0.24019582", "0.24074592", "0.25867142", "0.7264988", "0.99432897", "0.99899953"),
    ),
    (
        (0.05, 0.3, 6e-6, 0.9),
        ("0.05006285", "0.05023739", "0.05479329", "0.09737734", "0.19395156", "0.73732176"),
    ),
]


@pytest.mark.parametrize(("law", "printed"), GOLDEN)
def test_golden_values(law: tuple[float, ...], printed: tuple[str, ...]) -> None:
    for density, text in zip((1, 0.512, 0.1, 0.01, 0.001, 1e-5), printed, strict=True):
        assert float(evaluate_pruned_error(density, *law)) == pytest.approx(
            float(text), abs=0.51 * 10.0 ** -len(text.split(".")[1])
        )


@pytest.mark.parametrize(("law", "_printed"), GOLDEN)
def test_the_real_form_is_the_modulus_of_the_paper(
    law: tuple[float, ...], _printed: object
) -> None:
    unpruned, gamma, p, plateau = law
    d = np.geomspace(1e-6, 1, 50)
    paper = (
        unpruned
        * np.abs((d - 1j * p * (plateau / unpruned) ** (1 / gamma)) / (d - 1j * p)) ** gamma
    )
    np.testing.assert_allclose(evaluate_pruned_error(d, *law), paper, rtol=1e-12)


def test_the_inverse_of_the_golden_network() -> None:
    assert float(invert_pruned_error(0.16, 0.08, 0.6, 0.003, 0.9)) == pytest.approx(
        0.056147081, abs=5.1e-10
    )


@pytest.mark.parametrize(("law", "_printed"), GOLDEN)
def test_the_inverse_agrees_with_bisection(law: tuple[float, ...], _printed: object) -> None:
    for error in np.linspace(law[0], law[3], 23)[1:-1]:
        if error > evaluate_pruned_error(1.0, *law):

            def miss(density: float, error: float = error) -> float:
                return error - float(evaluate_pruned_error(max(density, 1e-300), *law))

            by_search = bisect(miss)
            assert float(invert_pruned_error(error, *law)) == pytest.approx(by_search, rel=1e-9)


def test_the_inverse_outside_the_law() -> None:
    assert invert_pruned_error([0.05, 0.08, 0.9, 0.95], 0.08, 0.6, 0.003, 0.9).tolist() == [
        np.inf,
        np.inf,
        0.0,
        0.0,
    ]
    steep = float(
        invert_pruned_error(0.3, 0.08, 0.02, 1e-8, 0.9)
    )  # r = 11.25^50: its square is beyond a float
    assert float(evaluate_pruned_error(steep, 0.08, 0.02, 1e-8, 0.9)) == pytest.approx(
        0.3, rel=1e-9
    )


def test_the_gradient_agrees_with_finite_differences() -> None:
    rng, form = np.random.default_rng(0), PruningForm()
    features, unpruned = np.log(rng.uniform(0.01, 3, (3, 6))), np.log(rng.uniform(0.02, 0.2, 6))
    for theta in (
        [-0.5, -3.0, -0.1, 0.7, 1.5],
        [1.0, -6.0, -0.4, -0.3, 0.0],
        [-2.0, -1.0, -0.05, 0.0, 2.0],
    ):
        _, gradient = form.evaluate(np.array([theta]), features, unpruned)
        for i in range(6):
            numeric = approx_fprime(
                np.array([*theta, *unpruned]),
                lambda x, i=i: float(  # type: ignore[misc]
                    form.evaluate(x[None, :5], features, x[5:])[0][0, i]
                ),
                1e-7,
            )
            np.testing.assert_allclose(gradient[0, :5, i], numeric[:5], atol=2e-6)
            assert gradient[0, 5, i] == pytest.approx(numeric[5 + i], abs=2e-6)


def test_the_law_of_exact_points_is_recovered() -> None:
    law = fit_density_law(D, compute_truth(D), 0.08, classes=10)
    assert (law.gamma, law.p, law.plateau) == pytest.approx((0.6, 0.003, 0.9), rel=1e-9)
    assert law.sigma < 1e-12
    assert law.density_for(0.16) == pytest.approx(0.056147081, abs=5.1e-10)
    assert law.transitions == pytest.approx((0.003 * 11.25 ** (1 / 0.6), 0.003), rel=1e-9)
    assert law.fit_range[0] == pytest.approx(0.8**20)
    assert law.fit_range[1] == 1.0
    assert (law.warnings, law.kind, law.unpruned_error) == ((), "density", 0.08)


def test_a_plateau_is_fitted_where_points_are_near_it_and_fixed_else() -> None:
    sparse = 0.7 ** np.arange(1.0, 27.0)
    errors = evaluate_pruned_error(sparse, 0.08, 0.6, 0.003, 0.7)
    free = fit_density_law(sparse, errors, 0.08, classes=10)
    assert free.plateau == pytest.approx(0.7, rel=1e-6)
    assert free.fit.free == (0, 1, 2)
    assert fit_density_law(sparse, errors, 0.08, plateau=0.72).plateau == pytest.approx(0.72)
    assert fit_density_law(D, compute_truth(D), 0.08).plateau == pytest.approx(1.0)
    with pytest.raises(CurveError, match="above the plateau that was fixed"):
        fit_density_law(sparse, errors, 0.08, plateau=0.5)
    with pytest.raises(CurveError, match="at the plateau"):
        fit_density_law([0.5, 0.2, 0.1, 0.05], [0.52, 0.53, 0.52, 0.54], 0.51, plateau=0.5)


def test_noisy_points_give_what_scipy_gives() -> None:
    rng = np.random.default_rng(3)
    errors = compute_truth(D) * (1 + 0.03 * rng.standard_normal(len(D)))
    law = fit_density_law(D, errors, 0.08, classes=10)
    theirs, covariance = curve_fit(
        lambda d, g, p: evaluate_pruned_error(d, 0.08, np.exp(g), np.exp(p), 0.9),
        D,
        errors,
        p0=np.log([0.5, 0.01]),
        sigma=errors,
        xtol=1e-14,
        ftol=1e-14,
    )
    np.testing.assert_allclose(law.fit.theta[:2], theirs, rtol=1e-5)
    np.testing.assert_allclose(
        np.array(law.covariance) * (law.sigma / law.fit.noise) ** 2, covariance, rtol=1e-3
    )


def test_many_problems_at_once_end_where_one_does() -> None:
    rng, form = np.random.default_rng(1), PruningForm()
    errors = np.log(compute_truth(D)[None] * (1 + 0.1 * rng.standard_normal((20, len(D)))))
    features, unpruned = np.stack([np.log(D), 0 * D, 0 * D]), np.full(len(D), np.log(0.08))
    box = Box(
        np.array([np.log(0.02), np.log(1e-8), np.log(0.9), 0, 0]),
        np.array([np.log(20), 0, np.log(0.9), 0, 0]),
    )
    start = np.array([[0.0, -4.0, np.log(0.9), 0, 0]])
    many, _ = minimise(
        form, np.repeat(start, 20, 0), box, Rows(features, unpruned, errors, np.ones(len(D)))
    )
    for theta, error in zip(many, errors, strict=True):
        alone = minimise_from_starts(
            form, start, box, Rows(features, unpruned, error, np.ones(len(D)))
        )
        np.testing.assert_allclose(theta, alone, atol=1e-5)


def test_it_survives_json_and_answers_the_same() -> None:
    law = fit_single(0, refits=50, images=10_000)
    again = DensityLaw.model_validate_json(law.model_dump_json())
    assert again == law
    assert again.predict([0.3, 0.1], of="run") == law.predict([0.3, 0.1], of="run")
    with pytest.raises(ValidationError):
        DensityLaw.model_validate({**law.model_dump(), "kind": "joint"})


def test_the_same_seed_gives_the_same_refits() -> None:
    assert fit_single(0, refits=30, seed=1) == fit_single(0, refits=30, seed=1)
    first, second = (fit_single(0, refits=30, seed=seed) for seed in (1, 2))
    assert first.predict(0.1, of="curve") != second.predict(0.1, of="curve")


def test_scalars_and_lists() -> None:
    law = fit_single(0)
    assert law.predict([0.3])[0] == law.predict(0.3)
    assert law.density_for([0.1, 0.12]).tolist() == [law.density_for(0.1), law.density_for(0.12)]
    assert law.predict(0.3).value == pytest.approx(float(law.curve(0.3)))


def test_a_run_is_less_certain_than_the_curve_and_confidence_widens() -> None:
    law = fit_single(0)
    targets: tuple[BandTarget, ...] = ("curve", "run")
    bands = [
        law.predict(0.1, of=of, confidence=confidence)
        for of in targets
        for confidence in (0.5, 0.8)
    ]
    widths = [(band.high or 0) - (band.low or 0) for band in bands]
    assert widths[0] < widths[1] < widths[3]
    assert widths[2] < widths[3]


def coverage(seeds: range, **options: object) -> float:
    """The fraction of bands of the golden curve that hold it, within the fitted densities."""
    held = []
    for seed in seeds:
        law = fit_single(seed, **options)  # type: ignore[arg-type]
        densities = np.geomspace(law.fit_range[0], 1, 15)
        held += list_hits(law.predict(densities, of="curve"), compute_truth(densities))
    return float(np.mean(held))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"refits": 50}, {"dense_noise": 0.0, "unpruned_sd": 0.0}])
def test_bands_of_the_curve_cover_the_truth(options: dict[str, object]) -> None:
    assert 0.84 <= coverage(range(100), **options) <= 0.95


@pytest.mark.slow
def test_bands_of_a_run_cover_a_run_of_the_same_seed() -> None:
    """Without the effect of a seed on the whole curve, for points that scatter by themselves."""
    held = []
    for seed in range(30):
        law, rng = fit_single(seed), np.random.default_rng(seed + 10_000)
        law = law.model_copy(update={"seed_effect": SeedEffect(sd=0.0)})
        densities = np.geomspace(law.fit_range[0], 1, 15)
        run = compute_truth(densities) * (1 + 0.03 * rng.standard_normal(15))
        held += list_hits(law.predict(densities, of="run"), run)
    assert 0.88 <= np.mean(held) <= 0.97


def test_few_points_have_no_conformal_band() -> None:
    law = fit_single(0, n=6)
    assert law.forecasts(0.4, of="run")[0].notes == (
        "too few points for a conformal band: Student's t",
    )
    assert fit_single(0, n=9).forecasts(0.4, of="run")[0].notes == ()


def test_extrapolation_is_back_tested_widened_and_marked() -> None:
    law = fit_single(1, n=14)
    (forecast,) = law.forecasts(0.02)
    assert forecast.extrapolated
    assert "fitted on its denser points, the law missed the sparser ones by" in forecast.notes[0]
    assert law.back_test is not None
    assert len(law.back_test.points) == 4
    assert law.back_test.mean_absolute > 0
    sd = law.model_copy(
        update={"back_test": law.back_test.model_copy(update={"root_mean_square": 0.0})}
    )
    inside = 0.8**14
    assert law.predict(inside) == sd.predict(inside)
    far, near = law.predict(0.01), law.predict(0.04)
    assert far.high / far.value > near.high / near.value  # type: ignore[operator]
    assert law.predict(0.02).high > sd.predict(0.02).high  # type: ignore[operator]


def test_extrapolation_is_refused_where_the_error_did_not_rise() -> None:
    density = 0.8 ** np.arange(1.0, 8.0)
    law = fit_density_law(density, compute_truth(density), 0.08, classes=10)
    assert any("not extrapolated" in message for message in law.warnings)
    assert law.predict(0.3).value > 0.08
    with pytest.raises(
        InsufficientPointsError,
        match=r"about 4 more points, each with 0.8 of the density before .to 0\.1",
    ):
        law.predict(0.1)
    with pytest.raises(InsufficientPointsError, match=r"reaches 1\.5 times"):
        law.density_for(0.3)


def test_errors_that_no_density_reaches() -> None:
    law = fit_density_law(D, compute_truth(D), 0.08, classes=10)
    with pytest.raises(
        UnreachableError, match=r"error 0.07 is below .* the closest is 0.08, .* \(density 1\)"
    ) as caught:
        law.density_for(0.07)
    assert caught.value.code == "unreachable"
    assert law.density_for([0.08, 0.0806, 0.9, 0.95]).tolist() == [1.0, 1.0, 0.0, 0.0]


def test_trials_are_averaged_and_resampled() -> None:
    rng = np.random.default_rng(0)
    density, trial = np.repeat(0.8 ** np.arange(1.0, 13.0), 3), np.tile(["a", "b", "c"], 12)
    error = compute_truth(density) * (1 + 0.03 * rng.standard_normal(36))
    law = fit_density_law(density, error, 0.08, classes=10, trial=list(trial), refits=50)
    mean = fit_density_law(density[::3], error.reshape(12, 3).mean(1), 0.08, classes=10)
    assert law.fit.theta == pytest.approx(mean.fit.theta, abs=1e-6)
    assert law.refits is not None
    assert law.refits.of == "points and trials"
    own = fit_density_law(
        density, error, np.tile([0.078, 0.08, 0.082], 12), classes=10, trial=list(trial), refits=50
    )
    assert own.unpruned_error == pytest.approx(0.08)
    with pytest.raises(CurveError, match="the same trial twice"):
        fit_density_law(density, error, 0.08, trial=["a"] * 36)


def test_errors_on_few_images_weigh_less() -> None:
    density = 0.8 ** np.arange(1.0, 13.0)
    law = fit_density_law(density, compute_truth(density), 0.08, images=500)
    few, many = (
        fit_density_law(
            density,
            compute_truth(density) * np.where(density == density[0], 1.3, 1.0),
            0.08,
            images=n,
        )
        for n in (100, 10**9)
    )
    assert (
        few.sigma < many.sigma
    )  # the outlier is at the smallest error, which few images tell least of
    assert law.p == pytest.approx(TRUTH["p"], rel=0.2)


@pytest.mark.slow
def test_the_laws_need_no_torch() -> None:
    code = (
        "import sys, pruning.laws.density, pruning.laws.joint; "
        "sys.exit('torch' in sys.modules or 'pruning.library' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
