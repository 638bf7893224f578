"""Gates: three outcomes from one-sided limits, held together, and what they read."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from pruning.measurement.paired import PairedErrors, adjust_holm
from pruning.reporting.gates import describe_measured
from pruning.schemas.gates import Gates
from pruning.schemas.report import (
    Estimate,
    GateResult,
    Increase,
    Latency,
    Section,
)
from pruning.verdict.gates import check_gates, list_levels
from pruning.verdict.increases import (
    PairedIncrease,
    WorstIncrease,
    judge,
)
from tests.support.gate_cases import check, checkpoint, recommendation


def excess(value: float, half: float = 0.01) -> dict[str, Section]:
    """Sections with the excess error under shift of two checkpoints."""
    measured = Estimate(value=value, low=value - half, high=value + half, n=1000)
    rows = [
        {"checkpoint": name, "delta_excess_error": estimate.model_dump()}
        for name, estimate in (("magnitude-0.4", Estimate(value=0.9)), ("magnitude-0.5", measured))
    ]
    section = Section(title="Error under shift", version=1, details={"excess_error": rows})
    return {"robustness": section}


@pytest.mark.parametrize(
    ("b", "c", "n", "outcome"),
    [
        (2, 30, 1000, "passed"),  # better by far
        (20, 20, 10_000, "passed"),  # equal, and many images tell
        (3, 3, 100, "undecided"),  # equal as measured, and few images tell nothing
        (0, 0, 100, "undecided"),
        (9, 5, 1000, "undecided"),  # below the limit by less than noise
        (60, 10, 1000, "failed"),
        (20, 10, 1000, "failed"),  # beyond it by more than noise, though not proven at 95 %
    ],
)
def test_a_gate_passes_only_where_the_images_prove_it(b: int, c: int, n: int, outcome: str) -> None:
    result = check(checkpoint(b, c, n), max_error_increase=0.005)
    assert (result.outcome, result.passed) == (outcome, outcome == "passed")
    assert result.value == (b - c) / n
    assert result.low <= result.value <= result.high
    assert (result.high <= 0.005) is (outcome == "passed")
    assert result.confidence == 0.95
    assert (result.needed is not None) is (outcome == "undecided")
    if result.needed is not None:
        assert result.needed > n
    assert result.message.startswith("magnitude-0.5: test error ")


def test_the_message_says_what_is_proven_and_at_which_confidence() -> None:
    likely = check(checkpoint(20, 10), max_error_increase=0.005).message
    assert "beyond it by more than noise explains (one-sided at 75 %)" in likely
    assert "proven beyond it" in check(checkpoint(60, 10), max_error_increase=0.005).message
    assert "limits of the test, each end one-sided at 95 %; limit 0.50 pp" in likely
    some = check(checkpoint(9, 5), max_error_increase=0.005).message
    assert "1,000 test images cannot tell on which side of it the loss lies; about " in some


def test_a_comparison_is_visible_in_the_digits_that_are_printed() -> None:
    """A loss of .503 pp fails a limit of .50 pp, and is not printed as .50 pp."""
    best = checkpoint(50_300, 0, 10_000_000)
    failed = check(best, max_error_increase=0.005)
    assert failed.outcome == "failed"
    assert "test error +0.503 pp [" in failed.message
    assert "limit 0.500 pp" in failed.message
    assert describe_measured(failed).startswith("+0.503 pp [")
    flops = check(checkpoint(flops=2_004_000), max_flops=2_000_000)
    assert "one forward pass: 2.004 MFLOP, limit 2.000 MFLOP" in flops.message
    assert describe_measured(flops) == "2.004 MFLOP"
    certificate = {
        "certificate": Section(
            title="t",
            version=1,
            details={
                "confidence": 0.95,
                "limits": [
                    {
                        "checkpoint": "magnitude-0.5",
                        "error": 0.02,
                        "accuracy_at_least_labelled": 0.8996,
                    }
                ],
            },
        )
    }
    promised = check(checkpoint(), certificate, min_certified_accuracy=0.9)
    assert "certified at least 89.96 % at 95 %" in promised.message
    less = check(checkpoint(), certificate, min_certified_accuracy=0.85)
    assert "certified at least 89.9 % at 95 %" in less.message, "a limit is rounded down"
    assert "at least 90.00 % is asked for" in promised.message


def test_gates_are_held_together_by_holm() -> None:
    """Two gates that would pass alone, by a little, do not pass together."""
    best = checkpoint(6, 10, 1000)
    alone = check(best, max_error_increase=0.005)
    assert alone.outcome == "passed"
    error, shifted = check(
        best, excess(0.0), max_error_increase=0.005, max_delta_excess_error=0.009
    )
    assert (error.outcome, shifted.outcome) == ("undecided", "undecided")
    assert error.confidence == shifted.confidence == pytest.approx(0.975)
    assert error.p_value == pytest.approx(2 * alone.p_value)
    error, shifted = check(best, excess(0.0), max_error_increase=0.005, max_delta_excess_error=0.1)
    assert (error.outcome, shifted.outcome) == ("passed", "passed")
    assert (shifted.confidence, error.confidence) == (pytest.approx(0.975), pytest.approx(0.95))


def test_levels_are_those_of_holm() -> None:
    rng = np.random.default_rng(0)
    for m in (1, 2, 5):
        for p_values in rng.uniform(0, 0.1, (50, m)).tolist():
            adjusted = adjust_holm(p_values)
            levels = list_levels(p_values, 0.05)
            for p_value, holm, level in zip(p_values, adjusted, levels, strict=True):
                assert (p_value <= level) is (holm <= 0.05)


def test_a_lower_confidence_passes_more() -> None:
    assert check(checkpoint(9, 9, 1000), max_error_increase=0.005).outcome == "undecided"
    result = check(checkpoint(9, 9, 1000), max_error_increase=0.005, confidence=0.7)
    assert (result.outcome, result.confidence) == ("passed", pytest.approx(0.7))


def test_reports_without_counts_are_judged_by_their_intervals() -> None:
    """Segmentation has no counts."""
    for value, outcome in ((0.0, "passed"), (0.019, "undecided"), (0.03, "failed")):
        gap = Estimate(value=value, low=value - 0.01, high=value + 0.01, n=1000)
        best = checkpoint(error_increase=Increase(given=gap, control=gap))
        assert check(best, max_error_increase=0.02).outcome == outcome
    bare = Estimate(value=0.0)
    best = checkpoint(error_increase=Increase(given=bare, control=bare))
    assert check(best, max_error_increase=0.02).outcome == "undecided"


@pytest.mark.parametrize(
    ("delta", "outcome"), [(0.0, "passed"), (0.019, "undecided"), (0.03, "failed")]
)
def test_a_gate_on_delta_excess_error_reads_the_robustness_section(
    delta: float, outcome: str
) -> None:
    result = check(checkpoint(), excess(delta), max_delta_excess_error=0.02)
    assert (result.name, result.outcome) == ("max_delta_excess_error", outcome)
    assert result.message.startswith("magnitude-0.5: excess error under shift ")
    missing = check(checkpoint(), max_delta_excess_error=0.02)
    assert (missing.outcome, missing.measured) == ("undecided", None)
    assert missing.message == "magnitude-0.5: excess error under shift was not measured"


def compare_classes(*counts: tuple[int, int, int]) -> dict[str, Section]:
    """Sections with classes of which the checkpoint alone is wrong on b of n images, the control
    alone on c.
    """
    rows = [
        {"checkpoint": "magnitude-0.5", "class": f"c{k}", "only_pruned": b, "only_control": c}
        | {"n": n}
        for k, (b, c, n) in enumerate(counts)
    ]
    rows.append({"checkpoint": "other", "class": "c0", "only_pruned": 99, "only_control": 0})
    return {"class_damage": Section(title="t", version=1, details={"classes": rows})}


def test_a_gate_on_the_worst_class_passes_where_it_holds_in_every_class() -> None:
    good, bad, few = (5, 5, 2000), (300, 5, 2000), (1, 0, 20)
    passed = check(checkpoint(), compare_classes(good, good), max_class_increase=0.02)
    assert (passed.outcome, passed.value) == ("passed", 0.0)
    failed = check(checkpoint(), compare_classes(good, bad), max_class_increase=0.02)
    assert (failed.outcome, failed.subject) == ("failed", "c1")
    assert failed.low > 0.02
    open_ = check(checkpoint(), compare_classes(good, few), max_class_increase=0.1)
    assert (open_.outcome, open_.needed is not None) == ("undecided", True)
    assert open_.needed > 2020
    assert check(checkpoint(), max_class_increase=0.1).outcome == "undecided"
    sections = compare_classes(good, few)
    first, second, _ = sections["class_damage"].details["classes"]
    first["detectable_increase"], second["detectable_increase"] = 0.02, 0.35
    message = check(checkpoint(), sections, max_class_increase=0.1).message
    assert (
        "; in the class c1, with 20 test images, the test of class_damage finds a loss of 35.0 pp "
        "in four of five jobs, a smaller one less often"
    ) in message


def test_a_loss_in_one_class_of_the_limit_seldom_passes_and_noise_in_many_seldom_fails() -> None:
    """Ten classes of unequal sizes, of which the smallest loses the limit, or none loses."""
    rng = np.random.default_rng(8)
    sizes = (60, 100, 100, 200, 200, 300, 300, 400, 400, 500)
    passes, fails, jobs = 0, 0, 150
    for _ in range(jobs):
        counts = [rng.multinomial(n, [0.03, 0.03, 0.94]) for n in sizes]
        lost = [rng.multinomial(sizes[0], [0.06, 0.01, 0.93]), *counts[1:]]
        for index, drawn in enumerate((lost, counts)):
            groups = tuple(
                PairedIncrease(PairedErrors(int(b), int(c), n))
                for (b, c, _), n in zip(drawn, sizes, strict=True)
            )
            outcome = judge(WorstIncrease(groups), 0.05, 0.05)
            passes += index == 0 and outcome == "passed"
            fails += index == 1 and outcome == "failed"
    print(f"passes wrongly in {passes / jobs:.1%}, fails by noise in {fails / jobs:.1%}")  # noqa: T201
    assert passes / jobs <= 0.05
    assert fails / jobs <= 0.1


@pytest.mark.parametrize(
    ("potential", "safe", "outcome"),
    [
        (0.8, 0.6, "passed"),
        (0.8, 0.4, "undecided"),
        (0.8, None, "undecided"),
        (0.4, 0.3, "failed"),
    ],
)
def test_a_gate_on_the_prune_potential_passes_by_the_safe_limit(
    potential: float, safe: float | None, outcome: str
) -> None:
    rows = [
        {
            "method": method,
            "distribution": "fog 3",
            "potential": Estimate(value=value).model_dump(),
            "safe": safe,
        }
        for method, value in (("random", 0.9), ("magnitude", potential))
    ]
    sections = {
        "prune_potential": Section(
            title="Prune potential", version=1, details={"potential_by_distribution": rows}
        )
    }
    result = check(checkpoint(), sections, min_prune_potential={"fog 3": 0.5})
    assert (result.outcome, result.subject) == (outcome, "fog 3")
    assert (result.value, result.low) == (potential, safe)
    assert result.message.endswith("at least 50.0 % is asked for")
    exact = check(checkpoint(), sections, min_prune_potential={"fog 3": safe or 0.4998})
    promise = f"is at least {100 * (safe or 0):.1f} %, at least {100 * (safe or 0):.1f} % is"
    assert (promise in exact.message) is (safe is not None)
    unknown = check(checkpoint(), sections, min_prune_potential={"snow 3": 0.5})
    assert unknown.outcome == "undecided"
    assert "was not measured; there are fog 3" in unknown.message


@pytest.mark.parametrize(
    ("limit", "outcome"), [(0.85, "passed"), (0.88, "undecided"), (0.95, "failed")]
)
def test_a_gate_on_the_certificate_reads_its_promise(limit: float, outcome: str) -> None:
    row = {"checkpoint": "magnitude-0.5", "error": 0.1, "accuracy_at_least_labelled": 0.86}
    sections = {"certificate": Section(title="t", version=2, details={"limits": [row]})}
    result = check(checkpoint(), sections, min_certified_accuracy=limit)
    assert (result.outcome, result.value, result.low) == (outcome, pytest.approx(0.9), 0.86)
    assert (result.needed is not None) is (outcome == "undecided")
    assert check(checkpoint(), min_certified_accuracy=limit).outcome == "undecided"


def test_a_gate_on_the_certificate_says_its_confidence() -> None:
    rows = [
        {"checkpoint": id, "error": 0.1, "accuracy_at_least_labelled": 0.86}
        for id in ("magnitude-0.5", "magnitude-0.9")
    ]
    details = {"limits": rows, "confidence": 0.8}
    sections = {"certificate": Section(title="t", version=2, details=details)}
    result = check(checkpoint(), sections, min_certified_accuracy=0.85)
    assert (result.outcome, result.confidence) == ("passed", 0.8)
    assert "certified at least 86.0 % at 80 % for all checkpoints together" in result.message
    # One that asks for more is decided by fewer images where less confidence is asked for.
    few = check(checkpoint(), sections, min_certified_accuracy=0.88).needed
    many = {"certificate": Section(title="t", version=2, details=details | {"confidence": 0.99})}
    more = check(checkpoint(), many, min_certified_accuracy=0.88).needed
    assert few is not None
    assert more is not None
    assert few < more


def test_what_is_counted_passes_or_fails() -> None:
    latencies = tuple(timed(ratio, ratio, ratio, batch) for batch, ratio in ((1, 0.8), (128, 0.6)))
    best = checkpoint(latency_ms=latencies)
    for name, value in (
        ("max_size_bytes", 4000),
        ("max_flops", 2_000_000),
        ("max_latency_ratio", 0.8),
    ):
        passed = check(best, None, **{name: value})
        failed = check(best, None, **{name: value - 1 if value > 1 else 0.79})
        assert (passed.outcome, failed.outcome) == ("passed", "failed")
        assert (passed.value, passed.low, passed.p_value) == (value, None, None)
    assert "4.00 kB, limit 4.00 kB" in check(best, max_size_bytes=4000).message
    unknown = check(checkpoint(), max_latency_ratio=0.8)
    assert (unknown.outcome, unknown.value) == ("undecided", None)


def timed(value: float, low: float, high: float, batch: int = 1) -> Latency:
    """A latency whose ratio to the network as given has an interval."""
    ends = {"against_given_low": low, "against_given_high": high}
    return Latency(device="cpu", threads=1, batch=batch, p50=1, p95=1, against_given=value, **ends)


@pytest.mark.parametrize(
    ("slowest", "outcome"),
    [
        ((0.9, 0.85, 1.0), "passed"),
        ((0.9, 0.85, 1.05), "undecided"),
        ((1.05, 0.98, 1.2), "undecided"),
        ((1.1, 1.01, 1.2), "failed"),
    ],
)
def test_a_latency_passes_by_its_interval_and_not_by_its_median(
    slowest: tuple[float, float, float], outcome: str
) -> None:
    best = checkpoint(latency_ms=(timed(*slowest), timed(0.5, 0.45, 0.55, batch=64)))
    result = check(best, max_latency_ratio=1.0)
    assert (result.outcome, result.value) == (outcome, slowest[0])
    value, low, high = (f"{end:g}×" for end in slowest)
    assert f"{value} [{low}, {high}]" in describe_measured(result)
    assert ("cannot tell" in result.message) is (outcome == "undecided")


def test_a_latency_that_is_fast_in_the_median_alone_does_not_pass_at_another_batch_size() -> None:
    rows = (timed(0.9, 0.88, 0.95), timed(0.8, 0.5, 1.3, batch=64))
    assert check(checkpoint(latency_ms=rows), max_latency_ratio=1.0).outcome == "undecided"
    for value in (0.7, 1.23):
        bare = timed(value, 0.0, 0.0, batch=64).model_copy(
            update={"against_given_low": None, "against_given_high": None}
        )
        result = check(checkpoint(latency_ms=(rows[0], bare)), max_latency_ratio=1.0)
        assert result.outcome == "undecided", "a few passes on a busy machine decide nothing"
        assert "too few passes were timed for an interval" in result.message


def test_without_a_recommendation_no_gate_is_evaluated_and_none_is_held_unasked() -> None:
    gates = Gates(max_error_increase=0.01, max_flops=10, min_prune_potential={"fog 3": 0.1})
    results = check_gates([checkpoint()], recommendation(None), gates)
    assert [result.outcome for result in results] == ["undecided"] * 3
    assert [result.passed for result in results] == [False] * 3
    assert {result.checkpoint for result in results} == {None}
    assert all(result.message.startswith("not evaluated: no check") for result in results)
    assert check_gates([checkpoint()], recommendation(), Gates()) == ()


def test_gates_of_earlier_reports_have_an_outcome_too() -> None:
    old = {
        "name": "max_error_increase",
        "limit": 0.01,
        "checkpoint": "a",
        "measured": None,
        "message": "m",
    }
    assert GateResult.model_validate(old | {"passed": True}).outcome == "passed"
    assert GateResult.model_validate(old | {"passed": False}).outcome == "failed"
    with pytest.raises(ValidationError, match="contradicts"):
        GateResult.model_validate(old | {"passed": True, "outcome": "undecided"})


def test_a_promise_is_rounded_down_and_never_looks_like_a_limit_it_does_not_reach() -> None:
    row = {"method": "magnitude", "distribution": "fog 3", "safe": 0.49976}
    row["potential"] = Estimate(value=0.49976).model_dump()
    table = {"potential_by_distribution": [row]}
    sections = {"prune_potential": Section(title="t", version=1, details=table)}
    missed = check(checkpoint(), sections, min_prune_potential={"fog 3": 0.5})
    assert "49.98 % as measured, safe limit 49.97 %; at least 50.00 % is" in missed.message
    row["potential"] = Estimate(value=0.0, low=0.0, high=0.6).model_dump()
    row["safe"] = 0.0
    table = {"potential_by_distribution": [row]}
    wide = {"prune_potential": Section(title="t", version=1, details=table)}
    outcomes = [
        check(checkpoint(), wide, min_prune_potential={"fog 3": least}).outcome
        for least in (0.5, 0.7)
    ]
    assert outcomes == ["undecided", "failed"], "a few images do not tell that it is missed"
    sections["prune_potential"].details["potential_by_distribution"] = [
        {**row, "safe": 0.49976, "potential": Estimate(value=0.49976).model_dump()}
    ]
    kept = check(checkpoint(), sections, min_prune_potential={"fog 3": 0.49976})
    assert "is at least 49.976 %, at least 49.976 % is asked for" in kept.message
    unknown = check(checkpoint(), sections, min_prune_potential={"nominal": 0.5})
    assert "nominal prune potential was not measured; there are fog 3" in unknown.message
