"""JPEG compression.

Source: Hendrycks and Dietterich, Benchmarking neural network robustness to common corruptions and
perturbations, ICLR 2019.
"""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pruning.data.corruptions import Strength, Table, corruptions
from pruning.data.keyed_random import Draws


def _compressed(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    file.seek(0)
    with Image.open(file, formats=("JPEG",)) as image:
        return np.asarray(image)


@corruptions.register("jpeg_compression")
@dataclass(frozen=True)
class JpegCompression:
    """Written as JPEG of a quality and read again, by Pillow on the CPU, an image a thread of
    torch's at a time.

    Colour is stored at half the resolution, grey images as such.

    >>> grey = torch.full((1, 1, 8, 8), 77, dtype=torch.uint8)
    >>> JpegCompression().apply(
    ...     grey, (80,), Draws.keyed(0, indices=torch.arange(1))
    ... ).unique().tolist()
    [77]
    """

    cifar: ClassVar[Table] = (80,), (65,), (58,), (50,), (40,)
    imagenet: ClassVar[Table] = (25,), (18,), (15,), (10,), (7,)

    def apply(self, images: Tensor, strength: Strength, draws: Draws) -> Tensor:
        """Alike for every image."""
        pixels = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        pixels = pixels[..., 0] if images.shape[1] == 1 else pixels
        quality, threads = int(strength[0]), min(torch.get_num_threads(), len(pixels))
        if threads == 1:
            found = [_compressed(one, quality) for one in pixels]
        else:
            with ThreadPoolExecutor(threads) as pool:
                found = list(pool.map(lambda one: _compressed(one, quality), pixels))
        read = torch.from_numpy(np.stack(found)).view(
            len(found), *images.shape[-2:], images.shape[1]
        )
        return read.permute(0, 3, 1, 2).contiguous().to(images.device)
