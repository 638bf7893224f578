"""Questions to the short-lived helper process that may import torch.

Only a few helpers run at a time; estimates and layers are remembered. A request that waits for a
free helper or for an answer waits on the event loop: only a running helper occupies a thread.
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

VERBS = ("model", "layers", "dataset", "estimate")
UNRELATED = ("labels", "priority", "deadline_s", "seed", "device")
"""Fields of a job that change no estimate."""
Answer = dict[str, Any]


class HelperPool:
    """Runs at most `limit` helpers of each verb at a time, and keeps the newest `size` answers to
    questions of estimates and layers.

    Verbs do not wait for each other: while a large dataset is decoded, estimates go on. A pool
    belongs to one event loop.
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
        self._slots = {verb: asyncio.Semaphore(limit) for verb in VERBS}
        self._timeout_s = timeout_s
        self._wait_s = wait_s
        self._memory_limit_bytes = memory_limit_bytes
        self._size = size
        self._answers: OrderedDict[str, asyncio.Task[Answer]] = OrderedDict()

    async def ask(
        self,
        verb: str,
        payload: dict[str, Any],
        *,
        base: str = "",
        subject: str = "",
        timeout_s: float | None = None,
    ) -> Answer:
        """Return the helper's answer; its refusal is raised as a problem.

        Raises a 503 when no helper is free within `wait_s`. A refusal without a pointer is about
        `subject`. A pointer that is a field's name (`hidden.0`) means one of the architecture's
        arguments, which are at `base`.
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
        """Return what the job will cost.

        Equal questions share one helper, also while its answer is awaited.
        """
        spec = {name: value for name, value in payload["spec"].items() if name not in UNRELATED}
        return await self._ask_once("estimate", payload, {**payload, "spec": spec})

    async def list_layers(
        self, architecture: str, kwargs: dict[str, Any], modules: dict[str, Any] | None = None
    ) -> Answer:
        """Return the layers of a network; `modules` are its widths where it has lost channels.

        Equal questions share one helper, also while its answer is awaited.
        """
        payload = {"architecture": architecture, "kwargs": kwargs, "modules": modules}
        return await self._ask_once("layers", payload, payload)

    async def _ask_once(self, verb: str, payload: dict[str, Any], question: Answer) -> Answer:
        """Return the answer to a question, from memory where it was asked before."""
        key = json.dumps([verb, question], sort_keys=True)
        task = self._answers.get(key)
        if task is None:
            task = asyncio.create_task(self.ask(verb, payload, base="/model/kwargs"))
            self._answers[key] = task
            task.add_done_callback(partial(self._remember, key))
        elif task.done():
            self._answers.move_to_end(key)
        # A caller that leaves must not cancel the task that others wait for.
        return await asyncio.shield(task)

    def _remember(self, key: str, task: asyncio.Task[Answer]) -> None:
        """Forget a failure, and the oldest answers above `size`; unfinished tasks stay."""
        if task.cancelled() or task.exception() is not None:
            del self._answers[key]
            return
        self._answers.move_to_end(key)
        done = [other for other, answer in self._answers.items() if answer.done()]
        for other in done[: -self._size]:
            del self._answers[other]


def _to_problem(error: tasks.helper.HelperError, base: str, subject: str) -> Problem:
    """Return a 422 with the refusal's code and pointer, or a 5xx for a fault of the service."""
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
    fault = Fault(pointer, error.code, error.message)
    return Problem(422, error.code, error.message, errors=[fault])
