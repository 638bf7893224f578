"""Sentences that compare networks name the dense network they mean, and claim no more digits than
their images support.
"""

from __future__ import annotations

from pruning.evaluations.informative_features import compare_confidences
from pruning.evaluations.noise_similarity import describe_extremes
from pruning.schemas.report import Curve, Estimate


def test_confidences_on_informative_pixels_are_of_so_many_images_and_of_checkpoints() -> None:
    names = ["given", "control", "magnitude-0.5", "separate"]
    rows = [[0.8, 0.7, 0.6, 0.2], [0.5] * 4, [0.3125, 0.4, 0.6875, 0.1], [0.9] * 4]
    assert compare_confidences(rows, names, images=4) == (
        "As measured on 4 test images, without an interval: on its own informative pixels a "
        "checkpoint is 69 % sure of the true class on average, on those of given 60 %; given is "
        "31 % sure on theirs and 80 % on its own."
    )
    assert "is no checkpoint" in compare_confidences([[0.8]], ["given"], images=4)


def test_similarity_under_noise_says_to_which_dense_network() -> None:
    level = Curve(x=(0.5,), x_label="x", y_label="y", y=(Estimate(value=0.8),))
    curves = {f"matching/{name}": level for name in ("a-0.5", "control", "given")}
    (text,) = describe_extremes(curves, ["a-0.5", "control"], "images", against="given")
    assert text.startswith("At a noise level of 0.5, a-0.5 answers like the network as given on ")
    (text,) = describe_extremes(curves, ["a-0.5", "given"], "images", against="control")
    assert "like the dense control on 80.0 % of the images" in text
