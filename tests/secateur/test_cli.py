"""The command: exit codes, and stdout that holds one JSON document."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
from rich.console import Console

from pruning.schemas.recipe import Retrain
from secateur import ConnectionFailed, Event
from secateur.cli import main
from secateur.cli.watch import Display
from tests.support.imitation import (
    WEIGHTS,
    Answer,
    Imitation,
    family_results,
    job,
    member,
    problem,
    results,
    row,
    sse,
)

JOB = "/v1/jobs/job_12345678"
ROWS = (
    row(1, "status", status="running"),
    row(2, "stage", stage="prune", name="prune [0.5]"),
    row(3, "progress", done=1, total=2, eta_s=3700.4),
    row(4, "checkpoint", id="magnitude-0.8", sparsity=0.8, error={"value": 0.05}),
    row(5, "warning", message="slow"),
    row(6, "attempt", attempt=2, reason="lease lost"),
    row(7, "unheard_of", x=1),
    row(8, "status", status="succeeded"),
)
PREDICTED: dict[str, Any] = {
    "criterion": "magnitude",
    "confidence": 0.9,
    "law": {"sigma": 0.014, "warnings": ["few points"]},
    "predictions": [
        {
            "density": 0.1,
            "sparsity": 0.9,
            "error": {"value": 0.12, "low": 0.11, "high": 0.13, "n": 18},
            "extrapolated": True,
            "remark": "sparser than any point",
        },
        {
            "density": 0.01,
            "sparsity": 0.99,
            "error": None,
            "extrapolated": None,
            "remark": "insufficient_points: run 3 more",
        },
    ],
}
FLAGS = ["--model", "mdl_12345678", "--dataset", "builtin:digits", "--sparsity", "0.5"]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    service: Imitation, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    monkeypatch.setenv("SECATEUR_URL", service.url)
    monkeypatch.setenv("SECATEUR_API_KEY", "key")

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def finished(service: Imitation) -> Imitation:
    """A service with one job that runs to its end."""
    service.on("POST /v1/jobs", Answer(202, job("queued")))
    service.on(f"GET {JOB}", job())
    service.on(f"GET {JOB}/results", results())
    service.on(
        f"GET {JOB}/events",
        lambda call: (
            sse(*ROWS)
            if "event-stream" in call.headers["accept"]
            else Answer(200, {"data": [], "has_more": False})
        ),
    )
    for verb in ("cancel", "pause", "resume", "retry"):
        service.on(f"POST {JOB}/{verb}", Answer(202, job("running")))
    service.on(
        f"GET {JOB}/report",
        lambda call: Answer(
            200, b'{"schema_version": 1}' if call.query["format"] == "json" else b"# Report"
        ),
    )
    service.on(f"GET {JOB}/checkpoints/magnitude-0.8", Answer(200, WEIGHTS))
    service.on("GET /version", {"version": "0.1.0"})
    service.on(
        "GET /v1/methods",
        {"criteria": [{"name": "magnitude", "summary": "size", "params": {}}], "schedules": []},
    )
    for kind, identifier in (("models", "mdl_12345678"), ("datasets", "dst_12345678")):
        service.on(f"POST /v1/{kind}", Answer(201, {"id": identifier}))
        service.on(
            f"GET /v1/{kind}", {"data": [{"id": identifier, "name": "[b]n[/b]"}], "has_more": False}
        )
        service.on(f"GET /v1/{kind}/{identifier}", {"id": identifier})
        service.on(f"DELETE /v1/{kind}/{identifier}", Answer(204))
    service.on("GET /v1/jobs", {"data": [job()], "has_more": False})
    service.on(f"POST {JOB}/predict", PREDICTED)
    return service


COMMANDS = [
    ["version"],
    ["methods"],
    ["methods", "criteria"],
    ["models", "list"],
    ["models", "show", "mdl_12345678"],
    ["models", "delete", "mdl_12345678"],
    ["models", "upload", "FILE", "--architecture", "mlp", "--classes", '["a"]'],
    ["datasets", "list"],
    ["datasets", "show", "dst_12345678"],
    ["datasets", "delete", "dst_12345678"],
    ["datasets", "upload", "FILE"],
    ["jobs", "submit", *FLAGS],
    ["jobs", "submit", *FLAGS, "--validate-only"],
    ["jobs", "submit", *FLAGS, "--watch"],
    ["jobs", "watch", "job_12345678"],
    ["jobs", "list", "--limit", "200"],
    ["jobs", "show", "job_12345678"],
    *(["jobs", verb, "job_12345678"] for verb in ("cancel", "pause", "resume", "retry")),
    ["jobs", "list", "--parent", "none"],
    ["predict", "job_12345678", "--max-error", "0.1"],
    [
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
    ],
    ["results", "job_12345678"],
    ["download", "job_12345678", "--out", "DIR"],
    ["download", "job_12345678", "--checkpoint", "all", "--out", "DIR"],
    ["report", "job_12345678"],
    ["report", "job_12345678", "--format", "json"],
    ["report", "job_12345678", "--format", "html", "--out", "DIR/report.html"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_speaks_json_and_plain(
    finished: Imitation, run: Run, tmp_path: Path, command: list[str]
) -> None:
    (tmp_path / "file").write_bytes(WEIGHTS)
    given = [
        each.replace("FILE", str(tmp_path / "file")).replace("DIR", str(tmp_path))
        for each in command
    ]
    code, out, _ = run(*given, "--json")
    assert code == 0
    assert isinstance(json.loads(out), dict)
    code, plain, _ = run(*given)
    assert code == 0
    assert plain != ""


def _problem(status: int) -> Callable[[Imitation], None]:
    return lambda service: service.on(f"GET {JOB}/results", problem(status, "refused", "because"))


def _failed(service: Imitation) -> None:
    service.on(f"GET {JOB}", job("failed", error={"code": "oom", "message": "too large"}))


@pytest.mark.parametrize(
    ("change", "command", "code"),
    [
        (lambda service: None, ["results", "job_12345678"], 0),
        (
            lambda service: service.on(f"GET {JOB}/results", results(passed=False)),
            ["results", "job_12345678"],
            1,
        ),
        (
            lambda service: service.on(f"GET {JOB}/results", results(passed=False)),
            ["jobs", "watch", "job_12345678"],
            1,
        ),
        (
            lambda service: service.on(f"GET {JOB}/results", results(passed=False)),
            ["jobs", "submit", *FLAGS, "--watch"],
            1,
        ),
        (
            lambda service: service.on(f"GET {JOB}/results", results(status="failed")),
            ["results", "job_12345678"],
            3,
        ),
        (_problem(400), ["results", "job_12345678"], 2),
        (_problem(404), ["results", "job_12345678"], 2),
        (_problem(422), ["results", "job_12345678"], 2),
        (_problem(401), ["results", "job_12345678"], 5),
        (_problem(403), ["results", "job_12345678"], 5),
        (_problem(500), ["results", "job_12345678"], 5),
        (_failed, ["jobs", "watch", "job_12345678"], 3),
        (
            lambda service: service.on(f"GET {JOB}", job("cancelled")),
            ["jobs", "watch", "job_12345678"],
            4,
        ),
        (
            lambda service: service.on(f"GET {JOB}", job("running")),
            ["jobs", "watch", "job_12345678", "--timeout", "0"],
            4,
        ),
        (lambda service: None, ["results"], 2),
        (lambda service: None, ["predict", "job_12345678"], 2),
        (
            lambda service: None,
            ["predict", "job_12345678", "--density", "0.1", "--max-error", "0.1"],
            2,
        ),
        (lambda service: None, ["predict", "job_12345678", "--density", "1.5"], 2),
        (
            lambda service: service.on(f"POST {JOB}/predict", problem(422, "unreachable", "no")),
            ["predict", "job_12345678", "--max-error", "0.1"],
            2,
        ),
        (
            lambda service: service.on(
                f"POST {JOB}/predict", problem(409, "job_not_finished", "wait")
            ),
            ["predict", "job_12345678", "--max-error", "0.1"],
            2,
        ),
        (
            lambda service: service.on(f"POST {JOB}/predict", problem(500, "broken")),
            ["predict", "job_12345678", "--max-error", "0.1"],
            5,
        ),
        (
            lambda service: service.on(f"GET {JOB}/results", family_results("failed")),
            ["results", "job_12345678"],
            3,
        ),
        (lambda service: None, ["results", ".."], 2),
        (lambda service: None, ["jobs", "submit"], 2),
        (lambda service: None, ["jobs", "submit", *FLAGS, "--watch", "--validate-only"], 2),
        (lambda service: None, ["jobs", "submit", *FLAGS, "--retrain", "sometimes"], 2),
        (lambda service: None, ["jobs", "submit", "/nowhere.json"], 2),
        (lambda service: None, ["jobs", "submit", "--dataset", "bundled:x"], 2),
        (lambda service: None, ["models", "upload", "/nowhere", "--architecture", "mlp"], 2),
        (
            lambda service: None,
            ["models", "upload", __file__, "--architecture", "mlp", "--kwargs", "[1]"],
            2,
        ),
        (
            lambda service: None,
            ["models", "upload", __file__, "--architecture", "mlp", "--kwargs", "{"],
            2,
        ),
        (lambda service: None, ["methods", "nonsense"], 2),
        (lambda service: None, ["download", "job_12345678", "--checkpoint", "nonsense"], 2),
        (
            lambda service: service.on(
                f"GET {JOB}/checkpoints/magnitude-0.8", Answer(200, b"other")
            ),
            ["download", "job_12345678"],
            5,
        ),
    ],
)
def test_exit_codes(
    finished: Imitation,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Imitation], None],
    command: list[str],
    code: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    change(finished)
    assert run(*command)[0] == code
    given, out, err = run(*command, "--json")
    assert given == code
    document = json.loads(out)
    assert ("error" in document) == (code in (2, 5))
    assert code in (0, 1, 3) or err != ""
    assert list(tmp_path.iterdir()) == []


def test_unreachable_service_is_5(
    run: Run, service: Imitation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECATEUR_URL", "nowhere:1")
    code, out, err = run("models", "list", "--json")
    assert code == 5
    assert json.loads(out)["error"]["code"] == "connection"
    assert "no answer from nowhere:1" in err
    code, out, _ = run("version", "--json")
    assert (code, json.loads(out)["server"]) == (0, None)


def test_interrupted_watch_leaves_the_job_running(
    finished: Imitation, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: Display, event: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Display, "show", interrupt)
    code, out, err = run("jobs", "watch", "job_12345678", "--json")
    assert code == 4
    assert json.loads(out)["stopped"] == "interrupted"
    assert "job job_12345678 goes on. Watch it again: secateur jobs watch job_12345678" in err
    assert finished.seen(f"POST {JOB}/cancel") == []


def test_watch_shows_what_happens(finished: Imitation, run: Run) -> None:
    _, out, err = run("jobs", "watch", "job_12345678")
    assert out == "job_12345678 succeeded\n"
    for line in (
        "status running",
        "stage prune [0.5]",
        "checkpoint magnitude-0.8: sparsity 80.00 %, error 5.00 %",
        "warning: slow",
        "attempt 2: lease lost",
        "gate max_error_increase passed",
    ):
        assert line in err


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


def test_the_network_that_a_family_recommends_is_its_members(
    finished: Imitation, run: Run, tmp_path: Path
) -> None:
    finished.on(f"GET {JOB}/results", family_results())
    finished.on("GET /v1/jobs/job_00000002/checkpoints/magnitude-0.888", Answer(200, WEIGHTS))
    code, out, _ = run("download", "job_12345678", "--out", str(tmp_path))
    assert code == 0
    assert Path(out.strip()) == tmp_path / "job_00000002-magnitude-0.888-sparse.safetensors"


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
        "one run scatters by 1.40 %",
        "warning: few points",
    ):
        assert cell in out
    assert "depth" not in out
    assert finished.seen(f"POST {JOB}/predict")[-1].json == {
        "densities": [0.1, 0.01],
        "confidence": 0.9,
        "depth": 2.0,
        "width": 16.0,
    }


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


def test_a_family_comes_from_a_file(finished: Imitation, run: Run, tmp_path: Path) -> None:
    spec = {
        "type": "family",
        "model": {"architecture": "mlp", "train": {"epochs": 2}},
        "dataset": {"builtin": "digits"},
        "members": {"depths": [1, 2], "widths": [8, 16]},
    }
    file = tmp_path / "family.json"
    file.write_text(json.dumps(spec))
    assert run("jobs", "submit", str(file), "--dataset", "dst_12345678")[0] == 0
    assert finished.seen("POST /v1/jobs")[-1].json == spec | {"dataset": {"id": "dst_12345678"}}
    code, _, err = run("jobs", "submit", str(file), "--sparsity", "0.5", "--seed", "0")
    assert code == 2
    assert "--sparsity, --seed" in " ".join(err.split())
    file.write_text(json.dumps({"type": "family", "model": {}, "dataset": {}}))
    code, _, err = run("jobs", "submit", str(file))
    assert code == 2
    assert "lacks members" in " ".join(err.split())


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


def test_bar_does_not_read_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = io.StringIO()
    terminal = Console(file=drawn, force_terminal=True, width=120, markup=False, highlight=False)
    monkeypatch.setattr("secateur.cli.watch.err", terminal)
    monkeypatch.setattr("secateur.cli.console.err", terminal)
    with Display() as display:
        for each in (row(1, "stage", name="[/b]"), *ROWS):
            display.show(Event.model_validate(each))
    assert "stage [/b]" in drawn.getvalue()
    assert "about 1:01:40 left" in drawn.getvalue()


def test_download_names_the_files(finished: Imitation, run: Run, tmp_path: Path) -> None:
    _, out, _ = run("download", "job_12345678", "--out", str(tmp_path / "new"))
    file = Path(out.strip())
    assert file == tmp_path / "new" / "job_12345678-magnitude-0.8-sparse.safetensors"
    assert file.read_bytes() == WEIGHTS


@pytest.mark.parametrize("mode", get_args(Retrain.model_fields["mode"].annotation))
def test_every_way_to_retrain_is_a_flag(finished: Imitation, run: Run, mode: str) -> None:
    assert run("jobs", "submit", *FLAGS, "--retrain", mode)[0] == 0
    assert finished.seen("POST /v1/jobs")[-1].json["retrain"] == {"mode": mode}


def test_flags_override_the_file(
    finished: Imitation, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = {
        "type": "prune",
        "model": {"id": "mdl_00000000"},
        "dataset": {"id": "dst_00000000", "limit": {"train": 9}},
        "targets": {"sparsity": [0.9]},
        "retrain": {"epochs": 3, "batch_size": 7},
        "labels": {"a": "b"},
    }
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    submitted = finished.seen("POST /v1/jobs")

    def sent(*flags: str) -> Any:
        assert run("jobs", "submit", *flags)[0] == 0
        return finished.seen("POST /v1/jobs")[-1].json

    assert submitted == []
    assert sent(str(tmp_path / "spec.json")) == spec
    preset = {"type": "prune", "preset": "resnet20", "dataset": {"builtin": "digits"}}
    (tmp_path / "preset.json").write_text(json.dumps(preset))
    assert sent(str(tmp_path / "preset.json")) == preset
    assert sent(
        str(tmp_path / "spec.json"),
        *FLAGS,
        "--sparsity",
        "0.8",
        "--criterion",
        "obd",
        "--epochs",
        "2",
        "--retrain",
        "lr_rewind",
        "--seed",
        "5",
    ) == spec | {
        "model": {"id": "mdl_12345678"},
        "dataset": {"builtin": "digits", "limit": {"train": 9}},
        "targets": {"sparsity": [0.5, 0.8]},
        "criterion": {"name": "obd"},
        "seed": 5,
        "retrain": {"mode": "lr_rewind", "epochs": 2, "batch_size": 7},
    }
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(spec)))
    assert sent(
        "-",
        "--retrain",
        "none",
        "--criterion",
        "obd",
        "--criterion",
        "snip",
        "--idempotency-key",
        "k",
    ) == spec | {"retrain": {"mode": "none"}, "criterion": [{"name": "obd"}, {"name": "snip"}]}
    assert finished.calls[-1].headers["idempotency-key"] == "k"


@pytest.mark.parametrize(
    ("command", "module", "function", "expected"),
    [
        (
            ["serve", "--port", "1", "--data-dir", "d"],
            "tasks.embedded",
            "serve",
            ("127.0.0.1", 1, Path("d"), 1),
        ),
        (
            ["serve", "--workers", "3"],
            "tasks.embedded",
            "serve",
            ("127.0.0.1", 8000, Path("secateur-data"), 3),
        ),
        (["api", "--host", "::"], "api.main", "run", ("::", 8000)),
        (["worker", "--concurrency", "2"], "tasks.worker", "run", (2,)),
    ],
)
def test_servers_are_called_lazily(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
    module: str,
    function: str,
    expected: tuple[Any],
) -> None:
    def record(*arguments: Any) -> int:
        assert arguments == expected
        return 7

    stand_in = ModuleType(module)
    setattr(stand_in, function, record)
    monkeypatch.setitem(sys.modules, module, stand_in)
    assert run(*command)[0] == 7
    monkeypatch.setitem(sys.modules, module, None)
    code, _, err = run(*command)
    assert code == 2
    assert "install secateur[server]" in err


def test_lost_watch_is_a_connection_error(
    finished: Imitation, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(self: Display, event: object) -> None:
        raise ConnectionFailed("lost")

    monkeypatch.setattr(Display, "show", lose)
    assert run("jobs", "watch", "job_12345678")[0] == 5
