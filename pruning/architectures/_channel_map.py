"""A module that spreads the remaining channels over their old places."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ChannelMap(nn.Module):
    """A parameter-free shortcut: each output channel is an input channel, or zero.

    `sources` is the number of the input channel that feeds each output channel, -1 for zero. It is
    not part of the state dict.
    """

    sources: Tensor

    def __init__(self, channels_in: int, sources: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("sources", torch.empty(0, dtype=torch.long), persistent=False)
        self.route_(channels_in, sources)

    def route_(self, channels_in: int, sources: Sequence[int]) -> None:
        """Feed the output channels from these of `channels_in` input channels.

        Raises `ValueError` for an input channel that does not exist.
        """
        if any(not -1 <= source < channels_in for source in sources):
            raise ValueError(f"sources must lie in -1 ... {channels_in - 1}")
        self.channels_in = channels_in
        self.sources = torch.tensor(sources, dtype=torch.long, device=self.sources.device)

    def select_channels(self, inputs: Tensor, outputs: Tensor) -> None:
        """Keep these input and output channels, in place.

        An output whose input is removed becomes zero.

        >>> halves = ChannelMap(2, [-1, 0, 1, -1])
        >>> halves.select_channels(torch.tensor([1]), torch.tensor([0, 1, 2]))
        >>> halves.channels_in, halves.sources
        (1, tensor([-1, -1,  0]))
        """
        new_numbers = {int(old): new for new, old in enumerate(inputs.tolist())}
        old_sources = self.sources[outputs.to(self.sources.device)].tolist()
        self.route_(len(inputs), [new_numbers.get(source, -1) for source in old_sources])

    def extra_repr(self) -> str:
        """The numbers of input and output channels."""
        return f"{self.channels_in}, {len(self.sources)}"
