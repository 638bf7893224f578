"""Which weights remain: make, apply and count masks."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from pruning.errors import BudgetError, ParameterError, ScoreError
from pruning.types import Keeps, Masks

PRUNABLE = (nn.Linear, nn.Conv2d)


def find_prunable(model: nn.Module, exclude: Collection[str] = ()) -> dict[str, Tensor]:
    """The prunable weights by parameter name: every Linear and Conv2d weight that trains, less
    `exclude`.

    Shared (tied) weights appear once, under their first name. Biases and BatchNorm are never
    pruned, nor is what takes part in training alone. Raises `ParameterError` for a name in
    `exclude` that is no prunable weight, and where it leaves none.
    """
    found: dict[str, Tensor] = {}
    parameters = _answering(model)
    for name, module in model.named_modules():
        key = f"{name}.weight" if name else "weight"
        if isinstance(module, PRUNABLE) and key in parameters and parameters[key].requires_grad:
            found[key] = parameters[key]
    for name in exclude:
        if name not in found:
            raise ParameterError(
                f"exclude: {name!r} is no prunable weight; known: {', '.join(found)}",
                pointer="/exclude",
            )
    left = {name: weight for name, weight in found.items() if name not in exclude}
    if exclude and not left:
        raise ParameterError("exclude: nothing is left to prune", pointer="/exclude")
    return left


def list_layer_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shapes of the weights of every Linear and Conv2d in the order of the network, frozen and
    excluded ones too.
    """
    parameters = _answering(model)
    layers = (name for name, module in model.named_modules() if isinstance(module, PRUNABLE))
    keys = (f"{name}.weight" if name else "weight" for name in layers)
    return {key: tuple(parameters[key].shape) for key in keys if key in parameters}


def count_parameters(model: nn.Module) -> int:
    """All parameters, tied ones once, without those that take part in training alone.

    >>> count_parameters(nn.Linear(3, 2))
    8
    """
    return sum(parameter.numel() for parameter in _answering(model).values())


def _answering(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters by first name, without those of submodules that are of use in training
    alone.
    """
    aside = tuple(
        f"{name}."
        for name, module in model.named_modules()
        if getattr(module, "trains_alone", False)
    )
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if not name.startswith(aside)
    }


def explain_dense(model: nn.Module, name: str, exclude: Collection[str]) -> str:
    """Why a parameter is left dense, for the report."""
    if name in exclude:
        return "excluded by the recipe"
    if name not in _answering(model):
        return "used in training alone"
    owner = model.get_submodule(name.rpartition(".")[0])
    if not model.get_parameter(name).requires_grad:
        return "frozen"
    if isinstance(owner, PRUNABLE):
        return "bias" if name.endswith("bias") else "not the weight of its layer"
    return f"parameter of {type(owner).__name__}"


def build_full_masks(weights: Mapping[str, Tensor]) -> Masks:
    """Masks that keep everything."""
    return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}


def apply_masks_(model: nn.Module, masks: Masks) -> None:
    """Set what the masks prune to (positive) zero."""
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).masked_fill_(~mask, 0.0)


def count_kept(masks: Masks) -> Keeps:
    """How many weights each mask keeps."""
    return {name: int(mask.sum()) for name, mask in masks.items()}


def select_weight_masks(masks: Masks) -> Masks:
    """The masks of prunable weights, without those of biases and BatchNorm of removed channels."""
    return {name: mask for name, mask in masks.items() if mask.dim() > 1}


def density(masks: Masks) -> float:
    """Fraction of the prunable weights that remain."""
    weights = select_weight_masks(masks)
    return sum(count_kept(weights).values()) / sum(mask.numel() for mask in weights.values())


def count_to_keep(total: int, density: float) -> int:
    """How many of `total` weights remain at `density`: total - round((1 - density) total).

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
    """The mask of the `keep` highest scores, by count and never by threshold; of equal scores the
    first remain.

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
    threshold = _threshold(flat, keep)
    mask = flat >= threshold
    surplus = int(mask.count_nonzero()) - keep
    if surplus:
        ties = (flat == threshold).nonzero().flatten()
        mask[ties[len(ties) - surplus :]] = False
    return mask.reshape(score.shape)


def _threshold(flat: Tensor, keep: int) -> Tensor:
    """The score of rank `keep`; on the CPU numpy selects several times faster than torch, without
    the -inf.
    """
    if not (flat.is_cpu and flat.dtype in (torch.float32, torch.float64)):
        return flat.kthvalue(flat.numel() - keep + 1).values
    values = flat.numpy()
    values = values.take(np.flatnonzero(values > -np.inf))
    if keep > len(values):
        return flat.new_tensor(-torch.inf)
    return flat.new_tensor(np.partition(values, len(values) - keep)[len(values) - keep])


def find_collapsed(masks: Masks) -> list[str]:
    """The layers of which nothing remains."""
    return [name for name, mask in select_weight_masks(masks).items() if not mask.any()]
