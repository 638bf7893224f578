"""Questions to the short-lived helper process that may import torch: few at a time, estimates
remembered.

Who waits, for a slot or for an answer, waits on the event loop: no thread is held but that of a
running helper.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from functools import partial
from typing import Any

from starlette.concurrency import run_in_threadpool

import tasks.helper
from api.errors import Fault, Problem, build_disk_full_problem

UNRELATED = ("labels", "priority", "deadline_s", "seed", "device")
"""Fields of a job that change no estimate."""
Answer = dict[str, Any]


class HelperPool:
    """Runs at most `limit` helpers of a kind at a time and keeps the newest `size` estimates; for
    one event loop.

    Kinds do not wait for each other: a large dataset that is being decoded holds up no estimate.
    """

    def __init__(
        self,
        limit: int,
        *,
        timeout_s: float,
        wait_s: float,
        memory_limit_bytes: int | None = None,
        size: int = 256,
    ) -> None:
        self._slots = {verb: asyncio.Semaphore(limit) for verb in ("model", "dataset", "estimate")}
        self._timeout_s, self._wait_s = timeout_s, wait_s
        self._memory_limit_bytes = memory_limit_bytes
        self._size = size
        self._estimates: OrderedDict[str, asyncio.Task[Answer]] = OrderedDict()

    async def ask(
        self,
        verb: str,
        payload: dict[str, Any],
        *,
        base: str = "",
        subject: str = "",
        timeout_s: float | None = None,
    ) -> Answer:
        """The helper's answer; its refusal becomes a problem; 503 when no helper is free within
        `wait_s`.

        A refusal that points nowhere is about `subject`.

        A pointer that is a field's name (`hidden.0`) is one of the architecture's arguments, which
        are at `base`.
        """
        try:
            async with asyncio.timeout(self._wait_s):
                await self._slots[verb].acquire()
        except TimeoutError:
            raise Problem(
                503,
                "busy",
                "too many uploads and estimates at once; try again shortly",
                headers={"Retry-After": "10"},
            ) from None
        try:
            return await run_in_threadpool(
                partial(
                    tasks.helper.run_helper,
                    verb,
                    payload,
                    timeout_s=timeout_s or self._timeout_s,
                    memory_limit_bytes=self._memory_limit_bytes,
                )
            )
        except tasks.helper.HelperError as error:
            raise _to_problem(error, base, subject) from None
        finally:
            self._slots[verb].release()

    async def estimate(self, payload: dict[str, Any]) -> Answer:
        """What the job will cost; the same question is asked once, also while its answer is under
        way.
        """
        spec = {name: value for name, value in payload["spec"].items() if name not in UNRELATED}
        key = json.dumps({**payload, "spec": spec}, sort_keys=True)
        task = self._estimates.get(key)
        if task is None:
            task = asyncio.create_task(self.ask("estimate", payload, base="/model/kwargs"))
            self._estimates[key] = task
            task.add_done_callback(partial(self._keep, key))
        elif task.done():
            self._estimates.move_to_end(key)
        return await asyncio.shield(task)  # a caller that leaves takes the answer from nobody else

    def _keep(self, key: str, task: asyncio.Task[Answer]) -> None:
        """Forget a failure, and the oldest answers above `size`; what is under way stays."""
        if task.cancelled() or task.exception() is not None:
            del self._estimates[key]
            return
        self._estimates.move_to_end(key)
        done = [name for name, other in self._estimates.items() if other.done()]
        for name in done[: -self._size]:
            del self._estimates[name]


def _to_problem(error: tasks.helper.HelperError, base: str, subject: str) -> Problem:
    """422 with the refusal's code and pointer; a fault of the service is no fault of the
    request.
    """
    match error.code:
        case "disk_full":
            return build_disk_full_problem()
        case "helper_crashed":
            return Problem(
                500,
                error.code,
                "the process that reads uploads and estimates jobs ended unexpectedly; "
                "quote the request_id when you report it",
            )
        case "helper_timeout":
            return Problem(503, error.code, error.message, headers={"Retry-After": "30"})
    pointer = error.pointer or subject
    if pointer and not pointer.startswith("/"):
        pointer = f"{base}/{pointer.replace('.', '/')}"
    return Problem(
        422, error.code, error.message, errors=[Fault(pointer, error.code, error.message)]
    )
