"""The progress that a job process reports."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import pytest

from tasks.processes.pipe import Pipe


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that reports work at chosen moments and returns the messages."""

    def send(*moments: tuple[float, float], total: float = 10.0) -> list[dict[str, Any]]:
        read, write = os.pipe()
        now = 0.0
        monkeypatch.setattr(time, "monotonic", lambda: now)
        pipe = Pipe(write)
        for seconds, done in moments:
            now += seconds
            pipe.progress(done, total)
        pipe._file.close()
        with os.fdopen(read) as lines:
            return [json.loads(line) for line in lines]

    return send


def progress(done: float) -> dict[str, Any]:
    return {"type": "progress", "done": done, "total": 10.0}


ALIVE = {"type": "alive"}


def test_as_much_as_before_is_a_sign_of_life_and_no_progress(sent: Any) -> None:
    assert sent((1, 2.0), (1, 2.0), (1, 2.0), (1, 3.0)) == [
        progress(2.0),
        ALIVE,
        ALIVE,
        progress(3.0),
    ]


def test_at_most_two_messages_a_second_but_the_end_is_told_once(sent: Any) -> None:
    assert sent(
        (1, 1.0), (0.1, 2.0), (0.1, 3.0), (0.4, 4.0), (0.1, 10.0), (0.1, 10.0), (0.1, 10.0)
    ) == [progress(1.0), progress(4.0), progress(10.0)]
