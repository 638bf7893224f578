"""Which pixels are enough for a network, and whether another network can tell by them too.

Source: Liebenwein, Baykal, Carter, Gifford and Rus, Lost in pruning: the effects of pruning neural
networks beyond test accuracy, MLSys 2021; BackSelect by Carter et al., AISTATS 2019.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from pruning import wording as q
from pruning.analysis.back_select import (
    find_informative_pixels,
    number_blocks,
    optimise_for_inference,
    select_backwards,
)
from pruning.analysis.job_record import NO_SEPARATE, JobRecord
from pruning.analysis.job_size import JobSize
from pruning.analysis.shifts import (
    NamedNetwork,
    compute_confidence,
    compute_logits,
    draw_sample,
    name_networks,
)
from pruning.data.tensors import Split
from pruning.evaluations import evaluations
from pruning.measurement.costs import count_flops
from pruning.reporting.pictures import arrange_pixels, draw_grid, draw_heatmap
from pruning.schemas.report import Picture, Section
from pruning.types import Shape

WORK = 200_000_000_000
"""Multiply-adds of all orderings, where the recipe does not say how large blocks are."""
SHOWN = 4
HIDDEN = (90, 110, 150)
"""The colour of hidden pixels in the pictures."""
NOTES = (
    "BackSelect hides block after block of an image's pixels (0 after normalisation), each time "
    "the one without which the "
    "network stays surest of the class it names; informative are the pixels hidden last. The "
    "heatmap has the mean "
    "confidence toward the true class of one network on images of which only another's "
    "informative pixels remain.",
    "The paper orders single pixels of about 2,000 images; here are fewer images, and blocks "
    "where single pixels would take "
    "too long (`block`, in pixels).",
)


@evaluations.register("informative_features")
@dataclass(frozen=True)
class InformativeFeatures:
    """The pixels by which each network tells its class, and the confidence of every network on
    those of every other.

    H_ij = mean over images of the confidence toward the true class of network j on the informative
    pixels of network i.
    """

    version: ClassVar[int] = 1
    asked_only: ClassVar[bool] = True
    images: Annotated[int, Field(ge=1)] = 4
    share: Annotated[float, Field(gt=0, le=1, description="of the pixels that are informative")] = (
        0.1
    )
    block: Annotated[
        int | None, Field(ge=1, description="side in pixels; by default what takes little time")
    ] = None
    most: Annotated[
        int,
        Field(ge=3, description="networks; of more, the dense ones and evenly spaced checkpoints"),
    ] = 5
    separate: bool = False

    def units(self, scale: JobSize) -> int:
        """Every ordering, block after block."""
        count, images = (
            min(self.most, scale.networks + self.separate),
            min(self.images, scale.images["test"]),
        )
        number = _number(scale.shape, self.block or _block(scale.shape, scale.macs, count, images))
        return count * images * number * (number + 1) // 2

    def evaluate(self, trial: JobRecord) -> Section:
        """The heatmap, as table and picture; the informative pixels of some images; orderings in no
        table.
        """
        split, every = draw_sample(trial, self.images), self._networks(trial)
        inputs, labels = trial.data.normalize(split.images), split.labels
        macs = max(1, count_flops(trial.dense(), trial.data.shape, None) // 2)
        block = self.block or _block(trial.data.shape, macs, len(every), len(labels))
        height, width = split.images.shape[2:]
        numbers = number_blocks(height, width, block)
        kept = torch.stack(
            [
                self._informative(one, inputs, numbers, block, trial.advance)  # (networks, n, H, W)
                for one in every
            ]
        )
        values = []
        for i, _ in enumerate(every):
            seen = inputs * kept[i][:, None].to(inputs)
            row = []
            for other in every:
                confidence = compute_confidence(compute_logits(other.load(), seen))
                row.append(float(confidence.gather(1, labels.cpu()[:, None]).mean()))
            values.append(row)
        names = [one.name for one in every]
        return Section(
            title="Informative features",
            version=self.version,
            details={
                "confidence_on_informative_pixels": [
                    {"pixels_of": names[i]}
                    | {f"confidence {name}": value for name, value in zip(names, row, strict=True)}
                    for i, row in enumerate(values)
                ]
            },
            pictures={
                "heatmap": draw_heatmap(
                    values,
                    names,
                    names,
                    ("informative pixels of", "confidence of"),
                    "Confidence toward the true class, in percent",
                ),
                "masks": self._masks(split, kept, names),
            },
            notes=(
                self._said(values, names),
                *([NO_SEPARATE] if self.separate and "separate" not in names else []),
                f"{q.count_of(len(labels), 'test image')}, blocks of {block} x {block} pixels, "
                f"{q.percent(self.share, 0)} of the pixels.",
                *NOTES,
            ),
        )

    def _networks(self, trial: JobRecord) -> list[NamedNetwork]:
        found = name_networks(trial)
        dense, checkpoints = found[:2], found[2:]
        if trial.control_measured is trial.given_measured or bool(
            (trial.control_measured.losses == trial.given_measured.losses).all()
        ):
            dense = dense[:1]  # not retrained: one network
        room = min(self.most - len(dense), len(checkpoints))
        chosen = [
            checkpoints[round(place * (len(checkpoints) - 1) / max(1, room - 1))]
            for place in range(room)
        ]
        second = trial.separate() if self.separate else None
        return (
            dense + chosen + ([] if second is None else [NamedNetwork("separate", lambda: second)])
        )

    def _informative(
        self,
        network: NamedNetwork,
        inputs: Tensor,
        numbers: Tensor,
        block: int,
        advance: Callable[[int], None],
    ) -> Tensor:
        """Bool (n, H, W)."""
        model = optimise_for_inference(network.load(), inputs[0])
        number, found = int(numbers.max()) + 1, []
        for image, target in zip(
            inputs, compute_logits(model, inputs).argmax(1).tolist(), strict=True
        ):
            found.append(
                find_informative_pixels(
                    select_backwards(model, image, target, block), numbers, self.share
                )
            )
            advance(number * (number + 1) // 2)
        return torch.stack(found)

    def _masks(self, split: Split, kept: Tensor, names: list[str]) -> Picture:
        tiles = []
        for n in range(min(SHOWN, len(split))):
            image = split.images[n].cpu()
            tiles.append(("image", arrange_pixels(image.numpy())))
            image = image if len(image) == 3 else image[:1].expand(3, -1, -1)
            hidden = torch.tensor(HIDDEN, dtype=torch.uint8)[:, None, None]
            tiles += [
                (name, arrange_pixels(torch.where(kept[i, n], image, hidden).numpy()))
                for i, name in enumerate(names)
            ]
        return draw_grid(tiles, "Informative pixels of each network", columns=len(names) + 1)

    def _said(self, values: list[list[float]], names: list[str]) -> str:
        """How much surer networks are on their own pixels than on those of the dense network, and
        the reverse.
        """
        others = [i for i, name in enumerate(names) if name not in ("given", "control")]
        if not others:
            return "There is no other network to compare with."
        own = sum(values[i][i] for i in others) / len(others)
        dense = sum(values[0][i] for i in others) / len(others)
        back = sum(values[i][0] for i in others) / len(others)
        return (
            f"On their own informative pixels the other networks are {q.percent(own)} sure of "
            "the true class on "
            f"average, on those of {names[0]} {q.percent(dense)}; {names[0]} is "
            f"{q.percent(back)} sure on theirs and "
            f"{q.percent(values[0][0])} on its own."
        )


def _number(shape: Shape, block: int) -> int:
    """How many blocks an image has."""
    return -(-shape[1] // block) * -(-shape[2] // block)


def _block(shape: Shape, macs: int, networks: int, images: int) -> int:
    """The smallest side with which all orderings take less than the work allowed."""
    for block in range(1, max(shape[1:]) + 1):
        number = _number(shape, block)
        if networks * images * macs * number * (number + 1) // 2 <= WORK:
            return block
    return max(shape[1:])
