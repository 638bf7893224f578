"""How far one network's outputs are from another's, image by image: of every layer, of the logits,
of the softmax.

Source: Gordon, When are approximation bounds useful?, ICLR 2021 submission; these definitions are
ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from pruning.masks import PRUNABLE
from pruning.measurement.intervals import mean_interval
from pruning.networks.modes import evaluate_mode
from pruning.schemas.report import Estimate

BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Deviations:
    """Of one network from another, float64 (images,): nan where there is nothing to be relative to,
    inf off the scale.
    """

    layers: Mapping[str, Tensor]
    """Relative error of the outputs (before the activation function) of every Linear and Conv2d, in
    the order of calls.
    """
    logits: Tensor
    """Relative error of the logits."""
    centred: Tensor
    """Relative error of the logits less their mean over the classes: all of them that the softmax
    sees.
    """
    softmax: Tensor
    """Euclidean distance of the softmax outputs, at most half that of the logits."""
    kl: Tensor
    """KL(p || p') in nats, p the softmax output of the network that is compared with."""
    agrees: Tensor
    """bool: both name the same class."""
    unmatched: tuple[str, ...] = ()
    """Layers that do not have one output for each image."""

    @property
    def hidden(self) -> Tensor:
        """The mean over all layers but the last that is called, of those with an error; nan for a
        network of one layer.
        """
        parts = list(self.layers.values())[:-1]
        return torch.stack(parts).nanmean(0) if parts else torch.full_like(self.logits, math.nan)


def measure_output_distances(
    network: nn.Module, other: nn.Module, batches: Iterable[Tensor]
) -> Deviations:
    """Of `other` from `network`, which have the same layers, on batches of normalised images.

    e_l(x) = ||a'_l(x) - a_l(x)||_2 / ||a_l(x)||_2, a_l(x) all outputs of layer l for image x (of
    all its calls), in float64. nan where a_l(x) is zero; inf where a difference is no finite
    number.

    >>> a, b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    >>> _ = (
    ...     a.weight.data.copy_(torch.eye(2)),
    ...     b.weight.data.copy_(torch.diag(torch.tensor([1.0, 0.0]))),
    ... )
    >>> found = measure_output_distances(a, b, [torch.tensor([[3.0, 4.0], [0.0, 0.0]])])
    >>> found.logits.tolist(), found.layers[""].tolist(), found.agrees.tolist()
    ([0.8, nan], [0.8, nan], [False, True])
    """
    parts: dict[str, list[Tensor]] = {}
    unmatched: dict[str, None] = {}
    with torch.no_grad(), evaluate_mode(network), evaluate_mode(other):
        for images in batches:
            (z, mine), (z_other, theirs) = (_outputs(one, images) for one in (network, other))
            for name, outputs in mine.items():
                if all(len(output) == len(images) for output in outputs):
                    a, b = (
                        torch.cat([output.flatten(1) for output in some], 1)
                        for some in (outputs, theirs[name])
                    )
                    parts.setdefault(f"layer.{name}", []).append(relative_distance(a, b))
                else:
                    unmatched[name] = None
            for name, values in _of_logits(z, z_other).items():
                parts.setdefault(name, []).append(values)
    whole = {name: torch.cat(values).cpu() for name, values in parts.items()}
    layers = {
        name.removeprefix("layer."): values
        for name, values in whole.items()
        if name.startswith("layer.")
    }
    return Deviations(
        layers=layers,
        logits=whole["logits"],
        centred=whole["centred"],
        softmax=whole["softmax"],
        kl=whole["kl"],
        agrees=whole["agrees"],
        unmatched=tuple(unmatched),
    )


def relative_distance(a: Tensor, b: Tensor) -> Tensor:
    """||b - a||_2 / ||a||_2 by row, (n,) in float64; nan where a is zero, inf where anything is not finite.

    >>> a, b = [[3.0, 4.0], [0.0, 0.0], [1.0, 1.0]], [[3.0, 1.0], [1.0, 1.0], [1.0, torch.inf]]
    >>> relative_distance(torch.tensor(a), torch.tensor(b))
    tensor([0.6000,    nan,    inf], dtype=torch.float64)
    """
    a, b = a.double(), b.double()
    found = (b - a).norm(dim=1) / a.norm(dim=1)
    return torch.where(found.isfinite(), found, math.inf).masked_fill(~a.any(1), math.nan)


def average_finite(values: Tensor) -> Estimate | None:
    """The mean of what is a number, with its normal 95 % interval cut at 0; None if one is off the
    scale or none is left.

    >>> (
    ...     average_finite(torch.tensor([0.5, torch.nan, 0.5])),
    ...     average_finite(torch.tensor([0.5, torch.inf])),
    ... )
    (Estimate(value=0.5, low=0.5, high=0.5, n=2), None)
    """
    found = average_paired_change(torch.zeros_like(values), values)
    return (
        found
        if found is None or found.low is None
        else found.model_copy(update={"low": max(0.0, found.low)})
    )


def average_paired_change(before: Tensor, after: Tensor) -> Estimate | None:
    """The mean of after - before, paired by image, with its normal 95 % interval; None as in
    `average_finite`.
    """
    if bool((before.isinf() | after.isinf()).any()):
        return None
    change = after - before
    change = change[~change.isnan()]
    return (
        mean_interval(float(change.sum()), float((change**2).sum()), len(change))
        if len(change)
        else None
    )


def _of_logits(z: Tensor, other: Tensor) -> dict[str, Tensor]:
    agrees = z.argmax(1) == other.argmax(1)
    z, other = z.double(), other.double()
    log_p, log_other = z.log_softmax(1), other.log_softmax(1)
    p = log_p.exp()
    softmax, kl = (log_other.exp() - p).norm(dim=1), (p * (log_p - log_other)).sum(1).clamp_min(0)
    return {
        "logits": relative_distance(z, other),
        "centred": relative_distance(
            z - z.mean(1, keepdim=True), other - other.mean(1, keepdim=True)
        ),
        "softmax": torch.where(softmax.isfinite(), softmax, math.inf),
        "kl": torch.where(kl.isfinite(), kl, math.inf),
        "agrees": agrees,
    }


def _outputs(model: nn.Module, images: Tensor) -> tuple[Tensor, dict[str, list[Tensor]]]:
    """The logits, and by module name the outputs of every call of a layer."""
    with _recording(model) as found:
        return model(images), found


@contextmanager
def _recording(model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Outputs are copied: an activation function may work in place."""
    found: dict[str, list[Tensor]] = {}

    def note(name: str, module: nn.Module, inputs: object, output: Tensor) -> None:
        found[name] = [*found.pop(name, []), output.clone()]  # in the order of last calls

    hooks = [
        module.register_forward_hook(partial(note, name))
        for name, module in model.named_modules()
        if isinstance(module, PRUNABLE)
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
