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
        self._progress_at = 0.0
        self._done = -1.0

    def send(self, type: str, **data: Any) -> None:
        """One message."""
        self._file.write(json.dumps({"type": type, **data}) + "\n")

    def stage(self, stage: str, name: str) -> None:
        """A stage begins."""
        self.send("stage", stage=stage, name=name)

    def progress(self, done: float, total: float) -> None:
        """Work done; at most two messages a second. Where it is as much as before, only a sign of
        life.
        """
        now, further = time.monotonic(), done != self._done
        if now - self._progress_at >= PROGRESS_S or (further and done >= total):
            self._progress_at, self._done = now, done
            if further:
                self.send("progress", done=done, total=total)
            else:
                self.send("alive")

    def warn(self, message: str) -> None:
        """Something the user should know."""
        self.send("warning", message=message)

    def saved(self, name: str, path: Path) -> None:
        """A stage file was saved."""
        self.send("saved", name=name, path=str(path))

    def dropped(self, name: str) -> None:
        """A stage file is no longer needed."""
        self.send("dropped", name=name)

    def file(self, checkpoint: str, format: str, path: Path) -> None:
        """A file of the results was written."""
        self.send("file", checkpoint=checkpoint, format=format, path=str(path))

    def checkpoint(self, id: str, sparsity: float, error: float) -> None:
        """A target was reached."""
        self.send("checkpoint", id=id, sparsity=sparsity, error=error)

    def summary(self, summary: Mapping[str, Any]) -> None:
        """What the job's record says of the report."""
        self.send("summary", summary=summary)
