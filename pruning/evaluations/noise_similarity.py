"""How alike pruned networks and the dense one answer, the further images are moved at random.

Source: Liebenwein, Baykal, Carter, Gifford and Rus, Lost in pruning: the effects of pruning neural
networks beyond test accuracy, MLSys 2021, and the code released with it: uniform noise in
normalised space, not clipped, the same for all networks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from pruning import wording as q
from pruning.analysis.job_record import NO_SEPARATE, JobRecord
from pruning.analysis.job_size import JobSize
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
from pruning.measurement.intervals import mean_interval
from pruning.measurement.measure import EVAL_BATCH
from pruning.schemas.report import Curve, Estimate, Section
from pruning.seeding import generator

NOTES = (
    "Matching predictions: the fraction of noisy images x + U(-level, level), in normalised "
    "space, to which two networks "
    "give one class. Softmax distance: the mean of ||softmax(z') - softmax(z)||_2 over these "
    "images. Both are means over "
    "draws of the noise with a normal 95 % interval over draws; all networks see the same noise.",
    "A network that is pruned but alike answers like the dense one also where images are noisy; "
    "an independently trained "
    "network is what alike by training alone looks like.",
)
OF_PIXELS = "For segmentation both are of pixels: means over all that are not ignored."


@evaluations.register("noise_similarity")
@dataclass(frozen=True)
class NoiseSimilarity:
    """Matching predictions and softmax distance against the level of noise, of every checkpoint to
    the dense network.

    `separate` trains a second dense network from another seed for comparison, where the job trains
    its network. The paper has 1,000 images, 100 draws and 15 levels; the default is smaller.
    """

    version: ClassVar[int] = 1
    asked_only: ClassVar[bool] = True
    of_pixels: ClassVar[bool] = True
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
    images: Annotated[int, Field(ge=1)] = 200
    against: Literal["given", "control"] = "given"
    separate: bool = False

    def units(self, scale: JobSize) -> int:
        """Every network on every draw of every level; by pixels the dense one again beside each."""
        networks = scale.networks + (self.separate and scale.recipe.train is not None)
        runs = 2 * (networks - 1) if scale.segmentation else networks
        return min(self.images, scale.images["test"]) * len(set(self.levels)) * self.draws * runs

    def evaluate(self, trial: JobRecord) -> Section:
        """Curves `matching/<network>` and `softmax_distance/<network>` over noise levels; a table
        with deviations.
        """
        split, levels = draw_sample(trial, self.images), tuple(sorted(set(self.levels)))
        every = name_networks(trial)
        reference = next(one for one in every if one.name == self.against)
        others = [one for one in every if one is not reference]
        notes: list[str] = []
        if self.separate:
            second = trial.separate()
            if second is None:
                notes.append(NO_SEPARATE)
            else:
                others.append(NamedNetwork("separate", lambda: second))
        dense = (
            torch.empty(0)
            if trial.data.segmentation
            else self._answers(trial, split, levels, reference)
        )
        curves: dict[str, Curve] = {}
        rows: list[dict[str, Any]] = []
        for one in others:
            if trial.data.segmentation:
                matching, distance = self._by_pixel(trial, split, levels, one, reference)
            else:
                own = self._answers(trial, split, levels, one)
                matching = (own.argmax(3) == dense.argmax(3)).double().mean(2)  # (levels, draws)
                distance = (compute_confidence(own) - compute_confidence(dense)).norm(dim=3).mean(2)
            for key, values, label in (
                ("matching", matching, MATCHING),
                ("softmax_distance", distance, DISTANCE),
            ):
                curves[f"{key}/{one.name}"] = Curve(
                    x=levels,
                    x_label="noise level, normalised space",
                    y_label=label,
                    y=tuple(_over_draws(level, len(split)) for level in values),
                )
            rows += [
                {
                    "network": one.name,
                    "noise": level,
                    "agreement": float(a.mean()),
                    "agreement_standard_deviation": float(a.std()),
                    "softmax_distance": float(d.mean()),
                    "softmax_distance_standard_deviation": float(d.std()),
                }
                for level, a, d in zip(levels, matching, distance, strict=True)
            ]
        return Section(
            title="Similarity under noise",
            version=self.version,
            curves=curves,
            details={"similarity": rows},
            notes=(
                *notes,
                *self._said(curves, others, "pixels" if trial.data.segmentation else "images"),
                *NOTES,
                *([OF_PIXELS] if trial.data.segmentation else []),
            ),
        )

    def _answers(
        self, trial: JobRecord, split: Split, levels: Sequence[float], network: NamedNetwork
    ) -> Tensor:
        """Logits (levels, draws, images, classes)."""
        model, inputs = network.load(), trial.data.normalize(split.images)
        found = []
        for level in levels:
            found.append(
                torch.stack(
                    [compute_logits(model, noisy) for noisy in self._noisy(trial, inputs, level)]
                )
            )
            trial.advance(self.draws * len(inputs))
        return torch.stack(found)

    def _noisy(self, trial: JobRecord, inputs: Tensor, level: float) -> Iterator[Tensor]:
        """The images of each draw, the same for all networks."""
        rng = generator(trial.seed, "noise_similarity", repr(level))
        for _ in range(self.draws):
            yield inputs + level * (2 * torch.rand(inputs.shape, generator=rng) - 1).to(inputs)

    def _by_pixel(
        self,
        trial: JobRecord,
        split: Split,
        levels: Sequence[float],
        one: NamedNetwork,
        reference: NamedNetwork,
    ) -> tuple[Tensor, Tensor]:
        """Agreement and distance (levels, draws) of two networks, means over the pixels that are
        not ignored.
        """
        mine, dense = one.load().eval(), reference.load().eval()
        inputs, known, size = (
            trial.data.normalize(split.images),
            split.labels != IGNORED,
            trial.data.at_once(EVAL_BATCH),
        )
        matching, distance = (
            torch.zeros(len(levels), self.draws, dtype=torch.float64) for _ in range(2)
        )
        for row, level in enumerate(levels):
            for draw, noisy in enumerate(self._noisy(trial, inputs, level)):
                for images, there in zip(
                    torch.split(noisy, size), torch.split(known, size), strict=True
                ):
                    with torch.no_grad():
                        a, b = (
                            network(images).float().movedim(1, -1)[there]
                            for network in (mine, dense)
                        )
                    matching[row, draw] += float((a.argmax(1) == b.argmax(1)).sum())
                    distance[row, draw] += float(
                        (compute_confidence(a) - compute_confidence(b)).norm(dim=1).sum()
                    )
                    trial.advance(2 * len(images))
        return matching / known.sum().cpu(), distance / known.sum().cpu()

    def _said(
        self, curves: dict[str, Curve], others: list[NamedNetwork], of_what: str
    ) -> list[str]:
        """The likest and the least alike checkpoint at the largest level."""
        matching = {one.name: curves[f"matching/{one.name}"] for one in others}
        known = {
            name: curve.y[-1].value
            for name, curve in matching.items()
            if name not in ("given", "control", "separate")
        }
        if not known:
            return []
        most, least = (
            max(known, key=lambda name: known[name]),
            min(known, key=lambda name: known[name]),
        )
        text = (
            f"At a noise level of {matching[most].x[-1]:g}, {most} answers like the dense "
            "network on "
            f"{q.percent(known[most])} of the {of_what}"
        )
        text += f", {least} on {q.percent(known[least])}." if least != most else "."
        if "separate" in matching:
            other = matching["separate"].y[-1].value
            below = sum(value < other for value in known.values())
            text += (
                f" An independently trained network does on {q.percent(other)}; of "
                f"{q.count_of(len(known), 'checkpoint')}, {below} are less alike than that."
            )
        return [text]


MATCHING = "agreement with the dense network under noise"
DISTANCE = "distance of the softmax from the dense network's under noise"


def _over_draws(values: Tensor, images: int) -> Estimate:
    """The mean over draws with its normal interval."""
    found = mean_interval(float(values.sum()), float(values.square().sum()), len(values))
    return found.model_copy(update={"n": images * len(values)})
