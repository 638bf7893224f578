"""Outputs that are NaN or infinite: never right, never in agreement, counted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from pruning.analysis.shifts import predict_classes
from pruning.data.tensors import Split
from pruning.measurement.iou import compute_image_errors, count_overlaps
from pruning.measurement.measure import Measured, measure_network
from pruning.measurement.objective import (
    LARGEST_LOSS,
    choose_answers,
    compare_answers,
    compute_errors,
    compute_losses,
    find_non_finite,
)
from pruning.networks.non_finite import describe_non_finite
from tests.support import cases

BAD = [torch.nan, torch.inf, -torch.inf]


class Spoilt(nn.Module):
    """Answers class 0 for every image, but that bright images have a bad logit."""

    def __init__(self, value: float, classes: int, pixels: bool = False) -> None:
        super().__init__()
        self.value, self.classes, self.pixels = value, classes, pixels

    def forward(self, inputs: Tensor) -> Tensor:
        size = inputs.shape[2:] if self.pixels else ()
        outputs = torch.zeros(len(inputs), self.classes, *size)
        outputs[:, 0] = 1
        outputs[inputs.flatten(1).amax(1) > 0, 1] = self.value
        return outputs


def halves(labels: Tensor) -> Split:
    """Images of which every second is bright."""
    images = torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8)
    images[::2] = 255
    return Split(images, labels)


@pytest.mark.parametrize("value", BAD)
def test_a_bad_logit_is_a_wrong_answer_whatever_the_others_say(value: float) -> None:
    outputs = torch.tensor([[5.0, value], [5.0, 0.0]])
    labels = torch.tensor([0, 0])
    assert choose_answers(outputs).tolist() == [-1, 0]
    assert compute_errors(outputs, labels).tolist() == [True, False]
    assert compute_errors(outputs, 1 - labels).tolist() == [True, True]
    assert compute_losses(outputs, labels).isinf().tolist() == [True, False]
    assert compare_answers(choose_answers(outputs), choose_answers(outputs)).tolist() == [
        False,
        True,
    ]


def test_a_pixel_without_an_answer_is_in_no_prediction() -> None:
    masks = torch.tensor([[[0, 0, 1, 255]]], dtype=torch.uint8)
    outputs = torch.nn.functional.one_hot(torch.tensor([[[0, 0, 1, 1]]]), 2).movedim(-1, 1).float()
    assert compute_errors(outputs, masks).tolist() == [0.0]
    outputs[0, 0, 0, 1] = torch.nan
    overlaps = count_overlaps(choose_answers(outputs), masks, 2)
    assert overlaps.tolist() == [[[1, 1], [2, 1]]]
    assert compute_image_errors(overlaps).tolist() == [0.25]
    assert find_non_finite(outputs, masks).tolist() == [True]
    ignored = torch.zeros(1, 2, 1, 4)
    ignored[..., 3] = torch.nan
    assert find_non_finite(ignored, masks).tolist() == [False]


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("masks", [False, True])
def test_a_measurement_counts_them_as_wrong(value: float, masks: bool) -> None:
    labels = torch.zeros(6, 2, 2, dtype=torch.uint8) if masks else torch.zeros(6, dtype=torch.int64)
    data = cases.make_data(classes=2, shape=(1, 2, 2))
    data = replace(data, test=halves(labels), val=halves(labels[:3]), fit=halves(labels))
    data = replace(data, mean=(0.0,), std=(1.0,))
    measured = measure_network(Spoilt(value, 2, masks), data)
    assert measured.wrong.double().tolist() == [1, 0] * 3
    assert measured.non_finite == (3, 2)
    assert measured.losses[0] == LARGEST_LOSS
    document = measured.document()
    assert document.non_finite_outputs == 3
    assert Measured.restore(measured.tensors("x"), "x").document() == document
    if not masks:
        batches = [data.normalize(data.test.images)]
        answers = predict_classes(Spoilt(value, 2), batches, lambda images: None)
        assert answers.tolist() == [-1, 0] * 3


def test_the_first_place_that_is_not_finite_is_named() -> None:
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.BatchNorm1d(3), nn.Linear(3, 2)
    )
    inputs = torch.ones(2, 1, 2, 2)
    assert describe_non_finite(net.eval(), inputs) is None
    net.get_buffer("3.running_var")[1] = -0.5
    place = describe_non_finite(net, inputs)
    assert (
        place
        == "the first is the output of the layer '3' (BatchNorm1d); its running_var holds -0.5"
    )
    net.get_parameter("1.weight").data[0, 0] = torch.nan
    place = describe_non_finite(net, inputs)
    assert place == "the first is the output of the layer '1' (Linear); its weight is not finite"
    net.get_parameter("1.weight").data.fill_(3e38)
    place = describe_non_finite(net, inputs)
    assert place is not None
    assert "the layer '1' (Linear); its tensors are finite, up to 3e+38" in place
