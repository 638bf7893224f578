"""Test images under shift: noise in normalised space, corruptions; and what networks get wrong
there.

Source: Liebenwein, Baykal, Carter, Gifford and Rus, Lost in pruning: the effects of pruning neural
networks beyond test accuracy, MLSys 2021, and the code released with it (uniform noise in
normalised space, not clipped); Hendrycks and Dietterich, ICLR 2019 (corruptions).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pruning.analysis.job_record import JobRecord
from pruning.data.corrupted import corrupt
from pruning.data.tensors import Data, Split
from pruning.measurement.measure import EVAL_BATCH
from pruning.measurement.objective import compute_errors
from pruning.schemas.job import NOMINAL
from pruning.seeding import generator
from pruning.storage.tensor_cache import TensorCache, hash_content

AT_ONCE = 256
"""Images that are corrupted between two signs of life."""
CORRUPTIONS_VERSION = 1
"""To be raised when a corruption changes: what caches hold is then made anew."""


@dataclass(frozen=True)
class Shift:
    """One distribution of test images.

    >>> (
    ...     Shift("fog", 3).name,
    ...     Shift(noise=0.2).name,
    ...     Shift(noise=1.0).name,
    ...     Shift(dataset="night").name,
    ...     Shift().name,
    ... )
    ('fog 3', 'noise 0.2', 'noise 1', 'night', 'nominal')
    """

    corruption: str | None = None
    severity: int = 0
    noise: float = 0.0
    """Uniform in [-noise, noise], added to normalised images."""
    dataset: str | None = None
    """One of the data's shifted sets: other images, where the others change those of the dataset.
    """

    @property
    def name(self) -> str:
        """As reports call it; no two shifts have one name."""
        if self.dataset is not None:
            return self.dataset
        if self.corruption is not None:
            return f"{self.corruption} {self.severity}"
        return f"noise {float(self.noise)!r}".removesuffix(".0") if self.noise else NOMINAL

    def group(self, trained: Collection[str]) -> str:
        """`nominal`, `noise`, `shifted set`, `corruption`, or `corruption trained on` for those of
        the job's training.
        """
        if self.dataset is not None:
            return "shifted set"
        if self.corruption is not None:
            return "corruption trained on" if self.corruption in trained else "corruption"
        return "noise" if self.noise else NOMINAL


@dataclass(frozen=True)
class NamedNetwork:
    """A network of a job, by the name that reports have for it."""

    name: str
    load: Callable[[], nn.Module]


def name_networks(trial: JobRecord) -> list[NamedNetwork]:
    """The dense network as given, the dense control, and every checkpoint."""
    return [
        NamedNetwork("given", trial.dense),
        NamedNetwork("control", trial.control),
        *(NamedNetwork(one.id, one.network) for one in trial.rounds if one.target is not None),
    ]


def draw_sample(
    trial: JobRecord, images: int, dataset: str | None = None, *, validation: bool = False
) -> Split:
    """At most so many test (or validation) images, of the data or of a shifted set: the same ones
    for all shifts.
    """
    source = trial.data if dataset is None else trial.data.shifted[dataset]
    split = source.val if validation else source.test
    names = ("shifts",) if dataset is None else ("shifts", dataset)
    order = torch.randperm(len(split), generator=generator(trial.seed, *names))[:images]
    return split[order.sort().values.to(split.labels.device)]


def find_trained_corruptions(trial: JobRecord) -> frozenset[str]:
    """The corruptions of the job's own training and retraining: shifts that it models."""
    found = [
        schedule.corrupt.names
        for schedule in (trial.recipe.train, trial.recipe.retrain)
        if schedule is not None and schedule.corrupt is not None
    ]
    return frozenset(name for names in found for name in names)


def group_by_images(shifts: Sequence[Shift]) -> dict[str | None, list[str]]:
    """The names of the nominal distribution and of the shifts, by the images that they are of:
    these are resampled together.

    >>> group_by_images([Shift("fog", 3), Shift(dataset="night")])
    {None: ['nominal', 'fog 3'], 'night': ['night']}
    """
    found: dict[str | None, list[str]] = {}
    for shift in [Shift(), *shifts]:
        found.setdefault(shift.dataset, []).append(shift.name)
    return found


def shift_images(
    data: Data,
    split: Split,
    *,
    shift: Shift,
    seed: int,
    cache: TensorCache | None = None,
    advance: Callable[[int], None] = lambda images: None,
) -> Tensor:
    """The images of a split under a shift, normalised, float32 (n, C, H, W); the same for every
    network.

    Corrupted images that a cache holds are not made again. `advance` is called with 0 while others
    are made, which may take long.
    """
    if shift.corruption is not None:
        name, severity = shift.corruption, shift.severity

        def make() -> Tensor:
            found = []
            for indices in torch.split(torch.arange(len(split)), AT_ONCE):
                images = split.images[indices.to(split.images.device)]
                found.append(corrupt(images, name, severity, indices=indices, seed=seed))
                advance(0)
            return torch.cat(found)

        images = (
            make()
            if cache is None
            else cache.get(
                hash_content(split.images, name, severity, seed, CORRUPTIONS_VERSION), make
            )
        )
        return data.normalize(images.to(split.images.device))
    inputs = data.normalize(split.images)
    if not shift.noise:
        return inputs
    rng = generator(seed, "noise", repr(shift.noise))
    return inputs + shift.noise * (2 * torch.rand(inputs.shape, generator=rng).to(inputs) - 1)


def errors_under_shifts(
    trial: JobRecord, shifts: Sequence[Shift], images: int, *, validation: bool = False
) -> Mapping[str, Mapping[str, Tensor]]:
    """By network and name of the shift, which of the sampled images it gets wrong, bool (n,), on
    the CPU.

    For segmentation, 1 - mean IoU of each image, float64. Of shifts with one `dataset` these are
    the same images.

    What was computed before in the job, by this or another evaluation, is not computed again; the
    images of a shift are made once for all networks.
    """
    every = name_networks(trial)
    for shift in shifts:
        split = draw_sample(trial, images, shift.dataset, validation=validation)
        missing = [one for one in every if (one.name, shift, images, validation) not in trial.memo]
        if not missing:
            continue
        inputs = shift_images(
            trial.data,
            split,
            shift=shift,
            seed=trial.seed,
            cache=trial.cache,
            advance=trial.advance,
        )
        for one in missing:
            trial.memo[one.name, shift, images, validation] = compute_network_errors(
                one.load(), trial.data, inputs, split.labels
            )
            trial.advance(len(split))
    return {
        one.name: {shift.name: trial.memo[one.name, shift, images, validation] for shift in shifts}
        for one in every
    }


def compute_network_errors(model: nn.Module, data: Data, inputs: Tensor, labels: Tensor) -> Tensor:
    """How wrong a network is on each input, on the CPU: see
    `pruning.measurement.objective.compute_errors`.
    """
    model.eval()
    size = data.at_once(EVAL_BATCH)
    with torch.no_grad():
        return torch.cat(
            [
                compute_errors(model(part).float(), truth).cpu()
                for part, truth in zip(
                    torch.split(inputs, size), torch.split(labels, size), strict=True
                )
            ]
        )


def compute_logits(model: nn.Module, inputs: Tensor) -> Tensor:
    """What a network answers in eval mode, float32 (n, classes), on the CPU."""
    model.eval()
    with torch.no_grad():
        return torch.cat([model(part).float().cpu() for part in torch.split(inputs, EVAL_BATCH)])


def compute_confidence(answer: Tensor) -> Tensor:
    """The softmax of logits over the last dimension, float64; of a network that overflows, which is
    sure of nothing, 0.

    >>> compute_confidence(torch.tensor([[0.0, 0.0], [float("nan"), 0.0]])).tolist()
    [[0.5, 0.5], [0.0, 0.0]]
    """
    found = answer.double().softmax(-1)
    return found.masked_fill(~found.isfinite().all(-1, keepdim=True), 0.0)
