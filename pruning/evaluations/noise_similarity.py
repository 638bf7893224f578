"""The similarity of the answers of pruned networks and the dense one, the further images are moved
at random.

Source: Liebenwein, Baykal, Carter, Gifford and Rus, Lost in pruning: the effects of pruning neural
networks beyond test accuracy, MLSys 2021, and the code released with it: uniform noise in
normalised space, not clipped, the same for all networks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from pruning import wording
from pruning.analysis.job_record import NO_SEPARATE, JobRecord
from pruning.analysis.job_size import JobSize
from pruning.analysis.noise import NoiseUnit, add_noise, key_noise, scale_noise
from pruning.analysis.shift_parameters import IMAGES, describe_noise_unit, label_noise
from pruning.analysis.shifts import (
    NamedNetwork,
    compute_confidence,
    compute_logits,
    draw_sample,
    name_networks,
)
from pruning.data.arrays import IGNORED
from pruning.data.tensors import Split
from pruning.evaluations import evaluations
from pruning.measurement.crossed import crossed_mean
from pruning.measurement.measure import EVAL_BATCH
from pruning.measurement.objective import choose_answers, compare_answers
from pruning.schemas.report import Curve, Estimate, Section, Unit

UNITS: dict[str, Unit] = {
    "agreement": "fraction",
    "agreement_standard_deviation": "fraction",
}
LABELS = {"matching": "matching predictions", "softmax_distance": "softmax distance"}
"""The words of the names of curves and columns."""
MATCHING = "agreement with the dense network under noise"
DISTANCE = "distance of the softmax from the dense network's under noise"
NOTES = (
    "Matching predictions: the fraction of noisy images x + U(-level, level), in normalised "
    "space, to which two networks give one class. Softmax distance: the mean of "
    "||softmax(z') - softmax(z)||_2 over these images. Both are means over draws of the noise with "
    "a 95 % interval for other images and other draws; all networks see the same noise.",
    "A network that is pruned but alike answers like the dense one also where images are noisy; "
    "an independently trained network is what alike by training alone looks like.",
)
OF_PIXELS = "For segmentation both are of pixels: means over all that are not ignored."


@evaluations.register("noise_similarity")
@dataclass(frozen=True)
class NoiseSimilarity:
    """Similarity of every checkpoint to the dense network against the level of noise.

    Matching predictions and softmax distance are measured. `separate` trains a second dense network
    from another seed for comparison, where the job trains its network. The paper has 1,000 images,
    100 draws and 15 levels in units of its own (`noise_unit`); the default is 5 draws and 8 levels.
    """

    version: ClassVar[int] = 3
    supports_segmentation: ClassVar[bool] = True
    levels: Annotated[tuple[Annotated[float, Field(ge=0, le=100)], ...], Field(min_length=1)] = (
        0.0,
        0.1,
        0.2,
        0.3,
        0.4,
        0.5,
        0.6,
        0.7,
    )
    draws: Annotated[int, Field(ge=2, le=1000)] = 5
    images: Annotated[int, Field(ge=1)] = IMAGES
    noise_unit: NoiseUnit = "data"
    against: Literal["given", "control"] = "given"
    separate: bool = False

    def units(self, size: JobSize) -> int:
        """Return the forward passes of every network on every draw of every level; by pixels the
        dense network runs again beside each.
        """
        networks = size.networks + (self.separate and size.recipe.train is not None)
        runs = 2 * (networks - 1) if size.segmentation else networks
        return min(self.images, size.images["test"]) * len(set(self.levels)) * self.draws * runs

    def evaluate(self, record: JobRecord) -> Section:
        """Return curves `matching/<network>` and `softmax_distance/<network>` over noise levels,
        and a table with deviations.
        """
        split = draw_sample(record, self.images)
        networks = name_networks(record)
        reference = next(network for network in networks if network.name == self.against)
        others = [network for network in networks if network is not reference]
        notes: list[str] = []
        if self.separate:
            second = record.separate()
            if second is None:
                notes.append(NO_SEPARATE)
            else:
                others.append(NamedNetwork("separate", lambda: second))
        segmentation = record.data.segmentation
        curves: dict[str, Curve] = {}
        rows: list[dict[str, Any]] = []
        sizes = _count_answers(split, segmentation=segmentation)
        for network, (matching, distance) in self._compare(record, split, reference, others):
            curves |= self._draw_curves(network.name, matching, distance, sizes)
            rows += self._tabulate(network.name, matching, distance, sizes)
        return Section(
            title="Similarity under noise",
            version=self.version,
            curves=curves,
            details={"similarity": rows},
            labels=LABELS,
            units=UNITS,
            notes=(
                *notes,
                *describe_extremes(
                    curves,
                    [network.name for network in others],
                    "pixels" if segmentation else "images",
                    against=self.against,
                ),
                f"{wording.count_of(len(split), 'test image')}, "
                f"{wording.count_of(self.draws, 'draw')} of the noise. "
                f"{describe_noise_unit(record.data, self.noise_unit)}",
                *NOTES,
                *([OF_PIXELS] if segmentation else []),
            ),
        )

    @property
    def _sorted_levels(self) -> tuple[float, ...]:
        """The levels of noise, each once, the smallest first."""
        return tuple(sorted(set(self.levels)))

    def _compare(
        self,
        record: JobRecord,
        split: Split,
        reference: NamedNetwork,
        others: Sequence[NamedNetwork],
    ) -> Iterator[tuple[NamedNetwork, tuple[Tensor, Tensor]]]:
        """Each network with its agreement with the reference and its distance from it, both sums
        over the answers to an image, float64 (levels, draws, images).
        """
        if record.data.segmentation:
            # Logits of every pixel of every draw are too many to keep: both networks run again.
            for network in others:
                yield network, self._compare_pixels(record, split, network, reference)
            return
        dense = self._compute_answers(record, split, reference)
        for network in others:
            own = self._compute_answers(record, split, network)
            agrees = compare_answers(choose_answers(own, 3), choose_answers(dense, 3))
            matching = agrees.double()
            distance = (compute_confidence(own) - compute_confidence(dense)).norm(dim=3)
            yield network, (matching, distance)

    def _compute_answers(self, record: JobRecord, split: Split, network: NamedNetwork) -> Tensor:
        """The logits of a network, (levels, draws, images, classes)."""
        model, inputs = network.load(), record.data.normalize(split.images)
        answers = []
        for level in self._sorted_levels:
            draws = [
                compute_logits(model, noisy)
                for noisy in self._draw_noise(record, split, inputs, level)
            ]
            answers.append(torch.stack(draws))
            record.advance(self.draws * len(inputs))
        return torch.stack(answers)

    def _draw_noise(
        self, record: JobRecord, split: Split, inputs: Tensor, level: float
    ) -> Iterator[Tensor]:
        """The noisy images of each draw, the same for all networks."""
        size = level * scale_noise(record.data, self.noise_unit)
        for draw in range(self.draws):
            draws = key_noise(split, level, record.seed, "noise_similarity", draw)
            yield add_noise(inputs, size, draws)

    def _compare_pixels(
        self, record: JobRecord, split: Split, network: NamedNetwork, reference: NamedNetwork
    ) -> tuple[Tensor, Tensor]:
        """The agreement and the distance of two networks, sums over the pixels of an image that
        are not ignored, (levels, draws, images).
        """
        model, dense_model = network.load().eval(), reference.load().eval()
        inputs = record.data.normalize(split.images)
        known = split.labels != IGNORED
        batch = record.data.at_once(EVAL_BATCH)
        levels = self._sorted_levels
        matching = torch.zeros(len(levels), self.draws, len(split), dtype=torch.float64)
        distance = torch.zeros_like(matching)
        for row, level in enumerate(levels):
            for draw, noisy in enumerate(self._draw_noise(record, split, inputs, level)):
                for places in torch.split(torch.arange(len(split)), batch):
                    images, pixels = noisy[places], known[places]
                    with torch.no_grad():
                        own = model(images).float().movedim(1, -1)
                        dense = dense_model(images).float().movedim(1, -1)
                    answers, dense_answers = choose_answers(own, -1), choose_answers(dense, -1)
                    agrees = compare_answers(answers, dense_answers) & pixels
                    gap = (compute_confidence(own) - compute_confidence(dense)).norm(dim=-1)
                    matching[row, draw, places] = agrees.sum((1, 2)).double().cpu()
                    distance[row, draw, places] = (gap * pixels).sum((1, 2)).cpu()
                    record.advance(2 * len(images))
        return matching, distance

    def _draw_curves(
        self, name: str, matching: Tensor, distance: Tensor, sizes: Tensor
    ) -> dict[str, Curve]:
        """The two curves of a network over the levels of noise."""
        quantities: tuple[tuple[str, Tensor, str, Unit], ...] = (
            ("matching", matching, MATCHING, "fraction"),
            ("softmax_distance", distance, DISTANCE, "number"),
        )
        return {
            f"{key}/{name}": Curve(
                x=self._sorted_levels,
                x_label=label_noise(self.noise_unit),
                y_label=label,
                y_unit=unit,
                y=tuple(
                    crossed_mean(sums, sizes, proportion=key == "matching") for sums in by_level
                ),
            )
            for key, by_level, label, unit in quantities
        }

    def _tabulate(
        self, name: str, matching: Tensor, distance: Tensor, sizes: Tensor
    ) -> list[dict[str, Any]]:
        """The rows of a network, one for each level of noise: means and deviations over draws."""
        agreements = matching.sum(2) / sizes.sum()
        distances = distance.sum(2) / sizes.sum()
        return [
            {
                "network": name,
                "noise": level,
                "agreement": float(agreements[row].mean()),
                "agreement_standard_deviation": compute_deviation(agreements[row]),
                "softmax_distance": float(distances[row].mean()),
                "softmax_distance_standard_deviation": compute_deviation(distances[row]),
            }
            for row, level in enumerate(self._sorted_levels)
        ]


def compute_deviation(draws: Tensor) -> float:
    """The standard deviation of draws; without noise they are equal, and it is 0."""
    return 0.0 if bool((draws == draws[0]).all()) else float(draws.std())


def _count_answers(split: Split, *, segmentation: bool) -> Tensor:
    """The number of answers to each image: 1, or its pixels that are not ignored; float64 (n,)."""
    if not segmentation:
        return torch.ones(len(split), dtype=torch.float64)
    return (split.labels != IGNORED).sum((1, 2)).double().cpu()


def describe_extremes(
    curves: Mapping[str, Curve], others: Sequence[str], noun: str, *, against: str
) -> list[str]:
    """Return in words the checkpoint that is most and the one that is least similar to the dense
    network at the largest level of noise.
    """
    reference = "the network as given" if against == "given" else "the dense control"
    matching = {name: curves[f"matching/{name}"] for name in others}
    checkpoints = {
        name: curve.y[-1]
        for name, curve in matching.items()
        if name not in ("given", "control", "separate")
    }
    if not checkpoints:
        return []
    most = max(checkpoints, key=lambda name: checkpoints[name].value)
    least = min(checkpoints, key=lambda name: checkpoints[name].value)
    text = (
        f"At a noise level of {matching[most].x[-1]:g}, {most} answers like {reference} on "
        f"{wording.percent_with_interval(checkpoints[most])} of the {noun}"
    )
    if least != most:
        text += f", {least} on {wording.percent_with_interval(checkpoints[least])}"
    text += "."
    if "separate" in matching:
        separate = matching["separate"].y[-1]
        below = sum(_lies_below(estimate, separate) for estimate in checkpoints.values())
        text += (
            f" An independently trained network does on {wording.percent_with_interval(separate)}; "
            f"of {wording.count_of(len(checkpoints), 'checkpoint')}, {below} are less alike than "
            "that by more than their intervals."
        )
    return [text]


def _lies_below(first: Estimate, second: Estimate) -> bool:
    """Whether the interval of the first lies below that of the second."""
    return first.high is not None and second.low is not None and first.high < second.low
