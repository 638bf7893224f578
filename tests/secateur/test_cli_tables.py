"""The tables that the command prints: results, members, predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.commands import JOB, PREDICTED, Run
from tests.support.imitation import Imitation, family_results, job, member, results


def test_results_table(finished: Imitation, run: Run) -> None:
    _, out, _ = run("results", "job_12345678")
    for cell in (
        "magnitude-0.8",
        "80.00 %",
        "80.01 %",
        "5.00 % [3.00, 7.00]",
        "+1.30 % [0.10, 2.50]",
        "sparse 7.0 kB, dense 30.0 kB",
        "recommended: magnitude-0.8. Within margin.",
        "gate max_error_inc",
    ):
        assert cell in out


def test_results_show_what_became_faster(finished: Imitation, run: Run) -> None:
    """FLOPs and latencies beside the network as given, of each runtime the smallest batch."""
    answer = results()
    answer["report"]["baseline"] = {"flops": 1000}
    rows = [
        {"runtime": "torch", "threads": 1, "batch": 64, "against_given": 0.9},
        {"runtime": "torch", "threads": 1, "batch": 1, "against_given": 0.8},
        {"runtime": "torch", "threads": 2, "batch": 1, "against_given": 0.71},
        {"runtime": "onnxruntime", "threads": 1, "batch": 1, "against_given": 0.556},
        {"runtime": "onnxruntime", "threads": 2, "batch": 1, "against_given": None},
    ]
    answer["report"]["checkpoints"][0] |= {"flops": 503, "latency_ms": rows}
    finished.on(f"GET {JOB}/results", answer)
    _, out, _ = run("results", "job_12345678")
    assert "50.30 %" in out
    assert "torch 71 %, onnxruntime 56 %" in out


def test_results_of_a_family(finished: Imitation, run: Run, tmp_path: Path) -> None:
    finished.on(f"GET {JOB}/results", family_results())
    code, out, _ = run("results", "job_12345678")
    assert code == 0
    for cell in (
        "12.00 % [11.45, 12.62]",
        "12.08 % [11.47, 12.68]",
        "114 of 754",
        "inside the band",
        "no network gets there",
        "1 of 2 members measured",
        "failed: depth2: out of memory",
        "recommended: magnitude-0.888 of job_00000002. Few enough.",
    ):
        assert cell in out
    untrained = family_results(
        measured=None, measured_parameters=None, within_band=None, status="running"
    )
    finished.on(f"GET {JOB}/results", untrained)
    _, out, _ = run("results", "job_12345678")
    assert "115 of 754" in out
    assert "running" in out


def test_members_are_listed_by_what_tells_them_apart(finished: Imitation, run: Run) -> None:
    finished.on("GET /v1/jobs", {"data": [member(2, "answer"), member(1)], "has_more": False})
    _, out, _ = run("jobs", "list", "--parent", "job_12345678")
    head, answer, first = (line.split() for line in out.strip().split("\n"))
    assert head[:7] == ["id", "status", "role", "depth", "width", "fraction", "seed"]
    assert answer[:7] == ["job_00000002", "succeeded", "answer", "1", "8", "0.25", "0"]
    assert first[2] == "member"
    assert finished.seen("GET /v1/jobs")[-1].query["parent"] == "job_12345678"


def test_predictions_are_a_table(finished: Imitation, run: Run) -> None:
    _, out, _ = run(
        "predict",
        "job_12345678",
        "--density",
        "0.1",
        "--density",
        "0.01",
        "--depth",
        "2",
        "--width",
        "16",
    )
    for cell in (
        "error [90 % band]",
        "10.00 %",
        "12.00 % [11.00, 13.00] (extrapolated)",
        "sparser than any point",
        "insufficient_points: run 3 more",
        "bands are of one more run",
        "one run scatters by 1.40 %",
        "warning: few points",
    ):
        assert cell in out
    assert "depth" not in out
    assert finished.seen(f"POST {JOB}/predict")[-1].json == {
        "densities": [0.1, 0.01],
        "confidence": 0.9,
        "of": "run",
        "depth": 2.0,
        "width": 16.0,
    }


def test_predictions_say_where_the_effect_of_a_seed_comes_from(
    finished: Imitation, run: Run
) -> None:
    for source, words in (("paper", "(the paper's"), ("trials", "(pooled from the runs")):
        law = PREDICTED["law"] | {"seed_sd": 0.034, "seed_sd_from": source}
        finished.on(f"POST {JOB}/predict", PREDICTED | {"law": law})
        _, out, _ = run("predict", "job_12345678", "--density", "0.1")
        assert f"another seed moves a whole curve by 3.40 % {words}" in out


def test_predictions_of_a_family_name_the_networks(finished: Imitation, run: Run) -> None:
    row = PREDICTED["predictions"][0] | {
        "depth": 2.0,
        "width": 16.0,
        "unpruned_error": 0.05,
        "parameters": 114.6,
    }
    finished.on(f"POST {JOB}/predict", PREDICTED | {"criterion": "family", "predictions": [row]})
    _, out, _ = run("predict", "job_12345678", "--max-error", "0.12")
    assert out.split()[:4] == ["depth", "width", "unpruned", "error"]
    for cell in ("2.0", "16.0", "5.00 %", "115", "12.00 % [11.00, 13.00]"):
        assert cell in out


def test_results_of_a_job_without_a_report(finished: Imitation, run: Run) -> None:
    bare: dict[str, Any] = {
        "id": "a",
        "criterion": None,
        "requested_sparsity": None,
        "sparsity": None,
        "density": None,
        "error": None,
        "formats": [],
        "size_bytes": {},
        "sha256": {},
        "links": {},
        "partial": True,
    }
    finished.on(
        f"GET {JOB}/results",
        {
            "job": job("cancelled"),
            "report": None,
            "checkpoints": [bare],
            "recommendation": None,
            "gates": [],
        },
    )
    code, out, _ = run("results", "job_12345678")
    assert code == 4
    assert "job cancelled: these results are partial" in out
    assert run("download", "job_12345678")[0] == 2


def test_results_of_replicates_are_means_and_their_jobs_are_listed(
    finished: Imitation, run: Run
) -> None:
    document = results()
    pooled = document["checkpoints"][0] | {"error": {"value": 0.06, "low": 0.02, "high": 0.1}}
    rows = [{"job": f"job_0000000{seed}", "seed": seed, "status": "succeeded"} for seed in (0, 1)]
    document["report"] = {"checkpoints": [pooled], "replicates": rows}
    document["checkpoints"] = [document["checkpoints"][0] | {"job": row["job"]} for row in rows]
    document["recommendation"]["job"] = "job_00000001"
    finished.on(f"GET {JOB}/results", document)
    _, out, _ = run("results", "job_12345678")
    assert out.count("6.00 % [2.00, 10.00]") == 1
    assert "means over 2 of 2 replicates" in out
    assert "magnitude-0.8 of job_00000001" in out
    place = {"role": "replicate", "seed": 1}
    listed = job(id="job_00000002", parent="job_12345678", member=place)
    finished.on("GET /v1/jobs", {"data": [listed], "has_more": False})
    _, out, _ = run("jobs", "list", "--parent", "job_12345678")
    assert "replicate" in out


def test_an_estimate_says_what_a_job_takes(finished: Imitation, run: Run) -> None:
    estimate = {
        "rounds": 2,
        "steps": 1200,
        "flops": 3e12,
        "memory_bytes": 5_000_000,
        "units": 1000,
        "parts": {"training": 800, "measuring": 100, "losses": 0, "evaluations": 100},
        "evaluations": {"accuracy": 0, "robustness": 100},
        "wall_times": [
            {
                "device": "cpu",
                "device_name": "Xeon",
                "jobs": 9,
                "same_network": True,
                "p50_s": 90.0,
                "p90_s": 120.0,
            }
        ],
        "warnings": ["slow"],
    }
    foreseen = [{"criterion": "magnitude", "sparsity": 0.9, "error": {"value": 0.1}, "remark": "x"}]
    finished.on("POST /v1/jobs", {"valid": True, "estimate": estimate, "foreseen": foreseen})
    flags = ("--model", "mdl_12345678", "--dataset", "builtin:digits", "--sparsity", "0.9")
    code, out, errors = run("jobs", "submit", *flags, "--validate-only")
    assert code == 0
    for text in (
        "would be accepted: 2 rounds, 1,200 steps of training, 3.00 TFLOP, 5.00 MB of memory",
        "about 1 min 30 s on cpu (Xeon), nine in ten jobs like it within 2 min 0 s: from 9 jobs",
        "80.0%",
        "1 min 12 s",
        "evaluation robustness",
        "10.00 %",
    ):
        assert text in out
    assert "accuracy" not in out
    assert "losses" not in out
    assert "warning: slow" in errors


def test_gates_and_granularity_are_flags(finished: Imitation, run: Run) -> None:
    flags = ("--model", "mdl_12345678", "--dataset", "builtin:digits", "--sparsity", "0.9")
    gates = ("--gate", "max_error_increase=0.01", "--gate", "min_prune_potential.fog 3=0.5")
    run("jobs", "submit", *flags, *gates, "--granularity", "channel")
    sent = finished.calls[-1].json
    assert sent["gates"] == {"max_error_increase": 0.01, "min_prune_potential": {"fog 3": 0.5}}
    assert sent["granularity"] == {"name": "channel"}
