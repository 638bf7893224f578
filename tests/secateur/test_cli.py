"""The command: exit codes, and stdout that holds one JSON document."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from secateur import ConnectionFailed, Event
from secateur.cli.watch import Display
from tests.support.commands import FLAGS, JOB, ROWS, Run
from tests.support.imitation import (
    WEIGHTS,
    Answer,
    Imitation,
    family_results,
    job,
    problem,
    results,
    row,
)

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
            lambda service: service.on(f"GET {JOB}/results", results(outcome="undecided")),
            ["results", "job_12345678"],
            6,
        ),
        (
            lambda service: service.on(f"GET {JOB}/results", results(outcome="failed")),
            ["results", "job_12345678"],
            1,
        ),
        (
            lambda service: service.on(f"GET {JOB}/results", results(outcome="passed")),
            ["results", "job_12345678"],
            0,
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
    assert code in (0, 1, 3, 6) or err != ""
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


def test_the_network_that_a_family_recommends_is_its_members(
    finished: Imitation, run: Run, tmp_path: Path
) -> None:
    finished.on(f"GET {JOB}/results", family_results())
    finished.on("GET /v1/jobs/job_00000002/checkpoints/magnitude-0.888", Answer(200, WEIGHTS))
    code, out, _ = run("download", "job_12345678", "--out", str(tmp_path))
    assert code == 0
    assert Path(out.strip()) == tmp_path / "job_00000002-magnitude-0.888-sparse.safetensors"


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


def test_the_widths_come_with_a_network_without_channels(
    finished: Imitation, run: Run, tmp_path: Path
) -> None:
    answer = results()
    checkpoint = answer["checkpoints"][0]
    checkpoint["formats"] += ["arch", "onnx", "compressed"]
    checkpoint["sha256"] = dict.fromkeys(checkpoint["formats"], checkpoint["sha256"]["sparse"])
    finished.on(f"GET {JOB}/results", answer)
    for format, endings in (
        ("dense", ["dense.safetensors", "arch.json"]),
        ("onnx", ["onnx.onnx"]),
        ("compressed", ["compressed.xz", "arch.json"]),
        ("arch", ["arch.json"]),
    ):
        _, out, _ = run("download", "job_12345678", "--format", format, "--out", str(tmp_path))
        names = [Path(line).name for line in out.split()]
        assert names == [f"job_12345678-magnitude-0.8-{ending}" for ending in endings]


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
