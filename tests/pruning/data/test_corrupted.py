"""Corrupted images: batches, order and seeds, odd sizes, wrong arguments, devices."""

from __future__ import annotations

import pytest
import torch

from pruning.data import corrupted
from pruning.data.keyed_random import Draws
from pruning.errors import DataError, ParameterError, UnknownNameError
from pruning.library import corrupt
from tests.support.corrupted_images import RANDOM, STANDARD, pictures

# keys


@pytest.mark.parametrize("name", STANDARD)
def test_batches_and_order_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for shape in ((3, 32, 32), (1, 9, 14)):
        images = pictures(21, *shape)
        before = torch.get_rng_state()
        kept = images.clone()
        whole = corrupt(images, name, 4)
        assert whole.dtype == torch.uint8
        assert whole.shape == images.shape
        assert whole.is_contiguous()
        order = torch.randperm(21, generator=torch.Generator().manual_seed(0))
        assert torch.equal(corrupt(images[order], name, 4, indices=order), whole[order])
        for i in (0, 7, 20):
            assert torch.equal(
                corrupt(images[i : i + 1], name, 4, indices=torch.tensor([i])), whole[i : i + 1]
            )
        with monkeypatch.context() as patch:
            patch.setitem(corrupted.VALUES_AT_ONCE, "cpu", 4 * images[0].numel())
            assert torch.equal(corrupt(images, name, 4), whole)
        last = images.contiguous(memory_format=torch.channels_last)
        assert torch.equal(corrupt(last, name, 4), whole)
        assert torch.equal(images, kept)
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", RANDOM)
def test_other_seeds_indices_and_severities_are_other_draws(name: str) -> None:
    images = pictures(1, 3, 32, 32).expand(2, -1, -1, -1)
    far = torch.tensor([3, 3 + (1 << 32)])
    pairs = [
        corrupt(images, name, 3),
        corrupt(images, name, 3, seed=1),
        corrupt(images, name, 3, indices=far),
        corrupt(images, name, 4),
    ]
    distinct = {image.numpy().tobytes() for pair in pairs for image in pair}
    assert len(distinct) >= (5 if name == "motion_blur" else 7), (
        "of 7; near angles may be the same shifts in whole pixels"
    )
    draws = {
        Draws.from_key(seed, other, severity, indices=far).words(1)[0].item()
        for seed in (0, 1, -1)
        for other in ("fog", "snow")
        for severity in (1, 2)
    }
    assert len(draws) == 12


# what does not fit


ODD = (
    (1, 3, 1, 1),
    (2, 1, 1, 1),
    (1, 3, 2, 2),
    (2, 3, 1, 5),
    (1, 1, 6, 3),
    (2, 3, 33, 47),
    (0, 3, 32, 32),
)


@pytest.mark.parametrize("name", STANDARD)
def test_tiny_empty_and_odd_images_are_corrupted(name: str) -> None:
    for shape in ODD:
        images = torch.full(shape, 90, dtype=torch.uint8)
        for constants, severity in (("cifar", 5), ("imagenet", 1), ("imagenet", 5)):
            case = f"{shape}, {constants}, {severity}"
            result = corrupt(images, name, severity, constants=constants)
            assert result.shape == shape, case
            assert result.dtype == torch.uint8, case
            assert result is not images, case
            if name.endswith("blur") or name in ("contrast", "pixelate", "elastic_transform"):
                assert torch.equal(result, images), f"a flat image stays flat: {case}"


@pytest.mark.parametrize("name", STANDARD)
def test_black_and_white_images_are_corrupted(name: str) -> None:
    for level in (0, 255):
        images = torch.full((2, 3, 16, 16), level, dtype=torch.uint8)
        result = corrupt(images, name, 5)
        if name in ("shot_noise", "speckle_noise", "fog") and level == 0:
            assert not result.any()
        if name in ("brightness",) and level == 255:
            assert torch.equal(result, images)


def test_wrong_arguments_are_refused() -> None:
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    for severity in (0, 6, -1, 2.0, True, "3", None):
        with pytest.raises(ParameterError, match=r"severity is an integer from 1 to 5, not"):
            corrupt(images, "fog", severity)  # type: ignore[arg-type]
    with pytest.raises(
        UnknownNameError,
        match=r"unknown corruption 'gausian_noise'; did you mean 'gaussian_noise'\?",
    ):
        corrupt(images, "gausian_noise", 1)
    with pytest.raises(
        ParameterError, match=r"constants are 'auto', 'cifar', 'imagenet', not 'mnist'"
    ):
        corrupt(images, "fog", 1, constants="mnist")
    with pytest.raises(DataError, match=r"uint8 levels 0 to 255, not float32"):
        corrupt(images.float(), "fog", 1)
    for shape in ((2, 2, 8, 8), (2, 4, 8, 8), (3, 8, 8), (2, 0, 8, 8)):
        with pytest.raises(DataError, match=r"\(N, C, H, W\) with 1 or 3 channels, not \("):
            corrupt(torch.zeros(shape, dtype=torch.uint8), "fog", 1)
    with pytest.raises(DataError, match="at least 1 pixel each way, not 0 x 8"):
        corrupt(torch.zeros(2, 3, 0, 8, dtype=torch.uint8), "fog", 1)
    with pytest.raises(ParameterError, match=r"2 images need as many indices, not \(3,\)"):
        corrupt(images, "fog", 1, indices=torch.arange(3))
    with pytest.raises(ParameterError, match="indices are integers, not float32"):
        corrupt(images, "fog", 1, indices=torch.zeros(2))
    with pytest.raises(ParameterError, match="indices are at least 0, not -1"):
        corrupt(images, "fog", 1, indices=torch.tensor([0, -1]))
    with pytest.raises(ParameterError, match="severity"):
        corrupt(images[:0], "fog", 9)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", STANDARD)
def test_a_cuda_device_gives_the_same_numbers(name: str) -> None:
    far = torch.tensor([0, 5, 1 << 40])
    on_cpu, on_cuda = (
        Draws.from_key(1, name, indices=far.to(device)) for device in ("cpu", "cuda")
    )
    assert torch.equal(on_cpu.words(100, stream=2), on_cuda.words(100, stream=2).cpu())
    assert torch.equal(on_cpu.normal(100), on_cuda.normal(100).cpu())
    images = pictures(5, 3, 33, 47)
    for severity in (1, 5):
        for constants in ("cifar", "imagenet"):
            cpu, cuda = (
                corrupt(images.to(device), name, severity, constants=constants)
                for device in ("cpu", "cuda")
            )
            assert cuda.device.type == "cuda"
            difference = (cpu.int() - cuda.cpu().int()).abs()
            assert (difference > (1 if name == "elastic_transform" else 0)).double().mean() == 0
