"""The file `arch.json` beside a checkpoint that has lost channels: how wide every layer is."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, PositiveInt


class _Described(BaseModel):
    """The base of what the file describes: no unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LayerWidths(_Described):
    """A Linear, Conv2d or BatchNorm."""

    type: Literal["layer"] = "layer"
    inputs: PositiveInt
    outputs: PositiveInt
    groups: PositiveInt = 1


class ShortcutMap(_Described):
    """A shortcut without weights: output channel j is input `sources[j]`, or zero for -1."""

    type: Literal["map"] = "map"
    inputs: PositiveInt
    sources: Annotated[list[Annotated[int, Field(ge=-1)]], Field(min_length=1)]


class KeptHeads(_Described):
    """The heads of an attention that has lost some."""

    type: Literal["heads"] = "heads"
    kept: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    total: PositiveInt
    size: PositiveInt
    """The channels of a head."""


ModuleWidths: TypeAlias = LayerWidths | ShortcutMap | KeptHeads


class ArchFile(_Described):
    """The architecture and the widths of a smaller network, by module name."""

    format: Literal["arch"]
    version: Literal[1]
    architecture: str
    kwargs: dict[str, Any]
    """The arguments of the architecture, of the full network."""
    modules: dict[str, ModuleWidths]
