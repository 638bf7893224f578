"""Jobs compared image by image: pairs, tests that hold together, and Pareto fronts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from pruning.analysis.compared_jobs import ComparedJob, compare_jobs
from pruning.errors import DataError
from pruning.schemas.report import Network
from tests.support.compared import make_job


def test_equal_targets_and_the_recommended_are_paired_once() -> None:
    jobs = [make_job("job_a"), make_job("job_b", seed=1), make_job("job_c", recommended=None)]
    pairs = [
        (row.first.network, row.second.job, row.second.network)
        for row in compare_jobs(jobs).differences
    ]
    assert pairs == [
        (name, job, name)
        for job in ("job_b", "job_c")
        for name in ("magnitude-0.5", "magnitude-0.8")
    ]
    other = make_job("job_d", targets=(0.7, 0.9), recommended="magnitude-0.9")
    (row,) = compare_jobs([jobs[0], other]).differences
    assert (row.first.network, row.second.network) == ("magnitude-0.8", "magnitude-0.9")


def test_differences_are_of_the_images_that_both_have() -> None:
    mixed = np.random.default_rng(3).permutation(500)
    first = make_job("job_a", images=400)
    second = make_job("job_b", indices=mixed[:300], seed=4)
    comparison = compare_jobs([first, second])
    common = sorted(set(range(400)) & set(mixed[:300].tolist()))
    assert comparison.images == len(common)
    places = {index: place for place, index in enumerate(second.indices.tolist())}
    for row in comparison.differences:
        own = first.wrong(row.first.network)[common]
        other = second.wrong(row.second.network)[[places[index] for index in common]]
        only_first, only_second = int((own & ~other).sum()), int((other & ~own).sum())
        assert row.counts is not None
        assert (row.counts.only_checkpoint, row.counts.only_reference) == (only_first, only_second)
        assert row.difference.value == pytest.approx(own.mean() - other.mean())
        exact = stats.binomtest(only_first, only_first + only_second).pvalue
        assert row.p_value is not None
        assert exact <= row.p_value + 1e-12 <= 2 * exact + 1e-9


def test_a_smaller_error_is_named_where_it_is_shown() -> None:
    better, worse = make_job("job_a"), make_job("job_b", rates=(0.3, 0.5), seed=1)
    assert [row.lower for row in compare_jobs([better, worse]).differences] == ["first"] * 2
    assert [row.lower for row in compare_jobs([worse, better]).differences] == ["second"] * 2


def test_equal_networks_are_rarely_called_different() -> None:
    """Also where the jobs' networks are of one lineage and err on mostly the same images."""
    generator = np.random.default_rng(8)
    wrongly, trials = 0, 400
    for _ in range(trials):
        hard = generator.random(300) < 0.15
        jobs = [make_job(f"job_{number}", images=300) for number in range(4)]
        for job in jobs:
            for name in ("magnitude-0.5", "magnitude-0.8"):
                flips = generator.random(300) < 0.05
                job.tensors[f"wrong/{name}"] = hard ^ flips  # type: ignore[index]
        wrongly += any(row.lower for row in compare_jobs(jobs).differences)
    assert wrongly <= 0.05 * trials


def test_segmentation_has_differences_of_means_without_a_verdict() -> None:
    jobs = [make_job("job_a"), make_job("job_b", seed=1)]
    generator = np.random.default_rng(0)
    for job in jobs:
        for name in list(job.tensors)[1:]:
            job.tensors[name] = generator.random(400).astype(np.float32)  # type: ignore[index]
    for row in compare_jobs(jobs).differences:
        assert (row.counts, row.p_value, row.lower) == (None, None, None)
        gaps = jobs[0].wrong(row.first.network) - jobs[1].wrong(row.second.network)
        assert row.difference.value == pytest.approx(float(gaps.mean()), abs=1e-6)
        low, high = stats.t.interval(0.95, 399, gaps.mean(), stats.sem(gaps))
        assert (row.difference.low, row.difference.high) == pytest.approx((low, high), abs=1e-5)


def test_fronts_hold_what_nothing_beats() -> None:
    jobs = [
        make_job("job_a", rates=(0.1, 0.3)),
        make_job("job_b", rates=(0.2, 0.25), targets=(0.6, 0.9), recommended=None),
    ]
    comparison = compare_jobs(jobs)
    assert [front.cost for front in comparison.fronts] == ["size_bytes", "flops", "latency_ms"]
    networks = {(row.job, row.network): row for row in comparison.networks}
    for front in comparison.fronts:
        on_front = {(name.job, name.network) for name in front.networks}
        points = {
            key: (getattr(row, front.cost), row.val_error.value) for key, row in networks.items()
        }
        for key, point in points.items():
            beaten = any(
                other != point and other[0] <= point[0] and other[1] <= point[1]
                for other in points.values()
            )
            assert (key in on_front) is not beaten
        costs = [points[name.job, name.network] for name in front.networks]
        assert costs == sorted(costs)
        assert all(earlier[1] >= later[1] for earlier, later in itertools.pairwise(costs))


def test_latencies_are_ratios_to_the_dense_network_of_all_jobs() -> None:
    first, second = make_job("job_a"), make_job("job_b")
    dense_ms = first.report.baseline.latency_ms[0].p50
    (ratio,) = {row.latency_ms[0].against_given for row in first.report.checkpoints}
    assert ratio is not None
    latencies = {row.network: row.latency_ms for row in compare_jobs([first, second]).networks}
    assert latencies == {
        "given": dense_ms,
        "magnitude-0.5": dense_ms * ratio,
        "magnitude-0.8": dense_ms * ratio,
    }


def test_latencies_of_two_machines_or_two_dense_networks_are_not_compared() -> None:
    first, second = make_job("job_a"), make_job("job_b")
    report = second.report
    machine = report.environment.model_copy(update={"device_name": "another"})
    model = report.model.model_copy(update={"sha256": "cd" * 32})
    for other in ({"environment": machine}, {"model": model}):
        elsewhere = ComparedJob(report.model_copy(update=other), second.tensors)
        comparison = compare_jobs([first, elsewhere])
        assert [front.cost for front in comparison.fronts] == ["size_bytes", "flops"]
        assert {row.latency_ms for row in comparison.networks} == {None}
        assert any("Latencies are not compared" in note for note in comparison.notes)


def test_jobs_without_a_common_image_or_dataset_are_refused() -> None:
    first = make_job("job_a")
    with pytest.raises(DataError, match="share no test image"):
        compare_jobs([first, make_job("job_b", indices=range(400, 500))])
    elsewhere = first.report.data.model_copy(update={"sha256": "ef" * 32, "name": "photos"})
    with pytest.raises(DataError, match="different datasets, digits and photos"):
        compare_jobs([first, make_job("job_b", data=elsewhere)])


def test_without_pairs_fronts_need_no_images() -> None:
    reports_alone = [ComparedJob(make_job(id).report) for id in ("job_a", "job_b")]
    comparison = compare_jobs(reports_alone, paired=False)
    assert (comparison.images, comparison.differences) == (None, ())
    assert len(comparison.networks) == 6
    assert all(isinstance(job.report.baseline, Network) for job in reports_alone)
