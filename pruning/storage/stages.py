"""The finished parts of a job on disk: a stage whose file exists is not done again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from pruning.storage.checkpoints import save_durably

State = dict[str, Tensor]


class Stages:
    """A folder of stage files, each of tensors and a JSON note, named by the recipe's digest and
    the stage.

    `on_saved(name, path)` and `on_dropped(name)` tell whoever keeps copies elsewhere.
    """

    def __init__(
        self,
        folder: Path,
        digest: str,
        on_saved: Callable[[str, Path], None] = lambda name, path: None,
        on_dropped: Callable[[str], None] = lambda name: None,
    ) -> None:
        self.folder = folder
        self._prefix = digest[:16]
        self._on_saved, self._on_dropped = on_saved, on_dropped
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, name: str) -> Path:
        """The file of a stage."""
        return self.folder / f"{self._prefix}-{name}.safetensors"

    def load(self, name: str, prefix: str = "") -> tuple[State, dict[str, Any]] | None:
        """The tensors of a stage whose names begin with `prefix`, and its note; None when the stage
        has not been finished, or its file is damaged.
        """
        path = self.path(name)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                note = json.loads(file.metadata()["note"])
                names = [key for key in file.keys() if key.startswith(prefix)]  # noqa: SIM118
                return {key: file.get_tensor(key) for key in names}, note
        except (SafetensorError, KeyError, TypeError, ValueError):
            path.unlink()
            return None

    def save(self, name: str, tensors: Mapping[str, Tensor], note: Mapping[str, Any]) -> None:
        """Finish a stage: the file is whole before anyone sees it."""
        path = self.path(name)
        stored = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        save_durably(stored, path, {"note": json.dumps(dict(note))})
        self._on_saved(path.name, path)

    def drop(self, name: str) -> None:
        """Forget a stage that a later one replaces."""
        path = self.path(name)
        if path.exists():
            path.unlink()
            self._on_dropped(path.name)


class PartialTraining:
    """The state inside a training, as a stage of its own that is dropped when the stage of the
    training is finished.
    """

    def __init__(self, stages: Stages, name: str) -> None:
        self._stages, self._name = stages, f"{name}.partial"

    def load(self) -> tuple[State, dict[str, Any]] | None:
        """The newest saved state, if any."""
        return self._stages.load(self._name)

    def save(self, tensors: State, meta: dict[str, Any]) -> None:
        """Keep a state instead of the one before."""
        self._stages.save(self._name, tensors, meta)

    def drop(self) -> None:
        """Forget the saved state."""
        self._stages.drop(self._name)
