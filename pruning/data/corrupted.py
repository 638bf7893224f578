"""Images under common corruptions: checked, and corrupted in batches that fit the caches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from pruning.data.corruptions import SEVERITIES, Constants, choose_table, corruptions
from pruning.data.keyed_random import Draws
from pruning.errors import DataError, ParameterError
from pruning.schemas.training import Corrupt
from pruning.seeding import generator

VALUES_AT_ONCE = {"cpu": 1 << 18, "cuda": 1 << 25}
"""The number of values that are corrupted at once, by device: on the CPU as many as fit its caches.
"""


def corrupt(
    images: Tensor,
    name: str,
    severity: int,
    *,
    indices: Tensor | None = None,
    seed: int = 0,
    constants: str = "auto",
) -> Tensor:
    """Images under one of the 19 common corruptions: uint8 (N, C, H, W), C 1 or 3, in and out.

    >>> images = torch.full((4, 3, 32, 32), 128, dtype=torch.uint8)
    >>> noisy = corrupt(images, "gaussian_noise", 3)
    >>> torch.equal(
    ...     noisy[2:], corrupt(images[2:], "gaussian_noise", 3, indices=torch.tensor([2, 3]))
    ... )
    True

    The result is on the device of the images. Randomness is keyed by `seed`, `name`, `severity` and
    the index of each image (`indices`, integers (N,) of at least 0; else 0 ... N - 1): batches and
    their order change nothing.
    `constants` are those of CIFAR-10-C ("cifar") or of ImageNet-C ("imagenet"); "auto" takes the
    former for images whose shorter side is at most 64 pixels. Raises `UnknownNameError` for an
    unknown corruption, `ParameterError` for a severity that is not 1 to 5, constants or indices
    that do not fit, `DataError` for other images.

    Source: Hendrycks and Dietterich, Benchmarking neural network robustness to common corruptions
    and perturbations, 2019.
    """
    method = corruptions.create(name)
    if isinstance(severity, bool) or not isinstance(severity, int) or severity not in SEVERITIES:
        raise ParameterError(
            f"severity is an integer from 1 to 5, not {severity!r}", pointer="severity"
        )
    if constants not in get_args(Constants):
        raise ParameterError(
            f"constants are {', '.join(map(repr, get_args(Constants)))}, not {constants!r}",
            pointer="constants",
        )
    _check_images(images)
    if indices is None:
        indices = torch.arange(len(images))
    _check_indices(indices, len(images))
    if not len(images):
        return images.clone()
    strength = choose_table(type(method), constants, *images.shape[-2:])[severity - 1]  # type: ignore[arg-type]
    draws = Draws.from_key(seed, name, severity, indices=indices.to(images.device, torch.int64))
    values = VALUES_AT_ONCE.get(images.device.type, 1 << 25)
    batch_size = max(1, values // images[0].numel())
    corrupted = []
    with torch.no_grad():
        for begin in range(0, len(images), batch_size):
            batch = slice(begin, begin + batch_size)
            corrupted.append(method.apply(images[batch].contiguous(), strength, draws[batch]))
        return torch.cat(corrupted)


@dataclass(frozen=True)
class EpochCorruptions:
    """The corruption and the severity that each of N images has in one epoch."""

    spec: Corrupt
    names: Tensor
    """The places in `spec.names`, int64 (N,)."""
    severities: Tensor
    """int64 (N,)."""
    noise_seed: int

    @classmethod
    def draw(cls, count: int, spec: Corrupt, seed: int, *names: str | int) -> EpochCorruptions:
        """Draw both uniformly, from the seed and the names.

        Raises `UnknownNameError` for a corruption that is not registered.
        """
        for name in spec.names:
            corruptions.get(name)  # an unknown one is refused even where no image draws it
        rng = generator(seed, *names, "corruption")
        name_index = torch.randint(len(spec.names), (count,), generator=rng)
        severity_index = torch.randint(len(spec.severities), (count,), generator=rng)
        severities = torch.tensor(spec.severities)[severity_index]
        return cls(spec, name_index, severities, int(torch.randint(2**31, (1,), generator=rng)))

    def apply(self, images: Tensor, index: Tensor) -> Tensor:
        """The images with these numbers, each under its corruption; severity 0 leaves it as it is.

        uint8 (n, C, H, W) in and out.
        """
        corrupted = images.clone()
        names, severities = self.names[index], self.severities[index]
        for number, name in enumerate(self.spec.names):
            for severity in self.spec.severities:
                chosen = ((names == number) & (severities == severity)).nonzero().flatten()
                if severity and len(chosen):
                    at = chosen.to(images.device)
                    corrupted[at] = corrupt(
                        images[at], name, severity, indices=index[chosen], seed=self.noise_seed
                    )
        return corrupted


def corrupt_epoch(images: Tensor, spec: Corrupt | None, seed: int, *names: str | int) -> Tensor:
    """The images of one epoch, each under a corruption and severity of its own: uint8 (N, C, H, W).

    See `EpochCorruptions`. Without a spec the images themselves are returned.

    >>> images = torch.full((6, 1, 4, 4), 100, dtype=torch.uint8)
    >>> torch.equal(
    ...     corrupt_epoch(images, Corrupt(names=("brightness",), severities=(0,)), 0, "train", 0),
    ...     images,
    ... )
    True
    """
    if spec is None:
        return images
    drawn = EpochCorruptions.draw(len(images), spec, seed, *names)
    return drawn.apply(images, torch.arange(len(images)))


def _check_images(images: Tensor) -> None:
    """Raise `DataError` unless the images are uint8 (N, C, H, W) of 1 or 3 channels."""
    if images.dtype != torch.uint8:
        raise DataError(
            "images to corrupt are uint8 levels 0 to 255, not "
            f"{str(images.dtype).removeprefix('torch.')}"
        )
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise DataError(
            f"images to corrupt are (N, C, H, W) with 1 or 3 channels, not {tuple(images.shape)}"
        )
    if not images.shape[2] or not images.shape[3]:
        raise DataError(
            f"images to corrupt have at least 1 pixel each way, not {images.shape[2]} x "
            f"{images.shape[3]}"
        )


def _check_indices(indices: Tensor, number: int) -> None:
    """Raise `ParameterError` unless the indices are integers (number,) of at least 0."""
    if indices.shape != (number,):
        raise ParameterError(
            f"{number} images need as many indices, not {tuple(indices.shape)}", pointer="indices"
        )
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        raise ParameterError(
            f"indices are integers, not {str(indices.dtype).removeprefix('torch.')}",
            pointer="indices",
        )
    if number and int(indices.min()) < 0:
        raise ParameterError(f"indices are at least 0, not {int(indices.min())}", pointer="indices")
