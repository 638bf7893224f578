"""Masks, which say which weights remain: make, apply and count them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from pruning.errors import BudgetError, ParameterError, ScoreError
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


def find_prunable(model: nn.Module, exclude: Collection[str] = ()) -> dict[str, Tensor]:
    """Find the prunable weights: every Linear and Conv2d weight that trains, less `exclude`.

    Returns them by parameter name. Shared (tied) weights appear once, under their first name. The
    packed weight of an attention's queries, keys and values is the weight of a layer. Biases and
    BatchNorm are never pruned, nor is what takes part in training alone, or has `left_dense`.
    Raises `ParameterError` for a name in `exclude` that is not a prunable weight, and where
    `exclude` leaves none.
    """
    prunable: dict[str, Tensor] = {
        name: parameter
        for name, parameter, module in _list_weights(model)
        if parameter.requires_grad and not hasattr(module, "left_dense")
    }
    for name in exclude:
        if name not in prunable:
            raise ParameterError(
                f"exclude: {name!r} is not a prunable weight; known: {', '.join(prunable)}",
                pointer="/exclude",
            )
    left = {name: weight for name, weight in prunable.items() if name not in exclude}
    if exclude and not left:
        raise ParameterError("exclude: nothing is left to prune", pointer="/exclude")
    return left


def list_layer_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """List the shapes of the weights of every Linear and Conv2d in the order of the network.

    Frozen and excluded ones are among them.
    """
    return {name: tuple(parameter.shape) for name, parameter, _ in _list_weights(model)}


def _list_weights(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, nn.Module]]:
    """The weights of layers in the order of the network, each with its name and its layer."""
    parameters = _find_used_parameters(model)
    for name, module in model.named_modules():
        own: tuple[str, ...] = ("weight",) if isinstance(module, PRUNABLE) else ()
        if isinstance(module, nn.MultiheadAttention):
            own = PROJECTIONS
        for suffix in own:
            key = f"{name}.{suffix}" if name else suffix
            if key in parameters:
                yield key, parameters[key], module


def count_parameters(model: nn.Module) -> int:
    """Count all parameters, tied ones once, without those that take part in training alone.

    >>> count_parameters(nn.Linear(3, 2))
    8
    """
    return sum(parameter.numel() for parameter in _find_used_parameters(model).values())


def _find_used_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Find the parameters by first name, without those of submodules used in training alone."""
    training_prefixes = tuple(
        f"{name}."
        for name, module in model.named_modules()
        if getattr(module, "trains_alone", False)
    )
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if not name.startswith(training_prefixes)
    }


def explain_dense(model: nn.Module, name: str, exclude: Collection[str]) -> str:
    """Explain for the report why a parameter is left dense."""
    if name in exclude:
        return "excluded by the recipe"
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
    return {name: int(mask.sum()) for name, mask in masks.items()}


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
    flat = score.detach().flatten()
    if not 0 <= keep <= flat.numel():
        raise BudgetError(f"cannot keep {keep} of {flat.numel()}")
    if flat.numel() and not float(flat.max()) < torch.inf:
        raise ScoreError("scores must be numbers below infinity")
    if keep in (0, flat.numel()):
        return torch.full_like(score, bool(keep), dtype=torch.bool)
    threshold = _find_threshold(flat, keep)
    mask = flat >= threshold
    surplus = int(mask.count_nonzero()) - keep
    if surplus:
        ties = (flat == threshold).nonzero().flatten()
        mask[ties[len(ties) - surplus :]] = False
    return mask.reshape(score.shape)


def _find_threshold(flat: Tensor, keep: int) -> Tensor:
    """Find the score of rank `keep`."""
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
