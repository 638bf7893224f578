"""Attention of torchvision's transformers whose projections are called as layers.

torch.nn.MultiheadAttention and the windowed attention of Swin compute with the weights of their
projections without calling the projections, so that nobody sees what these read. Here they are
called, on inputs with the images in the first dimension. Names of parameters stay, and so do the
numbers but for the order of sums.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.architectures import _torchvision_shim  # noqa: F401 (goes before torchvision)
from pruning.architectures._attention_heads import AttentionHeads
from pruning.architectures._plain_attention import open_plain_

DENSE_TABLE = "it computes position biases from coordinates, and sees no image"
"""Why the small network of Swin V2 for position biases is left dense."""
MOST_SCALE = math.log(100.0)
"""The largest logarithm of the scale of cosines."""


class PackedProjection(nn.Linear):
    """The projection of an attention to queries, keys and values, as one layer.

    Its weight (3 E, E) and bias are the parameters `in_proj_weight` and `in_proj_bias` of the
    attention: q, k and v are a third of its outputs each.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        nn.Module.__init__(self)
        self.in_features = attention.embed_dim
        self.out_features = 3 * attention.embed_dim
        self._owner = [attention]  # in a list, as it is no part of this module

    @property
    def weight(self) -> nn.Parameter:  # type: ignore[override]
        """The packed weight of the attention."""
        return self._owner[0].in_proj_weight

    @property
    def bias(self) -> nn.Parameter | None:  # type: ignore[override]
        """The packed bias of the attention."""
        return self._owner[0].in_proj_bias

    def locate(self, tensor: str) -> tuple[nn.Module, str]:
        """The module that has the weight or bias, and its name there."""
        return self._owner[0], f"in_proj_{tensor}"


class PackedAttention(nn.MultiheadAttention):
    """Multi-head attention of one sequence to itself: softmax(q k^T / sqrt(d)) v for each head.

    Attention between sequences, with masks or with weights returned is PyTorch's own.
    """

    in_proj: PackedProjection
    attention_heads: AttentionHeads

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Any:  # type: ignore[override]
        """(N, L, E) to (N, L, E), and None in place of the attention's weights."""
        masks = (options.get("key_padding_mask"), options.get("attn_mask"))
        is_plain = query is key and key is value and masks == (None, None)
        if is_plain and not options.get("need_weights", True):
            return self.out_proj(self.attention_heads(self._attend, self.in_proj(query))), None
        if not self.attention_heads.is_whole:
            raise ValueError("an attention without some of its heads takes one sequence, no masks")
        return super().forward(query, key, value, **options)

    def _attend(self, packed: Tensor) -> Tensor:
        """(N, L, 3 H d) to (N, L, H d) for the H heads that remain."""
        heads = packed.reshape(*packed.shape[:2], 3, -1, self.head_dim)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # each (N, heads, L, d)
        weights = (q * self.head_dim**-0.5 @ k.transpose(-2, -1)).softmax(-1)
        weights = F.dropout(weights, self.dropout, self.training)
        attended: Tensor = weights @ v
        return attended.transpose(1, 2).flatten(2)


def open_attention_(net: nn.Module) -> nn.Module:
    """Let every attention of a network call its projections, in place; returns the network.

    Of torch.nn and of torchvision, and modules of the same structure as timm's and transformers',
    where a try shows that the numbers stay.

    >>> net = open_attention_(nn.MultiheadAttention(4, 2, batch_first=True))
    >>> sorted(net.state_dict()) == sorted(nn.MultiheadAttention(4, 2).state_dict())
    True
    """
    # Without this module imported there is no network with windows.
    swin = sys.modules.get("torchvision.models.swin_transformer")
    for module in list(net.modules()):
        if type(module) is nn.MultiheadAttention and _is_packed(module):
            module.__class__ = PackedAttention
            module.add_module("in_proj", PackedProjection(module))
            heads = AttentionHeads(module.num_heads, module.head_dim, packed=True)
            module.add_module("attention_heads", heads)
        elif isinstance(module, nn.TransformerEncoderLayer):
            # Its fast path computes with the weights of its attention and calls nothing.
            module.activation_relu_or_gelu = 0
        elif swin is not None and isinstance(module, swin.ShiftedWindowAttention):
            _open_window_(module)
        else:
            open_plain_(module)
    return net


def _is_packed(attention: nn.MultiheadAttention) -> bool:
    """Whether queries, keys and values have one packed weight, and images come first."""
    has_one = attention.in_proj_weight is not None
    return has_one and attention.batch_first and attention.bias_k is None


def _open_window_(module: nn.Module) -> None:
    """Give a windowed attention a forward that calls its projections."""
    kind = type(module)
    if issubclass(kind, _CalledProjections):
        return
    if kind not in OPENED:
        OPENED[kind] = type(kind.__name__, (_CalledProjections, kind), {"__module__": __name__})
    module.__class__ = OPENED[kind]
    assert isinstance(module, _CalledProjections)
    count = module.num_heads
    size = module.proj.in_features // count
    window = math.prod(module.window_size)
    heads = AttentionHeads(count, size, packed=True, window=window)
    module.add_module("attention_heads", heads)
    for name, layer in module.named_modules():
        if name.startswith("cpb_mlp."):
            layer.left_dense = DENSE_TABLE


class _CalledProjections(nn.Module):
    """The forward of Swin's attention in shifted windows (Liu et al., ICCV 2021; V2: CVPR 2022).

    The projections act on each position by itself, so that they come before the windows are cut
    and after they are put together. V2 compares directions: cosines times a learned scale of at
    most 100, and keys without bias.
    """

    window_size: list[int]
    shift_size: list[int]
    num_heads: int
    attention_dropout: float
    dropout: float
    qkv: nn.Linear
    proj: nn.Linear
    attention_heads: AttentionHeads
    get_relative_position_bias: Callable[[], Tensor]

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) to (N, H, W, C)."""
        height, width = x.shape[1:3]
        rows, columns = self.window_size
        x = F.pad(x, (0, 0, 0, -width % columns, 0, -height % rows))
        padded = x.shape[1:3]
        # A window as large as the image needs no shift.
        shift = [
            0 if window >= side else step
            for window, side, step in zip(self.window_size, padded, self.shift_size, strict=True)
        ]
        x = torch.roll(x, (-shift[0], -shift[1]), (1, 2))
        attended = self.attention_heads(partial(self._attend, shift), self.qkv(x))
        x = F.dropout(self.proj(attended), self.dropout, self.training)
        x = torch.roll(x, (shift[0], shift[1]), (1, 2))
        return x[:, :height, :width, :].contiguous()

    def _attend(self, shift: list[int], packed: Tensor) -> Tensor:
        """(N, H, W, 3 C) to (N, H, W, C), attended within windows."""
        windows = self._cut(packed)
        size = self.attention_heads.size
        heads = windows.reshape(*windows.shape[:3], 3, -1, size)
        q, k, v = heads.permute(3, 0, 1, 4, 2, 5)
        weights = self._compare(q, k) + self._select_heads(self.get_relative_position_bias(), 1)
        if any(shift):
            weights = weights + self._separate(packed, shift)
        weights = F.dropout(weights.softmax(-1), self.attention_dropout, self.training)
        return self._join((weights @ v).transpose(2, 3).flatten(3), packed.shape[1:3])

    def _select_heads(self, values: Tensor, dimension: int) -> Tensor:
        """The values of the heads that remain, which lie along a dimension."""
        if self.attention_heads.is_whole:
            return values
        kept = torch.tensor(self.attention_heads.kept, device=values.device)
        return values.index_select(dimension, kept)

    def _cut(self, x: Tensor) -> Tensor:
        """(N, H, W, C) to windows (N, windows, positions, C)."""
        images, height, width, channels = x.shape
        rows, columns = self.window_size
        cut = x.reshape(images, height // rows, rows, width // columns, columns, channels)
        return cut.transpose(2, 3).reshape(images, -1, rows * columns, channels)

    def _join(self, windows: Tensor, padded: torch.Size) -> Tensor:
        """Windows (N, windows, positions, C) to (N, H, W, C)."""
        height, width = padded
        rows, columns = self.window_size
        cut = windows.reshape(
            windows.shape[0], height // rows, width // columns, rows, columns, windows.shape[-1]
        )
        return cut.transpose(2, 3).reshape(windows.shape[0], height, width, windows.shape[-1])

    def _compare(self, q: Tensor, k: Tensor) -> Tensor:
        """The logits of the attention of queries to keys, before position biases."""
        if not isinstance(scale := getattr(self, "logit_scale", None), Tensor):
            products: Tensor = q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)
            return products
        if self.qkv.bias is not None:
            bias = self.qkv.bias.chunk(3)[1]
            k = k - bias.view(-1, 1, self.attention_heads.size)
        cosines: Tensor = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        return cosines * self._select_heads(scale, 0).clamp(max=MOST_SCALE).exp()

    def _separate(self, x: Tensor, shift: list[int]) -> Tensor:
        """-100 between the positions of a window that the shift brought together, else 0."""
        regions = x.new_zeros(1, *x.shape[1:3], 1)
        if shift[0]:
            regions[:, -shift[0] :] += 1
        if shift[1]:
            regions[:, :, -shift[1] :] += 2
        labels = self._cut(regions).squeeze(-1)  # (1, windows, positions)
        differ = labels.unsqueeze(2) != labels.unsqueeze(3)
        return torch.where(differ, -100.0, 0.0).unsqueeze(2)


OPENED: dict[type[nn.Module], type[nn.Module]] = {}
"""The classes of windowed attention that call their projections, by torchvision's own."""
