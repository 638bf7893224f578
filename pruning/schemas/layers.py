"""The layers of a network: whether each tensor can be pruned, and what it is coupled with."""

from __future__ import annotations

from pruning.schemas.base import Document


class LayerEntry(Document):
    """A parameter of a network."""

    name: str
    """The name of the parameter, as in the state dict and in `exclude`."""
    kind: str
    """The class of the module that owns it."""
    shape: tuple[int, ...]
    parameters: int
    """The number of values."""
    zeros: int = 0
    """The number of its values that are exactly zero, for weights that can be pruned."""
    prunable: bool
    """Whether single weights of it can be pruned."""
    reason: str | None = None
    """Why none of its weights can be pruned; `null` where they can."""
    coupled: tuple[str, ...] = ()
    """The other weights that write the same channels: a channel leaves all of them, or none."""
    channels_reason: str | None = None
    """Why it can lose no channels as a whole, neither outputs nor inputs; `null` where it can."""


class ChannelGroup(Document):
    """Channels that are written by the same layers, and removed together where they are coupled."""

    name: str
    """The first layer that writes them; empty for the channels of the image."""
    channels: int
    writers: tuple[str, ...]
    """The weights whose outputs they are."""
    readers: tuple[str, ...]
    """The weights that read them."""
    reason: str | None = None
    """Why none of them can be removed; `null` where they can."""
    head_size: int | None = None
    """The rows of queries, keys and values each that are one head of an attention, where `channels`
    counts heads; else `null`.
    """


class LayerTable(Document):
    """The parameters of a network in its order, and the groups of its channels."""

    layers: tuple[LayerEntry, ...]
    groups: tuple[ChannelGroup, ...] = ()
    note: str | None = None
    """Why the channels are not known; `null` where they are."""
