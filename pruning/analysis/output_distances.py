"""The distances of one network's outputs from another's, image by image: of every layer, the logits
and the softmax.

Source: Gordon, When are approximation bounds useful?, ICLR 2021 submission; these definitions are
ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pruning.masks import PRUNABLE
from pruning.measurement.objective import choose_answers, compare_answers
from pruning.measurement.skewed_means import skewed_mean_interval
from pruning.networks.layers import forward_hooks
from pruning.networks.modes import evaluate_mode
from pruning.schemas.report import Estimate

BATCH = 64
"""The number of images that are compared at once."""


@dataclass(frozen=True, kw_only=True)
class Deviations:
    """The distances of one network from another, float64 (images,): nan where there is nothing to
    be relative to, inf off the scale.
    """

    layers: Mapping[str, Tensor]
    """The relative error of the outputs (before the activation function) of every Linear and Conv2d
    by module name, in the order of calls.
    """
    logits: Tensor
    """The relative error of the logits."""
    centred: Tensor
    """The relative error of the logits less their mean over the classes; the softmax does not
    depend on that mean.
    """
    softmax: Tensor
    """The Euclidean distance of the softmax outputs, at most half that of the logits."""
    kl: Tensor
    """KL(p || p') in nats, p the softmax output of the network that is the reference."""
    agrees: Tensor
    """Whether both networks name the same class, bool."""
    unmatched: tuple[str, ...] = ()
    """The layers that do not have one output for each image."""

    @property
    def hidden(self) -> Tensor:
        """The mean over all layers but the last that is called, of those with an error; nan for a
        network of one layer.
        """
        errors = list(self.layers.values())[:-1]
        if not errors:
            return torch.full_like(self.logits, math.nan)
        return torch.stack(errors).nanmean(0)


def measure_output_distances(
    network: nn.Module, other: nn.Module, batches: Iterable[Tensor]
) -> Deviations:
    """The distances of `other` from `network`, which have the same layers, on batches of normalised
    images.

    e_l(x) = ||a'_l(x) - a_l(x)||_2 / ||a_l(x)||_2, a_l(x) all outputs of layer l for image x (of
    all its calls), in float64. nan where a_l(x) is zero; inf where a difference is not finite.

    >>> a, b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    >>> _ = a.weight.data.copy_(torch.eye(2))
    >>> _ = b.weight.data.copy_(torch.diag(torch.tensor([1.0, 0.0])))
    >>> distances = measure_output_distances(a, b, [torch.tensor([[3.0, 4.0], [0.0, 0.0]])])
    >>> distances.logits.tolist(), distances.layers[""].tolist(), distances.agrees.tolist()
    ([0.8, nan], [0.8, nan], [False, True])
    """
    layers: dict[str, list[Tensor]] = {}
    answers: dict[str, list[Tensor]] = {}
    unmatched: dict[str, None] = {}
    with torch.no_grad(), evaluate_mode(network), evaluate_mode(other):
        for images in batches:
            logits, outputs = _run_recording(network, images)
            other_logits, other_outputs = _run_recording(other, images)
            for name, calls in outputs.items():
                if any(len(output) != len(images) for output in calls):
                    unmatched[name] = None
                    continue
                distance = relative_distance(_join_calls(calls), _join_calls(other_outputs[name]))
                layers.setdefault(name, []).append(distance)
            for name, values in _compare_logits(logits, other_logits).items():
                answers.setdefault(name, []).append(values)
    by_quantity = {name: torch.cat(parts).cpu() for name, parts in answers.items()}
    return Deviations(
        layers={name: torch.cat(parts).cpu() for name, parts in layers.items()},
        unmatched=tuple(unmatched),
        **by_quantity,
    )


def relative_distance(a: Tensor, b: Tensor) -> Tensor:
    """||b - a||_2 / ||a||_2 by row, (n,) in float64; nan where a is zero, inf where anything is not
    finite.

    >>> a, b = [[3.0, 4.0], [0.0, 0.0], [1.0, 1.0]], [[3.0, 1.0], [1.0, 1.0], [1.0, torch.inf]]
    >>> relative_distance(torch.tensor(a), torch.tensor(b))
    tensor([0.6000,    nan,    inf], dtype=torch.float64)
    """
    a, b = a.double(), b.double()
    distance = (b - a).norm(dim=1) / a.norm(dim=1)
    on_scale = torch.where(distance.isfinite(), distance, math.inf)
    return on_scale.masked_fill(~a.any(1), math.nan)


def average_finite(values: Tensor) -> Estimate | None:
    """The mean of the values but nan, with its 95 % interval cut at 0; None where a value is
    infinite or none is left.

    >>> (
    ...     average_finite(torch.tensor([0.5, torch.nan, 0.5])),
    ...     average_finite(torch.tensor([0.5, torch.inf])),
    ... )
    (Estimate(value=0.5, low=0.5, high=0.5, n=2, unit=None), None)
    """
    mean = average_paired_change(torch.zeros_like(values), values)
    if mean is None or mean.low is None:
        return mean
    return mean.model_copy(update={"low": max(0.0, mean.low)})


def average_paired_change(before: Tensor, after: Tensor) -> Estimate | None:
    """The mean of after - before but nan, paired by image, with its 95 % interval; None where a
    value is infinite or none is left.
    """
    if bool((before.isinf() | after.isinf()).any()):
        return None
    change = after - before
    change = change[~change.isnan()]
    if len(change) == 0:
        return None
    return skewed_mean_interval(change)


def _compare_logits(logits: Tensor, other: Tensor) -> dict[str, Tensor]:
    """The distances of the answers by field of `Deviations`, each (images,)."""
    agrees = compare_answers(choose_answers(logits), choose_answers(other))
    logits, other = logits.double(), other.double()
    log_p, other_log_p = logits.log_softmax(1), other.log_softmax(1)
    p = log_p.exp()
    softmax = (other_log_p.exp() - p).norm(dim=1)
    kl = (p * (log_p - other_log_p)).sum(1).clamp_min(0)
    centred = logits - logits.mean(1, keepdim=True)
    other_centred = other - other.mean(1, keepdim=True)
    return {
        "logits": relative_distance(logits, other),
        "centred": relative_distance(centred, other_centred),
        "softmax": torch.where(softmax.isfinite(), softmax, math.inf),
        "kl": torch.where(kl.isfinite(), kl, math.inf),
        "agrees": agrees,
    }


def _join_calls(outputs: Sequence[Tensor]) -> Tensor:
    """The outputs of all calls of a layer side by side, (images, values)."""
    return torch.cat([output.flatten(1) for output in outputs], 1)


def _run_recording(model: nn.Module, images: Tensor) -> tuple[Tensor, dict[str, list[Tensor]]]:
    """The logits, and by module name the outputs of every call of a layer."""
    with _recording_outputs(model) as outputs:
        return model(images), outputs


@contextmanager
def _recording_outputs(model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Record the outputs of layers by module name, in the order of their last calls.

    Outputs are copied: an activation function may work in place.
    """
    outputs: dict[str, list[Tensor]] = {}

    names: dict[nn.Module, str] = {
        module: name for name, module in model.named_modules() if isinstance(module, PRUNABLE)
    }

    def record(module: nn.Module, inputs: object, output: Tensor) -> None:
        name = names[module]
        outputs[name] = [*outputs.pop(name, []), output.clone()]  # moves the name to the end

    with forward_hooks(names, record):
        yield outputs
