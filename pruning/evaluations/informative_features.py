"""The pixels that are enough for a network to name its class, and whether they are enough for
another network.

Source: Liebenwein, Baykal, Carter, Gifford and Rus, Lost in pruning: the effects of pruning neural
networks beyond test accuracy, MLSys 2021; BackSelect by Carter et al., AISTATS 2019.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from pruning import wording
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
from pruning.errors import ParameterError
from pruning.evaluations import evaluations
from pruning.measurement.costs import count_flops
from pruning.reporting.pictures import arrange_pixels, draw_grid, draw_heatmap
from pruning.schemas.report import Picture, Section
from pruning.types import Shape

WORK = 200_000_000_000
"""Multiply-adds of all orderings, where the recipe does not say how large blocks are."""
SHOWN = 4
"""The number of images in the picture of masks."""
SEPARATE = "separate"
"""The name of the second dense network."""
HIDDEN = (90, 110, 150)
"""The colour of hidden pixels in the pictures."""
NOTES = (
    "BackSelect hides block after block of an image's pixels (0 after normalisation), each time "
    "the one without which the network stays surest of the class it names; informative are the "
    "pixels hidden last. The heatmap has the mean confidence toward the true class of one network "
    "on images of which only another's informative pixels remain.",
    "The paper orders single pixels of about 2,000 images; here are fewer images, and blocks "
    "where single pixels would take too long (`block`, in pixels).",
)


@evaluations.register("informative_features")
@dataclass(frozen=True)
class InformativeFeatures:
    """The pixels by which each network tells its class, and the confidence of the others on them.

    H_ij = mean over images of the confidence toward the true class of network j on the informative
    pixels of network i.
    """

    version: ClassVar[int] = 2
    images: Annotated[int, Field(ge=1)] = 4
    share: Annotated[float, Field(gt=0, le=1, description="of the pixels that are informative")] = (
        0.1
    )
    block: Annotated[
        int | None,
        Field(
            ge=1,
            description="side in pixels, at most the share of an image; by default what takes "
            "little time",
        ),
    ] = None
    most: Annotated[
        int,
        Field(ge=3, description="networks; of more, the dense ones and evenly spaced checkpoints"),
    ] = 5
    separate: bool = False

    def units(self, size: JobSize) -> int:
        """Return the forward passes of every ordering, block after block; raises `ParameterError`
        where a block is more than the share.
        """
        networks = min(self.most, size.networks + self.separate)
        images = min(self.images, size.images["test"])
        block = self._find_block(size.shape, networks * images * size.macs)
        return networks * images * _count_passes(_count_blocks(size.shape, block))

    def evaluate(self, record: JobRecord) -> Section:
        """Return the heatmap, as table and picture, and the informative pixels of some images."""
        split = draw_sample(record, self.images)
        networks = self._choose_networks(record)
        inputs, labels = record.data.normalize(split.images), split.labels
        macs = max(1, count_flops(record.dense(), record.data.shape, None) // 2)
        block = self._find_block(record.data.shape, len(networks) * len(labels) * macs)
        height, width = split.images.shape[2:]
        numbers = number_blocks(height, width, block)
        kept = torch.stack(
            [
                self._find_pixels(network, inputs, numbers, block=block, advance=record.advance)
                for network in networks
            ]
        )  # (networks, n, H, W)
        confidences = _measure_confidences(networks, kept, inputs, labels)
        shares = kept.double().mean((1, 2, 3)).tolist()
        names = [network.name for network in networks]
        missing = [NO_SEPARATE] if self.separate and SEPARATE not in names else []
        return Section(
            title="Informative features",
            version=self.version,
            details={
                "confidence_on_informative_pixels": [
                    {"pixels_of": names[i], "share_kept": shares[i]}
                    | {f"confidence {name}": value for name, value in zip(names, row, strict=True)}
                    for i, row in enumerate(confidences)
                ]
            },
            units={"share_kept": "share"} | {f"confidence {name}": "fraction" for name in names},
            pictures={
                "heatmap": draw_heatmap(
                    confidences,
                    names,
                    names,
                    ("informative pixels of", "confidence of"),
                    "Confidence toward the true class, in percent, on "
                    f"{_describe_share(shares)} of the pixels",
                ),
                "masks": _draw_masks(split, kept, names, _describe_share(shares)),
            },
            notes=(
                compare_confidences(confidences, names, images=len(labels)),
                *missing,
                f"{wording.count_of(len(labels), 'test image')}, blocks of {block} x {block} "
                f"pixels, {_describe_share(shares)} of the pixels kept (asked for: "
                f"{wording.percent(self.share)}; whole blocks, and at least one, are kept).",
                *NOTES,
            ),
        )

    def _find_block(self, shape: Shape, macs: int) -> int:
        """The side of a block, never of more pixels than the share; `macs` are those of one forward
        pass of all networks on all images.
        """
        largest = max(1, math.isqrt(math.floor(self.share * shape[1] * shape[2] + 1e-6)))
        if self.block is None:
            return _choose_block(shape, macs, largest)
        if self.block > largest:
            raise ParameterError(
                f"a block of {self.block} x {self.block} pixels is more than "
                f"{wording.percent(self.share)} of an image of {shape[1]} x {shape[2]}: block is "
                f"at most {largest} here",
                pointer="block",
            )
        return self.block

    def _choose_networks(self, record: JobRecord) -> list[NamedNetwork]:
        """The dense networks, and as many evenly spaced checkpoints as `most` leaves room for."""
        networks = name_networks(record)
        dense, checkpoints = networks[:2], networks[2:]
        if not record.control.retrainings:
            dense = dense[:1]  # the two are one network
        count = min(self.most - len(dense), len(checkpoints))
        chosen = [
            checkpoints[round(place * (len(checkpoints) - 1) / max(1, count - 1))]
            for place in range(count)
        ]
        second = record.separate() if self.separate else None
        if second is not None:
            chosen.append(NamedNetwork(SEPARATE, lambda: second))
        return dense + chosen

    def _find_pixels(
        self,
        network: NamedNetwork,
        inputs: Tensor,
        numbers: Tensor,
        *,
        block: int,
        advance: Callable[[int], None],
    ) -> Tensor:
        """The informative pixels of a network on each image, bool (n, H, W)."""
        model = optimise_for_inference(network.load(), inputs[0])
        passes = _count_passes(int(numbers.max()) + 1)
        classes = compute_logits(model, inputs).argmax(1).tolist()
        pixels = []
        for image, target in zip(inputs, classes, strict=True):
            order = select_backwards(model, image, target, block)
            pixels.append(find_informative_pixels(order, numbers, self.share))
            advance(passes)
        return torch.stack(pixels)


def _measure_confidences(
    networks: Sequence[NamedNetwork], kept: Tensor, inputs: Tensor, labels: Tensor
) -> list[list[float]]:
    """The mean confidence toward the true class, by network whose pixels are kept and by network
    that answers.
    """
    confidences = []
    for pixels in kept:
        masked = inputs * pixels[:, None].to(inputs)
        row = []
        for network in networks:
            confidence = compute_confidence(compute_logits(network.load(), masked))
            row.append(float(confidence.gather(1, labels.cpu()[:, None]).mean()))
        confidences.append(row)
    return confidences


def _describe_share(shares: Sequence[float]) -> str:
    """The share of the pixels that was kept, in words: from the least to the most of a network."""
    least, most = wording.percent(min(shares)), wording.percent(max(shares))
    return least if least == most else f"{least} to {most}"


def _draw_masks(split: Split, kept: Tensor, names: list[str], share: str) -> Picture:
    """The first images, each beside the informative pixels of every network."""
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
    caption = f"Informative pixels of each network, {share} of an image"
    return draw_grid(tiles, caption, columns=len(names) + 1)


def compare_confidences(
    confidences: Sequence[Sequence[float]], names: Sequence[str], *, images: int
) -> str:
    """Return in words the mean confidence of the checkpoints on their own pixels and on those of
    the dense network, and the reverse; `names` begin with the dense networks.
    """
    checkpoints = [
        index for index, name in enumerate(names) if name not in ("given", "control", SEPARATE)
    ]
    if not checkpoints:
        return "There is no checkpoint to compare with."

    def average(values: Iterable[float]) -> str:
        return wording.percent(sum(values) / len(checkpoints), 0)

    own = average(confidences[index][index] for index in checkpoints)
    on_dense = average(confidences[0][index] for index in checkpoints)
    dense_on_theirs = average(confidences[index][0] for index in checkpoints)
    return (
        f"As measured on {wording.count_of(images, 'test image')}, without an interval: on its own "
        f"informative pixels a checkpoint is {own} sure of the true class on average, on those of "
        f"{names[0]} {on_dense}; {names[0]} is {dense_on_theirs} sure on theirs and "
        f"{wording.percent(confidences[0][0], 0)} on its own."
    )


def _count_blocks(shape: Shape, block: int) -> int:
    """The number of blocks of an image (C, H, W); a block at the border may be smaller."""
    rows = -(-shape[1] // block)
    columns = -(-shape[2] // block)
    return rows * columns


def _count_passes(blocks: int) -> int:
    """The forward passes of one ordering: each step tries every block that is left."""
    return blocks * (blocks + 1) // 2


def _choose_block(shape: Shape, macs: int, largest: int) -> int:
    """The smallest side with which all orderings take less than the work allowed, at most the
    largest.
    """
    for block in range(1, largest):
        if macs * _count_passes(_count_blocks(shape, block)) <= WORK:
            return block
    return largest
