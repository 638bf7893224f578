"""Attention of one sequence to itself, recognised by its structure, with its heads as a module.

A module with the projections of timm's attention (one fused `qkv`) or of transformers' (`query`,
`key`, `value`), whose output is softmax(q k^T / sqrt(d)) v of each head, as a try on random numbers
shows, computes here in its own stead, so that it can lose heads.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.architectures._attention_heads import AttentionHeads

FUSED = ("qkv", "to_qkv", "Wqkv", "c_attn")
"""Names of one projection to queries, keys and values, in this order."""
SEPARATE = (
    ("query", "key", "value"),
    ("q_proj", "k_proj", "v_proj"),
    ("to_q", "to_k", "to_v"),
    ("q", "k", "v"),
    ("wq", "wk", "wv"),
)
"""Names of three projections."""
COUNTS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "heads")
"""Names of the number of heads."""
OUTPUTS = ("proj", "out_proj", "o_proj", "to_out", "dense", "wo", "c_proj", "out")
"""Names of the projection behind the heads, where it belongs to the same module."""
OUTPUT_DROPOUTS = ("proj_drop", "resid_dropout", "out_drop")
"""Names of a dropout behind that projection."""
DROPOUTS = ("attn_drop", "attn_dropout", "dropout", "dropout_prob", "attention_dropout")
"""Names of the dropout of the attention's weights, or of its probability."""
TOLERANCE = 1e-5
"""The largest difference of the try: transformers computes the softmax in single precision."""
UNRECOGNISED = "its attention is not recognised and its heads stay: it computes in another way"
"""Why the heads of an attention stay that has the projections, and not the numbers."""


@dataclass(frozen=True)
class Structure:
    """The parts of a plain attention, by their names in the module."""

    projections: tuple[str, ...]
    """One fused projection, or those to queries, keys and values."""
    after: tuple[str, ...]
    """The layers that are applied to the output of the heads."""
    dropout: float
    """The probability with which a weight of the attention is dropped in training."""
    others: int | None = None
    """The number of further values are returned in a tuple; None where a tensor is returned."""


class PlainAttention(nn.Module):
    """The forward of a plain attention that calls its projections and its heads.

    Calls with masks or other options are the module's own.
    """

    structure: Structure
    attention_heads: AttentionHeads

    def forward(self, x: Tensor, *arguments: Any, **options: Any) -> Any:
        """(N, L, E) to (N, L, E), or to what is before the output's projection."""
        mask = _find_mask(arguments, options)
        if mask is UNKNOWN or (mask is not None and self.attention_heads.is_whole):
            if self.attention_heads.is_whole:
                return super().forward(x, *arguments, **options)
            raise ValueError("an attention without some of its heads takes no masks or options")
        projected = [self.get_submodule(name)(x) for name in self.structure.projections]
        attended = self.attention_heads(partial(self._attend, mask=mask), *projected)
        for name in self.structure.after:
            attended = self.get_submodule(name)(attended)
        if self.structure.others is None:
            return attended
        return (attended, *[None] * self.structure.others)

    def _attend(self, *projected: Tensor, mask: Tensor | None = None) -> Tensor:
        """The output of the heads, (N, L, H d); a mask is added to what is normalised."""
        parts = projected[0].chunk(3, -1) if len(projected) == 1 else projected
        size = self.attention_heads.size
        q, k, v = (part.reshape(*part.shape[:2], -1, size).transpose(1, 2) for part in parts)
        q, k = self._normalise("q_norm", q), self._normalise("k_norm", k)
        products = q * size**-0.5 @ k.transpose(-2, -1)
        if mask is not None:
            products = products + mask
        weights = products.softmax(-1)
        weights = F.dropout(weights, self.structure.dropout, self.training)
        return (weights @ v).transpose(1, 2).flatten(2)

    def _normalise(self, name: str, values: Tensor) -> Tensor:
        """The values, normalised within each head where the module has a layer for it."""
        layer = getattr(self, name, None)
        normalised: Tensor = values if layer is None else layer(values)
        return normalised


def _find_mask(arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """The mask (N, 1, L, L) that all heads add, which transformers passes while it is traced; None
    where nothing is given, `UNKNOWN` where anything else is.
    """
    given = [value for value in arguments if value is not None and value is not False]
    named = {
        name: value for name, value in options.items() if value is not None and value is not False
    }
    if not given and not named:
        return None
    (mask, *others) = [*given, *named.values()]
    is_mask = isinstance(mask, Tensor) and mask.is_floating_point() and mask.dim() == 4
    named_so = set(named) <= {"attention_mask"}
    return mask if is_mask and not others and named_so and mask.shape[1] == 1 else UNKNOWN


def open_plain_(module: nn.Module) -> None:
    """Turn a module that is a plain attention into one that can lose heads, in place.

    One that has the projections and computes in another way keeps its forward; its layers say why
    its heads stay in `outputs_stay` and `inputs_stay`.
    """
    if isinstance(module, PlainAttention):
        return
    structure = _find_structure(module)
    heads = _find_heads(module)
    if structure is None or heads is None:
        return
    first = module.get_submodule(structure.projections[0])
    assert isinstance(first, nn.Linear)
    packed = len(structure.projections) == 1
    width = first.out_features // 3 if packed else first.out_features
    if width % heads:
        return
    core = AttentionHeads(heads, width // heads, packed=packed)
    tried = _try(module, structure, core, first.in_features)
    if tried is None:
        layers: dict[str, Any] = dict(module.named_children())
        for name in structure.projections:
            layers[name].outputs_stay = UNRECOGNISED
        for name in structure.after[:1]:
            layers[name].inputs_stay = UNRECOGNISED
        return
    _open_(module, tried, core)


def _open_(module: nn.Module, structure: Structure, heads: AttentionHeads) -> None:
    kind = type(module)
    if kind not in OPENED:
        OPENED[kind] = type(kind.__name__, (PlainAttention, kind), {"__module__": __name__})
    module.__class__ = OPENED[kind]
    assert isinstance(module, PlainAttention)
    module.structure = structure
    module.add_module("attention_heads", heads)


def _find_structure(module: nn.Module) -> Structure | None:
    """The parts of an attention by their names; None where a part is missing."""
    layers = {name for name, child in module.named_children() if isinstance(child, nn.Linear)}
    candidates = [(name,) for name in FUSED] + list(SEPARATE)
    for projections in candidates:
        if layers.issuperset(projections) and _are_equal(module, projections):
            after = [name for name in OUTPUTS if name in layers][:1]
            if after:
                dropouts = [name for name in OUTPUT_DROPOUTS if hasattr(module, name)]
                after += dropouts[:1]
            return Structure(projections, tuple(after), _find_dropout(module))
    return None


def _are_equal(module: nn.Module, names: tuple[str, ...]) -> bool:
    """Whether the projections have equal shapes; a fused one divides by three."""
    shapes = {tuple(module.get_parameter(f"{name}.weight").shape) for name in names}
    rows = next(iter(shapes))[0]
    return len(shapes) == 1 and (len(names) > 1 or rows % 3 == 0)


def _find_heads(module: nn.Module) -> int | None:
    """The number of heads of an attention."""
    counts = [getattr(module, name, None) for name in COUNTS]
    return next((count for count in counts if isinstance(count, int) and count > 0), None)


def _find_dropout(module: nn.Module) -> float:
    """The probability with which the weights of an attention are dropped."""
    for name in DROPOUTS:
        value = getattr(module, name, None)
        if isinstance(value, nn.Dropout):
            return value.p
        if isinstance(value, float):
            return value
    return 0.0


def _try(
    module: nn.Module, structure: Structure, heads: AttentionHeads, width: int
) -> Structure | None:
    """The structure with what the module returns, where both ways give the same numbers of random
    weights; None where they do not.
    """
    if any(True for _ in module.buffers()):
        return None  # a table of positions, or the like
    with torch.device("cpu"), torch.no_grad():
        theirs = _randomise(module)
        x = torch.randn(
            2, 5, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64
        )
        try:
            answer = theirs(x)
            is_tuple = isinstance(answer, tuple)
            tried = replace(structure, others=len(answer) - 1 if is_tuple else None)
            _open_(theirs, tried, copy.deepcopy(heads))
            expected, ours = (value[0] if is_tuple else value for value in (answer, theirs(x)))
        except Exception:  # another module may fail in any way
            return None
    is_same = expected.shape == ours.shape and torch.allclose(
        expected, ours, rtol=TOLERANCE, atol=TOLERANCE
    )
    return tried if is_same else None


def _randomise(module: nn.Module) -> nn.Module:
    """A copy in double precision and eval mode with random parameters, which may have been on the
    meta device.
    """
    generator = torch.Generator().manual_seed(0)
    net = copy.deepcopy(module).to_empty(device="cpu").double().eval()
    for parameter in net.parameters():
        scale = 1 / math.sqrt(parameter.shape[-1]) if parameter.dim() > 1 else 1.0
        parameter.copy_(
            torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * scale
        )
    return net


UNKNOWN = object()
"""The sign for arguments that only the module itself understands."""
OPENED: dict[type[nn.Module], type[nn.Module]] = {}
"""The classes of plain attention that call their heads, by the classes they were."""
