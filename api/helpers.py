"""Questions to the short-lived helper process that may import torch: few at a time, estimates remembered."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from typing import Any

import tasks.helper
from api.errors import Fault, Problem

UNRELATED = ("labels", "priority", "deadline_s")
"""Fields of a job that change no estimate."""


class Helpers:
    """Runs at most `limit` helpers at a time and keeps the newest `size` estimates."""

    def __init__(self, limit: int, timeout_s: float, memory_limit_bytes: int | None = None, size: int = 256) -> None:
        self._slots = threading.BoundedSemaphore(limit)
        self._timeout_s = timeout_s
        self._memory_limit_bytes = memory_limit_bytes
        self._size = size
        self._estimates: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def ask(self, verb: str, payload: dict[str, Any], *, base: str = "",
            timeout_s: float | None = None) -> dict[str, Any]:
        """The helper's answer; its refusal becomes a 422 with its code and pointer.

        A pointer that is a field's name (`hidden.0`) is one of the architecture's arguments, which are at `base`.
        """
        if not self._slots.acquire(timeout=self._timeout_s):
            raise Problem(503, "busy", "too many uploads and estimates at once; try again shortly",
                          headers={"Retry-After": "10"})
        try:
            return tasks.helper.run_helper(verb, payload, timeout_s=timeout_s or self._timeout_s,
                                           memory_limit_bytes=self._memory_limit_bytes)
        except tasks.helper.HelperError as error:
            pointer = error.pointer or ""
            if pointer and not pointer.startswith("/"):
                pointer = f"{base}/{pointer.replace('.', '/')}"
            raise Problem(422, error.code, error.message, errors=[Fault(pointer, error.code, error.message)]) from None
        finally:
            self._slots.release()

    def estimate(self, payload: dict[str, Any]) -> dict[str, Any]:
        """What the job will cost; the same question is asked once."""
        spec = {name: value for name, value in payload["spec"].items() if name not in UNRELATED}
        key = json.dumps({**payload, "spec": spec}, sort_keys=True)
        with self._lock:
            if key in self._estimates:
                self._estimates.move_to_end(key)
                return self._estimates[key]
        answer = self.ask("estimate", payload, base="/model/kwargs")
        with self._lock:
            self._estimates[key] = answer
            while len(self._estimates) > self._size:
                self._estimates.popitem(last=False)
        return answer
