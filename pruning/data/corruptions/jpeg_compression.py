"""JPEG compression.

Source: Hendrycks and Dietterich, Benchmarking neural network robustness to common corruptions and
perturbations, ICLR 2019.
"""

from __future__ import annotations

import functools
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


def _compress(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """The pixels (H, W, 3) or (H, W) of an image written as JPEG and read again."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    file.seek(0)
    with Image.open(file, formats=("JPEG",)) as image:
        return np.asarray(image)


@corruptions.register("jpeg_compression")
@dataclass(frozen=True)
class JpegCompression:
    """Written as JPEG of a quality and read again, by Pillow on the CPU.

    As many images are compressed at once as torch has threads. Colour is stored at half the
    resolution, grey images without colour.

    >>> grey = torch.full((1, 1, 8, 8), 77, dtype=torch.uint8)
    >>> JpegCompression().apply(
    ...     grey, (80,), Draws.from_key(0, indices=torch.arange(1))
    ... ).unique().tolist()
    [77]
    """

    cifar: ClassVar[Table] = (80,), (65,), (58,), (50,), (40,)
    imagenet: ClassVar[Table] = (25,), (18,), (15,), (10,), (7,)

    def apply(self, images: Tensor, strength: Strength, draws: Draws) -> Tensor:
        """Compress every image alike."""
        count, channels, height, width = images.shape
        pictures = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        if channels == 1:
            pictures = pictures[..., 0]
        compress = functools.partial(_compress, quality=int(strength[0]))
        threads = min(torch.get_num_threads(), count)
        if threads == 1:
            compressed = list(map(compress, pictures))
        else:
            with ThreadPoolExecutor(threads) as pool:
                compressed = list(pool.map(compress, pictures))
        read = torch.from_numpy(np.stack(compressed)).view(count, height, width, channels)
        return read.permute(0, 3, 1, 2).contiguous().to(images.device)
