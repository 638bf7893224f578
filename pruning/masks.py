"""Masks, which say which weights remain: make, apply and count them."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from pruning.errors import BudgetError, ParameterError, ScoreError
from pruning.schemas.layer_patterns import Kind, LayerPattern, list_layers, matches, name_pointer
from pruning.types import Keeps, Masks

PRUNABLE = (nn.Linear, nn.Conv2d)
PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
"""The weights of an attention that are prunable: queries, keys and values, packed or each."""
TABLES: Mapping[str, str] = {
    "class_token": "the class token: an input, and no weight of a layer",
    "cls_token": "the class token: an input, and no weight of a layer",
    "pos_embed": "position embeddings: added to inputs, and no weight of a layer",
    "relative_position_bias_table": "a table of position biases, and no weight of a layer",
    "logit_scale": "scales of attention, and no weight of a layer",
    "layer_scale": "scales of a block, and no weight of a layer",
}
"""Why parameters of transformers are left dense, by the beginning of their own names."""
CHUNK = 2**18
"""The scores that a selection looks at together, whatever their number."""
GATHERED = 2**19
"""The most scores of which a selection makes copies to rank them."""
DIGIT_BITS = 16
"""The bits of a score that one pass of a selection looks at."""


def find_prunable(
    model: nn.Module,
    exclude: Collection[LayerPattern] = (),
    include: Collection[LayerPattern] = (),
) -> dict[str, Tensor]:
    """Find the prunable weights: every Linear and Conv2d weight that trains and is among `include`,
    where that names any, less `exclude`.

    Returns them by parameter name. Shared (tied) weights appear once, under their first name. The
    packed weight of an attention's queries, keys and values is the weight of a layer. Biases and
    BatchNorm are never pruned, nor is what takes part in training alone, or has `left_dense`.
    Both hold names, glob patterns and kinds of layers (`pruning.schemas.layer_patterns`). Raises
    `ParameterError` for one that is of no prunable weight, and where `exclude` leaves none.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3), nn.Linear(3, 3))
    >>> list(find_prunable(net, exclude=["2.*"]))
    ['0.weight', '3.weight']
    >>> list(find_prunable(net, exclude=["3"], include=[Kind(kind="Linear")]))
    ['2.weight']
    """
    prunable: dict[str, Tensor] = {}
    kinds: dict[str, str] = {}
    for name, parameter, module in _list_weights(model):
        if parameter.requires_grad and not hasattr(module, "left_dense"):
            prunable[name] = parameter
            kinds[name] = type(module).__name__
    included = _find_matching("include", include, kinds) if include else set(prunable)
    left = included - _find_matching("exclude", exclude, kinds)
    if exclude and not left:
        raise ParameterError("exclude: nothing is left to prune", pointer="/exclude")
    return {name: weight for name, weight in prunable.items() if name in left}


def _find_matching(
    field: str, patterns: Collection[LayerPattern], kinds: Mapping[str, str]
) -> set[str]:
    """The prunable weights, given with the kinds of their layers, that any of the patterns means;
    `ParameterError` for a pattern that means none.
    """
    meant_by_any = set()
    for index, pattern in enumerate(patterns):
        meant = [name for name, kind in kinds.items() if matches(pattern, name, kind)]
        if not meant:
            raise build_unmatched_error(name_pointer(field, index), pattern, kinds)
        meant_by_any.update(meant)
    return meant_by_any


def build_unmatched_error(
    pointer: str, pattern: LayerPattern, kinds: Mapping[str, str]
) -> ParameterError:
    """The refusal of a pattern that means none of the weights, with the nearest names of those
    there are, given with the kinds of their layers.
    """
    field = pointer.split("/")[1]
    if isinstance(pattern, Kind):
        wanted, known = pattern.kind, sorted(set(kinds.values()))
        fault = f"{wanted!r} is the kind of no layer with a prunable weight"
    else:
        wanted, known = pattern, list(kinds)
        fault = f"{wanted!r} is not a prunable weight"
        if any(sign in wanted for sign in "*?["):
            fault = f"{wanted!r} matches no prunable weight and no layer of one"
    candidates = known if isinstance(pattern, Kind) else list_layers(known)
    close = difflib.get_close_matches(wanted, candidates, n=3, cutoff=0.5)
    nearest = f"; the nearest: {', '.join(close)}" if close else ""
    return ParameterError(f"{field}: {fault}; known: {', '.join(known)}{nearest}", pointer=pointer)


def list_layer_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """List the shapes of the weights of every Linear and Conv2d in the order of the network.

    Frozen and excluded ones are among them.
    """
    return {name: tuple(parameter.shape) for name, parameter, _ in _list_weights(model)}


def _list_weights(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, nn.Module]]:
    """The weights of layers in the order of the network, each with its name and its layer."""
    for name, parameter, module in _iterate_used_parameters(model):
        own: tuple[str, ...] = ("weight",) if isinstance(module, PRUNABLE) else ()
        if isinstance(module, nn.MultiheadAttention):
            own = PROJECTIONS
        if name.rpartition(".")[2] in own:
            yield name, parameter, module


def count_parameters(model: nn.Module) -> int:
    """Count all parameters, tied ones once, without those that take part in training alone.

    >>> count_parameters(nn.Linear(3, 2))
    8
    """
    return sum(parameter.numel() for parameter in _find_used_parameters(model).values())


def _find_used_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Find the parameters by first name, without those of submodules used in training alone."""
    return {name: parameter for name, parameter, _ in _iterate_used_parameters(model)}


def _iterate_used_parameters(
    model: nn.Module,
) -> Iterator[tuple[str, nn.Parameter, nn.Module]]:
    """The parameters by first name, each with the module that owns it; without those of submodules
    used in training alone.
    """
    seen: set[int] = set()
    training_prefixes: tuple[str, ...] = ()
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if getattr(module, "trains_alone", False):
            training_prefixes += (f"{name}.",)
        for own_name, parameter in module._parameters.items():
            if parameter is None or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            full_name = prefix + own_name
            if not full_name.startswith(training_prefixes):
                yield full_name, parameter, module


def explain_dense(
    model: nn.Module,
    name: str,
    exclude: Collection[LayerPattern],
    include: Collection[LayerPattern] = (),
) -> str:
    """Explain for the report why a parameter is left dense."""
    if (exclude or include) and name in find_prunable(model):
        kind = type(model.get_submodule(name.rpartition(".")[0])).__name__
        if any(matches(pattern, name, kind) for pattern in exclude):
            return "excluded by the recipe"
        if include:
            return "not included by the recipe"
    if name not in _find_used_parameters(model):
        return "used in training alone"
    owner = model.get_submodule(name.rpartition(".")[0])
    if hasattr(owner, "left_dense"):
        return str(owner.left_dense)
    if not model.get_parameter(name).requires_grad:
        return "frozen"
    own_name = name.rpartition(".")[2]
    for start, reason in TABLES.items():
        if own_name.startswith(start):
            return reason
    if isinstance(owner, (*PRUNABLE, nn.MultiheadAttention)):
        return "bias" if name.endswith("bias") else "not the weight of its layer"
    if isinstance(owner, _ConvNd):
        return f"a {type(owner).__name__}: of convolutions only Conv2d is pruned"
    return f"parameter of {type(owner).__name__}"


def build_full_masks(weights: Mapping[str, Tensor]) -> Masks:
    """Build masks that keep everything."""
    return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}


def apply_masks_(model: nn.Module, masks: Masks) -> None:
    """Set the weights that the masks prune to (positive) zero."""
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).masked_fill_(~mask, 0.0)


def count_kept(masks: Masks) -> Keeps:
    """Count the weights that each mask keeps."""
    return {name: int(mask.count_nonzero()) for name, mask in masks.items()}


def select_weight_masks(masks: Masks) -> Masks:
    """Select the masks of prunable weights.

    Left out are those of biases and BatchNorm of removed channels.
    """
    return {name: mask for name, mask in masks.items() if mask.dim() > 1}


def density(masks: Masks) -> float:
    """Compute the fraction of the prunable weights that remain."""
    weights = select_weight_masks(masks)
    return sum(count_kept(weights).values()) / sum(mask.numel() for mask in weights.values())


def count_to_keep(total: int, density: float) -> int:
    """Count the weights of `total` that remain at `density`: total - round((1 - density) total).

    >>> count_to_keep(268336, 0.05)
    13417
    """
    keep = total - round((1.0 - density) * total)
    if not 0 < keep <= total:
        raise BudgetError(
            f"density {density:g} keeps {keep} of {total} weights; at least one must remain",
            pointer="/targets/sparsity",
        )
    return keep


def select_top(score: Tensor, keep: int) -> Tensor:
    """Select the `keep` highest scores, by count and never by threshold.

    Of equal scores the first remain.

    >>> select_top(torch.tensor([1.0, 2.0, 2.0, 2.0]), 2)
    tensor([False,  True,  True, False])
    """
    return select_top_together([score], keep)[0]


def select_top_together(scores: Sequence[Tensor], keep: int) -> list[Tensor]:
    """Select the `keep` highest scores of several tensors: masks shaped as they are.

    Of equal scores the first remain, those of an earlier tensor before those of a later one. Beside
    the masks it holds a few copies of `GATHERED` scores, whatever their number. Raises
    `BudgetError` for a count that there is not, `ScoreError` for nan and infinity.

    >>> select_top_together([torch.tensor([1.0, 3.0]), torch.tensor([3.0, 2.0])], 1)
    [tensor([False,  True]), tensor([False, False])]
    """
    scores = [score.detach() for score in scores]
    total = sum(score.numel() for score in scores)
    if not 0 <= keep <= total:
        raise BudgetError(f"cannot keep {keep} of {total}")
    if not all(float(score.max()) < torch.inf for score in scores if score.numel()):
        raise ScoreError("scores must be numbers below infinity")
    if keep in (0, total):
        return [torch.full_like(score, bool(keep), dtype=torch.bool) for score in scores]
    dtype = scores[0].dtype
    for score in scores:
        dtype = torch.promote_types(dtype, score.dtype)
    scores = [score.to(dtype) for score in scores]
    threshold = _find_threshold(scores, keep)
    masks = [(score >= threshold).contiguous() for score in scores]
    surplus = sum(int(mask.count_nonzero()) for mask in masks) - keep
    for score, mask in zip(reversed(scores), reversed(masks), strict=True):
        chunks = zip(_split([score]), _split([mask]), strict=True)
        for score_chunk, mask_chunk in reversed(list(chunks)):
            if not surplus:
                return masks
            ties = (score_chunk == threshold).nonzero().flatten()
            last = ties[max(0, len(ties) - surplus) :]
            mask_chunk[last] = False
            surplus -= len(last)
    return masks


def _split(tensors: Sequence[Tensor]) -> Iterator[Tensor]:
    """The entries of the tensors in order, at most `CHUNK` at a time; views of contiguous ones."""
    for tensor in tensors:
        yield from torch.split(tensor.flatten(), CHUNK)


def _find_threshold(scores: Sequence[Tensor], keep: int) -> Tensor:
    """Find the score of rank `keep`, of scores of one type.

    A histogram of the keys' highest digit tells with which digit the wanted key begins and its rank
    among those, and so on, until few enough scores begin alike to rank them, or all digits are
    known.
    """
    prefix: int | None = None
    rank = keep
    alike = sum(score.numel() for score in scores)
    unknown_bits = 32 if _takes_32_bits(scores[0].dtype) else 64
    while alike > GATHERED and unknown_bits:
        unknown_bits -= DIGIT_BITS
        # Keys are signed: their highest digit is one of -2^15 ... 2^15 - 1.
        least = -(2 ** (DIGIT_BITS - 1)) if prefix is None else prefix << DIGIT_BITS
        histogram = torch.zeros(2**DIGIT_BITS, dtype=torch.long, device=scores[0].device)
        for chunk in _split(scores):
            begun = _convert_to_keys(chunk) >> unknown_bits
            if prefix is not None:
                begun = begun[begun >> DIGIT_BITS == prefix]
            histogram += torch.bincount(begun - least, minlength=2**DIGIT_BITS)
        at_least = histogram.flip(0).cumsum(0)
        place = int((at_least < rank).count_nonzero())
        alike = int(histogram[2**DIGIT_BITS - 1 - place])
        rank -= int(at_least[place]) - alike
        prefix = least + 2**DIGIT_BITS - 1 - place
    if prefix is None:
        return _find_rank(torch.cat([score.flatten() for score in scores]), rank)
    if not unknown_bits:
        return _convert_from_key(prefix, scores[0])
    parts = [chunk[_convert_to_keys(chunk) >> unknown_bits == prefix] for chunk in _split(scores)]
    return _find_rank(torch.cat(parts), rank)


def _takes_32_bits(dtype: torch.dtype) -> bool:
    """Whether scores of a type are ranked by keys of 32 bits; the others take 64."""
    return dtype.is_floating_point and dtype != torch.float64


def _convert_to_keys(values: Tensor) -> Tensor:
    """Convert scores to integers of the same order, equal for equal scores.

    >>> keys = _convert_to_keys(torch.tensor([-torch.inf, -1.0, -0.0, 0.0, 1e-45, 1.0]))
    >>> (keys.diff() > 0).tolist()
    [True, True, False, True, True]
    """
    if not values.is_floating_point():
        return values.long()
    narrow = _takes_32_bits(values.dtype)
    # The sum makes -0 to 0.
    bits = (values.to(torch.float32 if narrow else torch.float64) + 0.0).view(
        torch.int32 if narrow else torch.int64
    )
    return _order_bits(bits)


def _convert_from_key(key: int, like: Tensor) -> Tensor:
    """Convert a key to the score that it is for, of the type and on the device of `like`."""
    narrow = _takes_32_bits(like.dtype)
    keys = torch.tensor([key], dtype=torch.int32 if narrow else torch.int64, device=like.device)
    if like.is_floating_point():
        keys = _order_bits(keys).view(torch.float32 if narrow else torch.float64)
    return keys[0].to(like.dtype)


def _order_bits(bits: Tensor) -> Tensor:
    """Turn the bits of floats, read as integers, into integers of the same order, and back.

    Of a negative number all bits but the sign are inverted: the larger it is in size, the smaller.
    """
    limits = torch.iinfo(bits.dtype)
    return bits ^ ((bits >> (limits.bits - 1)) & limits.max)


def _find_rank(flat: Tensor, keep: int) -> Tensor:
    """Find the score of rank `keep` of few."""
    # On the CPU numpy selects several times faster than torch, and faster without the -inf.
    if not (flat.is_cpu and flat.dtype in (torch.float32, torch.float64)):
        return flat.kthvalue(flat.numel() - keep + 1).values
    values = flat.numpy()
    values = values.take(np.flatnonzero(values > -np.inf))
    if keep > len(values):
        return flat.new_tensor(-torch.inf)
    place = len(values) - keep
    return flat.new_tensor(np.partition(values, place)[place])


def find_collapsed(masks: Masks) -> list[str]:
    """Find the layers of which nothing remains."""
    return [name for name, mask in select_weight_masks(masks).items() if not mask.any()]
