"""Training on images with masks that are scaled and cropped at random."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from torch import Tensor, nn

from pruning.data.tensors import Data
from pruning.errors import ParameterError
from pruning.schemas.training import ScaledCrop, Training
from pruning.training.loop import Controls, train_
from tests.support import cases
from tests.support.segmentation_world import scenes, tiny
from tests.support.trainings import Memory, same


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return scenes(tmp_path_factory.mktemp("data"))


def train(data: Data, saver: Memory | None = None, **fields: Any) -> nn.Module:
    """Train a small network on the scenes; save it after every step."""
    training = Training(epochs=2, batch_size=8, augment="scaled_crop", **fields)
    network = tiny()
    controls = Controls() if saver is None else Controls(saver=saver, every_steps=1)
    train_(network, data, training, seed=3, name="t", controls=controls)
    return network


def test_resuming_at_any_saved_step_ends_in_the_same_bytes(data: Data) -> None:
    saver = Memory()
    whole = train(data, saver)
    assert len(saver.saved) >= 4
    for state in saver.saved:
        assert same(train(data, Memory(state)), whole)


def test_a_network_is_trained_on_crops_of_the_size_that_was_asked_for(data: Data) -> None:
    sizes = set()

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sizes.add((module.training, *inputs[0].shape[2:]))

    network = tiny()
    network.register_forward_pre_hook(note)
    training = Training(
        batch_size=8, augment="scaled_crop", scaled_crop=ScaledCrop(sides=(20, 40), crop=17)
    )
    train_(network, data, training, seed=3, name="t")
    assert sizes == {(True, 17, 17)}
    by_default = train(data)
    assert not same(by_default, network)


def test_it_is_for_images_with_masks() -> None:
    with pytest.raises(ParameterError, match="is for images with masks"):
        train_(cases.mlp(), cases.make_data(), Training(augment="scaled_crop"), seed=0, name="t")


def test_sizes_that_nobody_reads_are_refused() -> None:
    with pytest.raises(ValidationError, match="only augment 'scaled_crop' reads it"):
        Training(scaled_crop=ScaledCrop())
    with pytest.raises(ValidationError, match="30 is more than 20"):
        ScaledCrop(sides=(30, 20))


def test_the_default_sizes_are_those_of_the_papers_deeplab() -> None:
    assert (ScaledCrop().sides, ScaledCrop().crop) == ((256, 1024), 513)
