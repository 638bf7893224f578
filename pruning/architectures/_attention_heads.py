"""The heads of an attention: what lies between its projections, as a module that can lose heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn


class AttentionHeads(nn.Module):
    """The heads of an attention, without weights of their own.

    The attention hands over how to attend and its projections: queries, keys and values, each of
    width heads times size, packed one after the other or as three tensors. A head that is removed
    leaves all of them and the output; the size of a head stays.
    """

    def __init__(self, heads: int, size: int, *, packed: bool, window: int | None = None) -> None:
        super().__init__()
        self.total = heads
        self.size = size
        self.packed = packed
        self.window = window
        """The positions that each position attends to; None for all of the image."""
        self.kept = tuple(range(heads))
        """The heads that remain, numbered as in the whole attention."""

    @property
    def is_whole(self) -> bool:
        """Whether no head was removed."""
        return len(self.kept) == self.total

    @property
    def channels(self) -> tuple[int, int]:
        """The numbers of channels that are read (of each tensor) and written."""
        width = len(self.kept) * self.size
        return 3 * width if self.packed else width, width

    def keep_(self, kept: Sequence[int]) -> None:
        """Keep these heads of the whole attention; `ValueError` for others and for none.

        >>> heads = AttentionHeads(3, 4, packed=True)
        >>> heads.keep_([0, 2])
        >>> heads.channels
        (24, 8)
        """
        if not kept or sorted(set(kept)) != list(kept) or not set(kept) <= set(range(self.total)):
            raise ValueError(f"heads must be some of 0 ... {self.total - 1}, each once, in order")
        self.kept = tuple(kept)

    def select_(self, outputs: Tensor) -> None:
        """Keep the heads of these output channels, given by position."""
        remaining = sorted({int(place) // self.size for place in outputs})
        self.keep_([self.kept[place] for place in remaining])

    def count_flops(self, projected: Tensor) -> int:
        """Two times the multiply-adds of one image in q k^T and in the sum of values.

        FLOPs = 4 P R H d for P positions that attend to R each, H heads of size d. `projected` is
        one of the tensors that are handed over, (N, positions ..., channels).
        """
        positions = projected[0, ..., 0].numel()
        reach = positions if self.window is None else self.window
        return 4 * positions * reach * self.channels[1]

    def forward(self, attend: Callable[..., Tensor], *projected: Tensor) -> Tensor:
        """The values that the heads attend to, one head after the other."""
        return attend(*projected)

    def extra_repr(self) -> str:
        """The number of heads that remain, and their size."""
        return f"{len(self.kept)} of {self.total}, size={self.size}"
