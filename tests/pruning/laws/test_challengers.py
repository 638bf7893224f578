"""The other laws: the broken power law, the sparse and the dense scaling law, and which of them to
trust.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from pruning.errors import CurveError, InsufficientPointsError, ParameterError, UnreachableError
from pruning.laws.broken import BrokenForm, BrokenLaw, fit_broken_law
from pruning.laws.dense import DenseForm, DenseLaw, fit_dense_law
from pruning.laws.density import fit_density_law
from pruning.laws.pair import pair_laws, read_law_pair
from pruning.laws.selection import compare_density_laws, rank_laws
from pruning.laws.sparse import SparseForm, SparseLaw, fit_sparse_law
from pruning.laws.stored import read_law
from tests.support.law_cases import (
    Floats,
    compute_truth,
    fit_single,
    list_hits,
    published,
    read_rewound,
    read_table,
    read_vision_transformers,
)

D = 0.8 ** np.arange(1.0, 20.0)


@pytest.mark.parametrize(
    ("form", "thetas", "features"),
    [
        (BrokenForm(), ([-3.0, -4.0, 0.4, -2.0, -1.0, 1.2], [-9.0, -1.0, 0.0, -3.0, 0.5, 2.0]), 1),
        (
            SparseForm(),
            ([0.2, 0.8, 0.7, 0.4, -1.3, 0.9, 1.5], [-2.0, 1.5, 0.1, 0.2, -0.5, 0.3, -1.0]),
            3,
        ),
        (DenseForm(), ([0.66, -2.8, 0.53, -5.0, 3.0, -0.1], [1.1, -1.0, 0.8, -0.5, 0.0, -0.01]), 2),
    ],
)
def test_gradients_agree_with_finite_differences(
    form: Any, thetas: tuple[list[float], ...], features: int
) -> None:
    x = np.log(np.random.default_rng(0).uniform(0.05, 1.0, (features, 5)))
    for theta in thetas:
        _, gradient = form.evaluate(np.array([theta]), x, np.zeros(5))
        for i in range(5):
            numeric = approx_fprime(
                np.array(theta),
                lambda t, i=i: float(  # type: ignore[misc]
                    form.evaluate(t[None], x, np.zeros(5))[0][0, i]
                ),
                1e-7,
            )
            np.testing.assert_allclose(gradient[0, :-1, i], numeric, atol=3e-6)
        assert not gradient[0, -1].any()


def test_a_broken_power_law_is_recovered() -> None:
    error = 0.05 + 0.3 * (1 + (D / 0.08) ** (1 / 0.4)) ** (-1.1 * 0.4)
    law = fit_broken_law(D, error, 0.05 + 0.3 * (1 + (1 / 0.08) ** 2.5) ** -0.44)
    np.testing.assert_allclose(law.curve(D), error, rtol=2e-4)
    assert law.density_for(0.2) == pytest.approx(float(np.interp(0.2, error, D)), rel=0.02)
    assert float(law.curve(law.density_for(0.2))[0]) == pytest.approx(0.2, rel=1e-9)
    assert law.transitions[0] == pytest.approx(0.08, rel=0.1)
    assert law.fit_range[0] == pytest.approx(0.8**19)
    assert law.fit_range[1] == 1.0
    with pytest.raises(UnreachableError, match="at density 1"):
        law.density_for(0.04)


def test_a_power_law_has_neither_break_nor_plateau() -> None:
    law = fit_broken_law(D, 0.08 + 0.002 * D**-0.9, 0.082, breaks=0)
    assert (law.transitions, law.plateau, len(law.fit.free)) == ((), None, 3)
    assert [float(np.exp(law.fit.theta[0])), law.fit.theta[2]] == pytest.approx(
        [0.08, 0.9], rel=1e-4
    )


def test_the_pruning_law_wins_where_it_is_true() -> None:
    selection, laws = compare_density_laws(D, compute_truth(D), 0.08, classes=10)
    assert selection.best == "pruning"
    assert selection.contenders[0].name == "pruning"
    assert set(laws) == {"pruning", "power", "broken"}
    assert selection.contenders[0].held_out < 1e-9  # type: ignore[operator]


def test_a_challenger_wins_where_the_pruning_law_is_wrong() -> None:
    error = 0.10 + 0.0005 * D**-1.3  # rises at once to far above the unpruned error of 0.08
    selection, _ = compare_density_laws(D, error, 0.08)
    assert selection.best in ("power", "broken")


def test_the_pair_answers_by_the_better_law_between_the_densities_and_agrees_with_itself() -> None:
    errors = 0.10 + 0.0005 * D**-1.3
    law = fit_density_law(D, errors, 0.08, classes=10)
    pair = pair_laws(law, *compare_density_laws(D, errors, 0.08, classes=10, law=law))
    assert pair.interpolation is not None
    for density in (0.5, 0.1, 0.03):
        (forecast,) = pair.forecasts([density], confidence=0.9)
        assert pair.density_for(forecast.error.value) == pytest.approx(density, rel=1e-6)
        assert forecast.law == pair.interpolation.name
    assert pair.density_for(0.0801) == 1.0
    beyond = pair.density_for(0.35)
    assert beyond < D[-1]
    assert pair.forecasts([beyond], confidence=0.9)[0].law == "pruning"
    assert pair.density_for(float(errors[-1]) * 1.0001) <= D[-1] * 1.0001
    again = read_law_pair(pair.model_dump(mode="json"))
    assert again == pair
    assert read_law_pair({"law": law.model_dump(mode="json")}).interpolation is None
    with pytest.raises(UnreachableError):
        pair.density_for(0.07)


def test_challengers_with_too_few_points_are_named() -> None:
    selection, _ = compare_density_laws(D[:6], compute_truth(D[:6]), 0.08, classes=10)
    assert "7 points for 6 free parameters" in selection.refused["broken"]
    with pytest.raises(InsufficientPointsError, match="no law could be tried"):
        rank_laws({})


@published
def test_on_published_curves_the_best_within_is_not_the_best_beyond() -> None:
    """A free floor follows the dip that the pruning law cannot, and forecasts three times worse."""
    curve = read_rewound("resnet56")
    selection, _ = compare_density_laws(curve.density, curve.error, curve.unpruned, classes=10)
    assert selection.best != "pruning"
    assert selection.best_beyond == "pruning"


@published
@pytest.mark.parametrize("network", ["resnet20", "resnet56"])
def test_on_published_curves_held_out_densities_are_predicted(network: str) -> None:
    curve = read_rewound(network)
    selection, _ = compare_density_laws(curve.density, curve.error, curve.unpruned, classes=10)
    missed = {contender.name: contender.held_out for contender in selection.contenders}
    assert missed["pruning"] <= 0.05  # type: ignore[operator]
    assert missed[selection.best] <= 0.03  # type: ignore[operator]


def vit_grid() -> tuple[Floats, Floats, Floats, Floats]:
    grid = read_vision_transformers()
    return (
        1 - grid["sparsity"],
        12 * 12 * 768**2 * grid["scale"] / 1e6,
        grid["total_examples"] / 1e9,
        grid["val-loss"],
    )


def huber(deviation: Floats, delta: float) -> float:
    small = np.abs(deviation) <= delta
    return float(np.where(small, deviation**2 / 2, delta * (np.abs(deviation) - delta / 2)).mean())


@published
def test_the_published_vision_transformers() -> None:
    grid = vit_grid()
    law = fit_sparse_law(*grid)
    printed = {
        "a": "1.3049",
        "b": ".8210",
        "c": "2.0751",
        "e": ".3922",
        "f": ".2782",
        "g": ".8898",
        "h": "4.5167",
    }
    for name, text in printed.items():
        assert law.coefficients[name] == pytest.approx(float(text), abs=1e-4), name
    assert huber(law.curve(*grid[:3]) - grid[3], 0.01) == pytest.approx(4.929e-4, abs=5.1e-8)
    assert law.fit.residual_sd == pytest.approx(0.0105, abs=5e-5)
    assert law.held_out < 0.01  # type: ignore[operator]
    assert law.back_test is not None
    assert law.back_test.mean_absolute < 0.03


@published
def test_the_published_t5_fit_is_beaten_by_its_own_objective() -> None:
    """The printed coefficients have the printed objective, 7.60e-6, and are not its minimum."""
    table = {
        name: np.array([float(row[name]) for row in read_table("frantar2023_t5.csv")])
        for name in ("sparsity", "scale", "steps", "val-loss")
    }
    d, m, steps = (
        1 - table["sparsity"],
        24 * 12 * 768**2 * table["scale"] / 1e6,
        table["steps"] / 1e5,
    )
    loss = (0.5678 * d**0.7216 + 1.5227) * (d * m) ** -0.2451 + 0.6336 * steps**-0.2027 + 0.6507
    assert huber(np.log(loss / table["val-loss"]), 0.001) == pytest.approx(7.60e-6, abs=1e-8)
    law = fit_sparse_law(d, m, steps, table["val-loss"], huber=0.001, on="log_loss")
    assert huber(np.log(law.curve(d, m, steps) / table["val-loss"]), 0.001) < 5e-6


def sparse(noise: float = 0.0, seed: int = 0) -> SparseLaw:
    d, m, data = (
        axis.ravel()
        for axis in np.meshgrid([1.0, 0.5, 0.25, 0.1], [1.0, 4.0, 16.0], [1.0, 3.0, 9.0])
    )
    loss = (1.3 * d**0.3 + 2.0) * (d * m) ** -0.4 + 0.9 * data**-0.5 + 1.0
    return fit_sparse_law(
        d,
        m,
        data,
        loss * (1 + noise * np.random.default_rng(seed).standard_normal(len(d))),
        huber=None,
        on="relative",
    )


def test_the_density_of_a_loss() -> None:
    law = sparse()
    density = law.density_for(3.5, 4.0, 3.0)
    assert float(law.curve(density, 4.0, 3.0)[0]) == pytest.approx(3.5, rel=1e-9)
    assert law.floor == pytest.approx(1.0, rel=1e-3)
    with pytest.raises(UnreachableError, match="closest is"):
        law.density_for(1.0, 4.0, 3.0)
    assert law.predict(0.5, 4.0, 3.0).value == law.predict([0.5], 4.0, 3.0)[0].value  # type: ignore[union-attr, index]
    assert law.forecasts(0.5, 64.0, 3.0)[0].extrapolated


def dense_grid(noise: float = 0.0, seed: int = 0) -> tuple[Floats, Floats, Floats]:
    """Rosenfeld's CIFAR-10 constants; every size and amount in units of the largest."""
    m, n = (
        axis.ravel() for axis in np.meshgrid(4.0 ** np.arange(-6, 1), 2.0 ** np.arange(-5.0, 1))
    )
    x = n**-0.66 + 0.0587 * m**-0.53 + 7.14e-14
    error = 0.9 * x / np.hypot(x, 19.77)
    return (
        m * 1e6,
        n * 5e4,
        error * (1 + noise * np.random.default_rng(seed).standard_normal(len(m))),
    )


def test_the_published_dense_constants_are_recovered() -> None:
    law = fit_dense_law(*dense_grid(), classes=10)
    coefficients = law.coefficients
    assert [coefficients[name] for name in ("alpha", "b", "beta", "eta")] == pytest.approx(
        [0.66, 0.0587, 0.53, 19.77], rel=1e-3
    )
    assert coefficients["c"] < 1e-3
    assert law.fit.residual_sd < 1e-6
    assert law.plateau == pytest.approx(0.9)


def test_noisy_dense_networks() -> None:
    m, n, error = dense_grid(0.03)
    law = fit_dense_law(m, n, error, classes=10)
    assert law.sigma == pytest.approx(0.03, rel=0.3)
    assert law.back_test is not None
    assert law.back_test.mean_absolute < 0.10
    parameters = law.parameters_for(0.1, 5e4)
    assert law.predict(parameters, 5e4).value == pytest.approx(0.1, rel=1e-9)  # type: ignore[union-attr]
    with pytest.raises(UnreachableError, match="out of reach with 5000 images"):
        law.parameters_for(0.05, 5e3)
    assert law.parameters_for(0.95, 5e3) == 0.0
    for images in (0, -5):
        with pytest.raises(ParameterError, match=f"images: {images}; above 0"):
            law.parameters_for(0.1, images)


@pytest.mark.slow
def test_bands_of_the_dense_law_cover() -> None:
    m, n, true = dense_grid()
    held: list[bool] = []
    for seed in range(30):
        law = fit_dense_law(m, n, dense_grid(0.03, seed)[2], classes=10)
        bands = law.predict(m, n, of="curve")
        held += list_hits(bands, true)
    assert 0.82 <= float(np.mean(held)) <= 0.96


@pytest.mark.parametrize(
    ("law", "cls"),
    [
        (lambda: fit_broken_law(D, compute_truth(D), 0.08), BrokenLaw),
        (lambda: sparse(0.01), SparseLaw),
        (lambda: fit_dense_law(*dense_grid(0.03), classes=10), DenseLaw),
    ],
)
def test_they_survive_json(law: Any, cls: Any) -> None:
    made = law()
    again = read_law(made.model_dump_json())
    assert isinstance(again, cls)
    assert again == made
    assert again.condition > 1
    assert len(again.covariance) == len(again.fit.free)
    where = (0.5,) if cls is BrokenLaw else (0.5, 4.0, 3.0) if cls is SparseLaw else (5e5, 2e4)
    assert again.predict(*where) == made.predict(*where)
    mean, run = (made.predict(*where, of=of) for of in ("curve", "run"))
    assert run.high - run.low >= mean.high - mean.low > 0


@pytest.mark.parametrize("text", ["", "{}", '{"kind": "other"}', '{"kind": "density"}', "[1]"])
def test_what_is_not_a_law_is_refused(text: str) -> None:
    with pytest.raises(ParameterError, match="not a stored law"):
        read_law(text)


@pytest.mark.parametrize(
    ("call", "refusal", "message"),
    [
        (
            lambda: fit_broken_law(D[:4], compute_truth(D[:4]), 0.08),
            InsufficientPointsError,
            "5 points for 6 free parameters.* 7 more",
        ),
        (
            lambda: fit_broken_law(D, compute_truth(D), 0.08, breaks=2),  # type: ignore[arg-type]
            ParameterError,
            "breaks: 2; 0 or 1",
        ),
        (lambda: fit_broken_law([0.5, 0.0], [0.1, 0.2], 0.08), CurveError, "density 0"),
        (lambda: fit_broken_law(D, compute_truth(D), 0.08).predict(1.5), ParameterError, "density"),
        (
            lambda: fit_sparse_law([0.5, 0.2], [1, 1], [1, 2], [3, 4]),
            InsufficientPointsError,
            "2 amounts of data",
        ),
        (
            lambda: fit_sparse_law([0.5, 0.2], 1, 1, [3, 4]),
            InsufficientPointsError,
            "2 points for 5 free parameters",
        ),
        (lambda: fit_sparse_law([0.5, 0.0], 1, 1, [3, 4]), CurveError, "above 0"),
        (lambda: fit_sparse_law([0.5, 0.1], 1, 1, [3, np.nan]), CurveError, "finite"),
        (lambda: fit_sparse_law([0.5, 0.1], [1, 2, 3], 1, [3, 4]), CurveError, "as many of each"),
        (lambda: fit_sparse_law([0.5], 1, 1, [3], on="both"), ParameterError, "on: 'both'"),  # type: ignore[arg-type]
        (lambda: fit_sparse_law([0.5], 1, 1, [3], huber=-1.0), ParameterError, "huber: -1"),
        (lambda: sparse().predict(0.0, 1, 1), ParameterError, "density: above 0"),
        (lambda: fit_dense_law([1, 2], 1, [0.1, 0.0], classes=10), CurveError, "an error of 0"),
        (
            lambda: fit_dense_law([1, 2], 1, [0.1, 0.95], classes=10),
            CurveError,
            "at or above chance, 0.9",
        ),
        (
            lambda: fit_dense_law([1, 2], 1, [0.1, 0.1], classes=10),
            CurveError,
            "all errors are equal",
        ),
        (
            lambda: fit_dense_law([1, 1], 1, [0.1, 0.2], classes=10),
            InsufficientPointsError,
            "as many parameters",
        ),
        (
            lambda: fit_dense_law([1, 2], 1, [0.1, 0.2], classes=10),
            InsufficientPointsError,
            "2 points for 3 free parameters",
        ),
        (lambda: fit_dense_law([1, 2], 1, [0.1, 0.2], classes=1), ParameterError, "classes: 1"),
        (
            lambda: fit_dense_law([1, 2], [1, 2, 3], [0.1, 0.2], classes=10),
            CurveError,
            "as many of each",
        ),
        (lambda: fit_single(0).density_for(1.5), ParameterError, "error"),
    ],
)
def test_refusals(call: Any, refusal: type[Exception], message: str) -> None:
    with pytest.raises(refusal, match=message):
        call()
