"""The pipe from a job process to its supervisor: one JSON line for each message."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PROGRESS_S = 0.5


class Pipe:
    """Messages to the supervisor, one JSON line each, in order."""

    def __init__(self, descriptor: int) -> None:
        self._file = os.fdopen(descriptor, "w", buffering=1)
        self._sent_at = 0.0
        self._done = -1.0

    def send(self, type: str, **data: Any) -> None:
        """Send one message."""
        self._file.write(json.dumps({"type": type, **data}) + "\n")

    def stage(self, stage: str, name: str) -> None:
        """Report that a stage begins."""
        self.send("stage", stage=stage, name=name)

    def progress(self, done: float, total: float) -> None:
        """Report the work done, in at most two messages a second.

        Work that is as much as before is reported as a sign of life only. The last message of all,
        with `done` at `total`, is always sent.
        """
        now = time.monotonic()
        has_changed = done != self._done
        is_last = has_changed and done >= total
        if now - self._sent_at < PROGRESS_S and not is_last:
            return
        self._sent_at = now
        self._done = done
        if has_changed:
            self.send("progress", done=done, total=total)
        else:
            self.send("alive")

    def warn(self, message: str) -> None:
        """Report something that the user should know."""
        self.send("warning", message=message)

    def saved(self, name: str, path: Path) -> None:
        """Report that a stage file was saved."""
        self.send("saved", name=name, path=str(path))

    def dropped(self, name: str) -> None:
        """Report that a stage file is no longer needed."""
        self.send("dropped", name=name)

    def file(self, checkpoint: str, format: str, path: Path) -> None:
        """Report that a file of the results was written."""
        self.send("file", checkpoint=checkpoint, format=format, path=str(path))

    def checkpoint(self, id: str, sparsity: float, error: float) -> None:
        """Report that a target was reached."""
        self.send("checkpoint", id=id, sparsity=sparsity, error=error)

    def summary(self, summary: Mapping[str, Any]) -> None:
        """Report what the job's record shall show of the report."""
        self.send("summary", summary=summary)
