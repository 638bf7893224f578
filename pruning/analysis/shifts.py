"""Test images under shift (noise in normalised space, corruptions), and the answers and errors of
networks on them.

Source: Liebenwein, Baykal, Carter, Gifford and Rus, Lost in pruning: the effects of pruning neural
networks beyond test accuracy, MLSys 2021, and the code released with it (uniform noise in
normalised space, not clipped); Hendrycks and Dietterich, ICLR 2019 (corruptions).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from pruning.analysis.job_record import JobRecord
from pruning.data.corrupted import corrupt
from pruning.data.tensors import Data, Split
from pruning.measurement.measure import EVAL_BATCH
from pruning.measurement.objective import compute_errors
from pruning.schemas.job import NOMINAL
from pruning.seeding import generator
from pruning.storage.tensor_cache import TensorCache, hash_content

AT_ONCE = 256
"""The number of images that are corrupted between two reports of progress."""
CORRUPTIONS_VERSION = 1
"""The version of the corruptions, raised when one changes: cached images are then made again."""


Reference = Literal["control", "given"]
"""The dense network that checkpoints are compared with: the control that was retrained as each was,
or the network as given.
"""


@dataclass(frozen=True)
class Shift:
    """A distribution of test images.

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
    """The noise added to normalised images, uniform in [-noise, noise]."""
    dataset: str | None = None
    """The name of one of the data's shifted sets: other images, while a corruption or noise changes
    those of the dataset.
    """

    @property
    def name(self) -> str:
        """The name of the shift in reports; no two shifts share a name."""
        if self.dataset is not None:
            return self.dataset
        if self.corruption is not None:
            return f"{self.corruption} {self.severity}"
        return f"noise {float(self.noise)!r}".removesuffix(".0") if self.noise else NOMINAL

    def group(self, trained: Collection[str]) -> str:
        """`nominal`, `noise`, `shifted set`, `corruption`, or `corruption trained on` for a
        corruption in `trained`.
        """
        if self.dataset is not None:
            return "shifted set"
        if self.corruption is not None:
            return "corruption trained on" if self.corruption in trained else "corruption"
        return "noise" if self.noise else NOMINAL


@dataclass(frozen=True)
class NamedNetwork:
    """A network of a job with its name in reports."""

    name: str
    load: Callable[[], nn.Module]


def name_networks(record: JobRecord) -> list[NamedNetwork]:
    """The dense network as given, the dense control with the fewest retrainings, and every
    checkpoint.
    """
    return [
        NamedNetwork("given", record.dense),
        NamedNetwork(record.control.name, record.control.network),
        *_name_checkpoints(record),
    ]


def name_compared_networks(record: JobRecord, against: Reference) -> list[NamedNetwork]:
    """The dense network as given, the dense controls where checkpoints are compared with these, and
    every checkpoint.
    """
    controls = record.controls if against == "control" else ()
    return [
        NamedNetwork("given", record.dense),
        *(NamedNetwork(control.name, control.network) for control in controls),
        *_name_checkpoints(record),
    ]


def find_references(record: JobRecord, against: Reference) -> dict[str, str]:
    """The name of the dense network that each checkpoint is compared with, by checkpoint: the
    control that was retrained as it was, or the network as given.
    """
    references = {}
    for row in record.rounds:
        control = record.find_control(row)
        if row.target is not None and control is not None:
            references[row.id] = control.name if against == "control" else "given"
    return references


def _name_checkpoints(record: JobRecord) -> list[NamedNetwork]:
    return [
        NamedNetwork(checkpoint.id, checkpoint.network)
        for checkpoint in record.rounds
        if checkpoint.target is not None
    ]


def select_split(data: Data, dataset: str | None = None, *, validation: bool = False) -> Split:
    """The test (or validation) images of the data, or of one of its shifted sets."""
    source = data if dataset is None else data.shifted[dataset]
    return source.val if validation else source.test


def draw_sample(
    record: JobRecord, images: int, dataset: str | None = None, *, validation: bool = False
) -> Split:
    """At most `images` test (or validation) images of the data or of a shifted set, the same ones
    for all shifts.
    """
    split = select_split(record.data, dataset, validation=validation)
    names = ("shifts",) if dataset is None else ("shifts", dataset)
    order = torch.randperm(len(split), generator=generator(record.seed, *names))[:images]
    return split[order.sort().values.to(split.labels.device)]


def find_trained_corruptions(record: JobRecord) -> frozenset[str]:
    """The names of the corruptions that the job trains or retrains on: its modelled shifts."""
    trained = [
        schedule.corrupt.names
        for schedule in (record.recipe.train, record.recipe.retrain)
        if schedule is not None and schedule.corrupt is not None
    ]
    return frozenset(name for names in trained for name in names)


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

    Corrupted images that a cache holds are not made again. `advance` is called with 0 while the
    others are made, which may take long.
    """
    if shift.corruption is not None:
        name, severity = shift.corruption, shift.severity

        def make() -> Tensor:
            corrupted = []
            for indices in torch.split(torch.arange(len(split)), AT_ONCE):
                images = split.images[indices.to(split.images.device)]
                corrupted.append(corrupt(images, name, severity, indices=indices, seed=seed))
                advance(0)
            return torch.cat(corrupted)

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
    return add_noise(inputs, shift.noise, generator(seed, "noise", repr(shift.noise)))


def add_noise(inputs: Tensor, level: float, rng: Generator) -> Tensor:
    """x + U(-level, level), of the shape of `inputs`, drawn on the CPU: the same on every device.

    Inputs in parts get the noise that they get at once.

    >>> whole, part = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    >>> noisy = add_noise(torch.zeros(3, 2), 0.5, whole)
    >>> bool(noisy.abs().max() <= 0.5)
    True
    >>> bool((add_noise(torch.zeros(2, 2), 0.5, part) == noisy[:2]).all())
    True
    """
    return inputs + level * (2 * torch.rand(inputs.shape, generator=rng).to(inputs) - 1)


def iterate_noisy(data: Data, split: Split, level: float, rng: Generator) -> Iterator[Tensor]:
    """Normalised batches of the images of a split, in order, with noise where `level` is not 0;
    memory holds one batch of a large split at a time.
    """
    for inputs, _ in data.batches(split, EVAL_BATCH):
        yield add_noise(inputs, level, rng) if level else inputs


def errors_under_shifts(
    record: JobRecord,
    shifts: Sequence[Shift],
    images: int,
    *,
    validation: bool = False,
    against: Reference = "control",
) -> Mapping[str, Mapping[str, Tensor]]:
    """Whether each sampled image is wrong, bool (n,) on the CPU, by name of the network and of the
    shift.

    The networks are those of `name_compared_networks`. For segmentation, 1 - mean IoU of each
    image, float64. Shifts with the same `dataset` have the
    same images.

    Errors that were computed before in the job, by this or another evaluation, are not computed
    again; the images of a shift are made once for all networks.
    """
    networks = name_compared_networks(record, against)
    for shift in shifts:
        split = draw_sample(record, images, shift.dataset, validation=validation)
        missing = [
            network
            for network in networks
            if (network.name, shift, images, validation) not in record.memo
        ]
        if not missing:
            continue
        inputs = shift_images(
            record.data,
            split,
            shift=shift,
            seed=record.seed,
            cache=record.cache,
            advance=record.advance,
        )
        for network in missing:
            record.memo[network.name, shift, images, validation] = compute_network_errors(
                network.load(), record.data, inputs, split.labels
            )
            record.advance(len(split))
    return {
        network.name: {
            shift.name: record.memo[network.name, shift, images, validation] for shift in shifts
        }
        for network in networks
    }


def compute_network_errors(model: nn.Module, data: Data, inputs: Tensor, labels: Tensor) -> Tensor:
    """The error of a network on each input, on the CPU, see
    `pruning.measurement.objective.compute_errors`.
    """
    size = data.at_once(EVAL_BATCH)
    answers = iterate_logits(model, torch.split(inputs, size))
    errors = [
        compute_errors(logits, truth).cpu()
        for logits, truth in zip(answers, torch.split(labels, size), strict=True)
    ]
    return torch.cat(errors)


def compute_logits(model: nn.Module, inputs: Tensor) -> Tensor:
    """The logits of a network in eval mode, float32 (n, classes), on the CPU."""
    answers = iterate_logits(model, torch.split(inputs, EVAL_BATCH))
    return torch.cat([logits.cpu() for logits in answers])


def predict_classes(
    model: nn.Module, batches: Iterable[Tensor], advance: Callable[[int], None]
) -> Tensor:
    """The class that a network names for each input of the batches, int64 (n,), on the CPU.

    `advance` is called with the number of inputs of each batch.
    """
    classes = []
    for logits in iterate_logits(model, batches):
        classes.append(logits.argmax(1).cpu())
        advance(len(logits))
    return torch.cat(classes)


@torch.no_grad()
def iterate_logits(model: nn.Module, batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """The logits of a network in eval mode by batch, float32, on the device of the inputs."""
    model.eval()
    for inputs in batches:
        yield model(inputs).float()


def compute_confidence(answer: Tensor) -> Tensor:
    """The softmax of logits over the last dimension, float64; 0 where a network overflows, which is
    sure of nothing.

    >>> compute_confidence(torch.tensor([[0.0, 0.0], [float("nan"), 0.0]])).tolist()
    [[0.5, 0.5], [0.0, 0.0]]
    """
    confidence = answer.double().softmax(-1)
    return confidence.masked_fill(~confidence.isfinite().all(-1, keepdim=True), 0.0)
