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
from torch import Tensor, nn

from pruning.analysis.job_record import JobRecord
from pruning.analysis.noise import NoiseUnit, add_noise, key_noise, scale_noise
from pruning.data.corrupted import corrupt
from pruning.data.tensors import Data, Split
from pruning.measurement.measure import EVAL_BATCH
from pruning.measurement.objective import choose_answers, compute_errors
from pruning.schemas.job import NOMINAL
from pruning.seeding import generator
from pruning.storage.tensor_cache import TensorCache, hash_content

AT_ONCE = 256
"""The number of images that are corrupted between two reports of progress."""
CORRUPTIONS_VERSION = 2
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
    noise_unit: NoiseUnit = "data"
    noise_draws: int = 1
    """The draws of the noise over which the error of an image is averaged."""

    @property
    def name(self) -> str:
        """The name of the shift in reports; no two shifts share a name."""
        if self.dataset is not None:
            return self.dataset
        if self.corruption is not None:
            return f"{self.corruption} {self.severity}"
        if not self.noise:
            return NOMINAL
        level = f"noise {float(self.noise)!r}".removesuffix(".0")
        return level if self.noise_unit == "data" else f"{level} in the paper's unit"

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


def draw_positions(
    record: JobRecord, images: int, dataset: str | None = None, *, validation: bool = False
) -> Tensor:
    """The positions within the split of the images that `draw_sample` draws, ascending."""
    split = select_split(record.data, dataset, validation=validation)
    names = ("shifts",) if dataset is None else ("shifts", dataset)
    order = torch.randperm(len(split), generator=generator(record.recipe.image_seed, *names))[
        :images
    ]
    return order.sort().values


def draw_sample(
    record: JobRecord, images: int, dataset: str | None = None, *, validation: bool = False
) -> Split:
    """At most `images` test (or validation) images of the data or of a shifted set, the same ones
    for all shifts.
    """
    split = select_split(record.data, dataset, validation=validation)
    positions = draw_positions(record, images, dataset, validation=validation)
    return split[positions.to(split.labels.device)]


def changes_images(record: JobRecord, shift: Shift, images: int) -> bool:
    """Whether a shift changes any of the images that `draw_sample` draws; noise and other images
    always do.
    """
    if shift.corruption is None:
        return True
    sample = draw_sample(record, images)
    # The first image nearly always tells: the others are made only where it stays as it is.
    sizes = [min(1, len(sample)), *[AT_ONCE] * (len(sample) // AT_ONCE + 1)]
    start = 0
    for size in sizes:
        end = min(start + size, len(sample))
        part = sample[torch.arange(start, end, device=sample.labels.device)]
        if _is_changed(part, shift, record.seed):
            return True
        start = end
        record.advance(0)
    return False


def _is_changed(part: Split, shift: Shift, seed: int) -> bool:
    """Whether a corruption changes any of these images."""
    assert shift.corruption is not None
    corrupted = corrupt(
        part.images, shift.corruption, shift.severity, indices=part.dataset_indices, seed=seed
    )
    return not torch.equal(corrupted, part.images)


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
    draw: int = 0,
) -> Tensor:
    """The images of a split under a shift, normalised, float32 (n, C, H, W); the same for every
    network.

    Randomness is keyed by the index of each image in the dataset: other images, limits and orders
    do not change it. `draw` numbers the draws of noise. Corrupted images that a cache holds are not
    made again. `advance` is called with 0 while the others are made, which may take long.
    """
    if shift.corruption is not None:
        name, severity = shift.corruption, shift.severity

        def make() -> Tensor:
            corrupted = []
            for positions in torch.split(torch.arange(len(split)), AT_ONCE):
                part = split[positions.to(split.labels.device)]
                indices = part.dataset_indices
                corrupted.append(corrupt(part.images, name, severity, indices=indices, seed=seed))
                advance(0)
            return torch.cat(corrupted)

        if cache is None:
            images = make()
        else:
            numbers = hash_content(split.dataset_indices)
            key = hash_content(split.images, numbers, name, severity, seed, CORRUPTIONS_VERSION)
            images = cache.get(key, make)
        return data.normalize(images.to(split.images.device))
    inputs = data.normalize(split.images)
    if not shift.noise:
        return inputs
    draws = key_noise(split, shift.noise, seed, "noise", draw)
    return add_noise(inputs, shift.noise * scale_noise(data, shift.noise_unit), draws)


def list_nominal_errors(record: JobRecord, *, validation: bool = False) -> dict[str, Tensor]:
    """The errors of all networks on all test (or validation) images, as the job measured them."""
    measured = {"given": record.given_measured}
    measured |= {control.name: control.measured for control in record.controls}
    measured |= {row.id: row.measured for row in record.rounds if row.target is not None}
    return {
        name: errors.val_wrong if validation else errors.wrong for name, errors in measured.items()
    }


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
    image, and with several draws of noise the mean over these, float64. Shifts with the same
    `dataset` have the same images.

    Errors that were computed before in the job, by this or another evaluation, are not computed
    again; the images of a shift are made once for all networks.
    """
    networks = name_compared_networks(record, against)
    for shift in shifts:
        missing = [
            network
            for network in networks
            if (network.name, shift, images, validation) not in record.memo
        ]
        if missing:
            split = draw_sample(record, images, shift.dataset, validation=validation)
            errors = _compute_missing_errors(record, missing, split, shift)
            for name, wrong in errors.items():
                record.memo[name, shift, images, validation] = wrong
    return {
        network.name: {
            shift.name: record.memo[network.name, shift, images, validation] for shift in shifts
        }
        for network in networks
    }


def _compute_missing_errors(
    record: JobRecord,
    networks: Sequence[NamedNetwork],
    split: Split,
    shift: Shift,
) -> dict[str, Tensor]:
    """The errors of networks under one shift, means over the draws of noise where it has some."""
    draws = shift.noise_draws if shift.noise else 1
    by_draw: dict[str, list[Tensor]] = {network.name: [] for network in networks}
    for draw in range(draws):
        inputs = shift_images(
            record.data,
            split,
            shift=shift,
            seed=record.seed,
            cache=record.cache,
            advance=record.advance,
            draw=draw,
        )
        for network in networks:
            if record.data.segmentation:
                wrong = compute_network_errors(network.load(), record.data, inputs, split.labels)
                record.advance(len(split))
            else:
                classifier = record.classifiers.load(network.name, network.load)
                answers = classifier.choose_answers(inputs, EVAL_BATCH, record.advance)
                wrong = (answers != split.labels).cpu()
            by_draw[network.name].append(wrong)
    if draws == 1:
        return {name: wrong[0] for name, wrong in by_draw.items()}
    return {name: torch.stack(wrong).double().mean(0) for name, wrong in by_draw.items()}


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
    """The class that a network names for each input of the batches, int64 (n,), on the CPU;
    `NO_ANSWER` where its outputs are not finite.

    `advance` is called with the number of inputs of each batch.
    """
    classes = []
    for logits in iterate_logits(model, batches):
        classes.append(choose_answers(logits).cpu())
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
