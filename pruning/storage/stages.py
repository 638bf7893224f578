"""The finished parts of a job on disk: a stage whose file exists is not done again."""

from __future__ import annotations

import json
from collections.abc import Callable, ItemsView, Iterator, Mapping, Sequence, ValuesView
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from pruning.storage.checkpoints import save_durably

State = dict[str, Tensor]


class StoredPart(Mapping[str, Tensor]):
    """Tensors of a stage file: each is read when it is asked for, and not kept.

    Use `items` or `values` for all of them: these open the file once.
    """

    def __init__(self, path: Path, prefix: str, names: Sequence[str]) -> None:
        self._path, self._prefix, self._names = path, prefix, names

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._read((name,))[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def items(self) -> ItemsView[str, Tensor]:
        """All names with their tensors."""
        return self._read(self._names).items()

    def values(self) -> ValuesView[Tensor]:
        """All tensors."""
        return self._read(self._names).values()

    def _read(self, names: Sequence[str]) -> State:
        with safe_open(self._path, framework="pt") as file:
            return {name: file.get_tensor(f"{self._prefix}{name}") for name in names}


@dataclass(frozen=True)
class StoredStage:
    """The file of a finished stage: the names of its tensors, and its note."""

    path: Path
    names: tuple[str, ...]
    note: dict[str, Any]

    @property
    def whole(self) -> StoredPart:
        """All tensors under their own names."""
        return StoredPart(self.path, "", self.names)

    def part(self, name: str) -> StoredPart:
        """The tensors whose names begin with `name` and a dot, without that beginning.

        Raises `KeyError` where there are none.
        """
        prefix = f"{name}."
        names = [key.removeprefix(prefix) for key in self.names if key.startswith(prefix)]
        if not names:
            raise KeyError(name)
        return StoredPart(self.path, prefix, names)


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
        self.warn: Callable[[str], None] = lambda message: None
        """Tells the user of a file that is damaged."""
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, name: str) -> Path:
        """The file of a stage."""
        return self.folder / f"{self._prefix}-{name}.safetensors"

    def open(self, name: str) -> StoredStage | None:
        """The file of a finished stage, of which no tensor is read yet; None when the stage has not
        been finished.

        A damaged file is removed with a warning, and its stage counts as not finished.
        """
        path = self.path(name)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                note = json.loads(file.metadata()["note"])
                return StoredStage(path, tuple(file.keys()), note)
        except (SafetensorError, KeyError, TypeError, ValueError):
            path.unlink()
            self.warn(f"the stage file {name} is damaged, so what it held is computed again")
            return None

    def load(self, name: str) -> tuple[State, dict[str, Any]] | None:
        """All tensors of a stage and its note; None when the stage has not been finished."""
        stored = self.open(name)
        return None if stored is None else (dict(stored.whole.items()), stored.note)

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
