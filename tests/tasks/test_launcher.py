"""Processes are what they are asked to be, forked or fresh, and the fork server is replaceable."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile

import pytest

from tasks.helper import clean_environment
from tasks.launcher import PROCESS_ENVIRONMENT, SHARED, ForkServer, Process, kill_group, launch
from tests.support.running import alive
from tests.support.servers import until

CHILD = "tests.support.child_process"
NULL = os.open(os.devnull, os.O_RDWR)


def run(*arguments: str, fresh: bool = False) -> tuple[int, str]:
    """Return the exit status and the standard error of a process."""
    with TemporaryFile() as errors:
        process = launch(
            CHILD,
            list(arguments),
            streams=(NULL, NULL, errors),
            environment=clean_environment(),
            fresh=fresh,
        )
        status = process.wait(60)
        errors.seek(0)
        return status, errors.read().decode()


def sleeper() -> Process:
    return launch(CHILD, ["sleep"], streams=(NULL, NULL, NULL), environment=clean_environment())


@pytest.mark.parametrize("fresh", [False, True], ids=["forked", "fresh"])
def test_the_exit_status_is_that_of_main(fresh: bool) -> None:
    assert run("return", "0", fresh=fresh) == (0, "")
    assert run("return", "7", fresh=fresh)[0] == 7
    assert run("exit", "3", fresh=fresh)[0] == 3
    assert run("exit with a message", fresh=fresh) == (1, "a message\n")
    status, errors = run("raise", fresh=fresh)
    assert status == 1
    assert "RuntimeError: broken on purpose" in errors
    assert run("signal", "SIGKILL", fresh=fresh)[0] == -signal.SIGKILL


@pytest.mark.parametrize("fresh", [False, True], ids=["forked", "fresh"])
def test_a_process_has_its_streams_its_channel_and_nothing_else(
    fresh: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECATEUR_API_KEY", "secret")
    read, write = os.pipe()
    with TemporaryFile() as question, TemporaryFile() as out, TemporaryFile() as errors:
        question.write(b"a question")
        question.seek(0)
        process = launch(
            CHILD,
            ["describe", "{channel}"],
            streams=(question, out, errors),
            environment=clean_environment(),
            channel=write,
            fresh=fresh,
        )
        os.close(write)
        assert process.wait(60) == 0
        out.seek(0)
        errors.seek(0)
        assert out.read() == b"out a question\n"
        assert errors.read() == b"err\n"
    seen = json.loads(os.read(read, 65536))
    os.close(read)
    assert seen["pid"] == seen["group"] == seen["session"] == process.pid
    assert seen["environment"].items() >= PROCESS_ENVIRONMENT.items()
    assert "SECATEUR_API_KEY" not in seen["environment"]
    assert len(seen["descriptors"]) == 4
    assert seen["has_torch"] is not fresh


def test_waiting_has_a_limit_and_a_whole_group_is_killed() -> None:
    process = sleeper()
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.05)
    kill_group(process)
    assert process.wait(10) == -signal.SIGKILL
    assert process.poll() == -signal.SIGKILL
    kill_group(process)
    until(lambda: process.pid not in alive(), "the process is reaped")


def test_a_process_is_started_and_awaited_where_many_files_are_open() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1200:
        pytest.skip("no more than 1,200 files may be open")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1200), hard))
    files = [os.dup(NULL) for _ in range(1050)]
    try:
        assert run("return", "4")[0] == 4
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_threads_that_start_and_watch_processes_at_once_do_not_meet() -> None:
    statuses: dict[int, int] = {}

    def work(number: int) -> None:
        statuses[number] = run("return", str(number))[0]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert statuses == {number: number for number in range(12)}


@pytest.fixture
def server() -> Iterator[ForkServer]:
    """Return a fork server of this test."""
    server = ForkServer(bare=True)
    yield server
    server.close()


def fork(server: ForkServer, *arguments: str) -> Process:
    return server.fork(CHILD, list(arguments), [NULL, NULL, NULL], clean_environment())


def test_a_server_that_dies_takes_its_children_along_and_is_replaced(server: ForkServer) -> None:
    sleeping = fork(server, "sleep")
    [server_pid] = [pid for pid in alive() if pid == server.pid]
    assert len(list(Path(f"/proc/{server_pid}/task").iterdir())) == 1, (
        "a thread would not be forked"
    )
    os.kill(server_pid, signal.SIGKILL)
    assert sleeping.wait(10) == -signal.SIGKILL
    until(lambda: sleeping.pid not in alive(), "the child is gone")
    assert fork(server, "return", "5").wait(60) == 5
    assert server.pid != server_pid


def test_a_process_that_cannot_be_forked_is_an_error_and_the_others_go_on(
    server: ForkServer,
) -> None:
    sleeping = fork(server, "sleep")
    server_pid = server.pid
    assert server_pid is not None
    limits = resource.prlimit(server_pid, resource.RLIMIT_NOFILE)
    # Without descriptors to spare the message arrives without those of the new process.
    resource.prlimit(server_pid, resource.RLIMIT_NOFILE, (8, limits[1]))
    with pytest.raises(OSError, match="could not start a process"):
        fork(server, "return", "0")
    resource.prlimit(server_pid, resource.RLIMIT_NOFILE, limits)
    assert fork(server, "return", "6").wait(60) == 6
    assert server.pid == server_pid
    assert sleeping.poll() is None


def test_closing_the_server_ends_its_children(server: ForkServer) -> None:
    sleeping = fork(server, "sleep")
    server.close()
    assert sleeping.wait(10) == -signal.SIGKILL
    until(lambda: sleeping.pid not in alive(), "the child is gone")


@pytest.fixture
def listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Return the socket of a fork server that several clients share; it runs nowhere yet."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        monkeypatch.setenv(SHARED, str(tmp_path / "s"))
        yield listener


def serve_on(listener: socket.socket) -> subprocess.Popen[bytes]:
    number = str(listener.fileno())
    return subprocess.Popen(
        [sys.executable, "-m", "tasks.processes.forkserver", number, "--listen", "--bare"],
        pass_fds=[listener.fileno()],
    )


def test_clients_of_a_shared_server_take_only_their_own_children_along(
    listener: socket.socket,
) -> None:
    first, second = ForkServer(), ForkServer()
    with serve_on(listener) as process:
        try:
            own, other = fork(first, "sleep"), fork(second, "sleep")
            assert first.pid is second.pid is None
            first.close()
            assert own.wait(10) == -signal.SIGKILL
            assert other.poll() is None
            assert fork(first, "return", "3").wait(60) == 3
            second.close()
            assert other.wait(10) == -signal.SIGKILL
            assert process.poll() is None
        finally:
            first.close()
            second.close()
            process.kill()


def test_a_shared_server_that_dies_is_replaced_by_the_one_that_listens_next(
    listener: socket.socket,
) -> None:
    client = ForkServer()
    with serve_on(listener) as process:
        sleeping = fork(client, "sleep")
        process.kill()
    assert sleeping.wait(10) == -signal.SIGKILL
    with serve_on(listener) as process:
        try:
            assert fork(client, "return", "4").wait(60) == 4
        finally:
            client.close()
            process.kill()
