"""Images under shift, and the parameters that name the shifts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import pruning.analysis.noise
import pruning.analysis.shift_parameters
import pruning.analysis.shifts
from api.http.pointers import list_schema_faults
from pruning.analysis.noise import add_noise, iterate_noisy, key_noise
from pruning.analysis.shift_parameters import ShiftParameters
from pruning.analysis.shifts import (
    Shift,
    compute_network_errors,
    draw_sample,
    errors_under_shifts,
    iterate_logits,
    name_networks,
    predict_classes,
    select_split,
    shift_images,
)
from pruning.data.arrays import Arrays
from pruning.data.tensors import Data, prepare
from pruning.errors import ParameterError, UnknownNameError
from pruning.evaluations import evaluations
from pruning.evaluations.noise_similarity import NoiseSimilarity
from pruning.evaluations.prune_potential import PrunePotential
from pruning.evaluations.robustness import Robustness
from pruning.pipeline.results import Results
from pruning.schemas.recipe import Limit
from tests.support import cases
from tests.support.finished_records import make_record
from tests.support.shifted_jobs import FEW_SHIFTS
from tests.support.shifted_sets import dark


def test_images_of_a_shift_are_made_once_for_all_networks_and_evaluations(
    cascade: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Shift] = []
    image_counts: list[int] = []

    def counted(data: Data, split: Any, *, shift: Shift, **others: Any) -> Tensor:
        made.append(shift)
        image_counts.append(len(split))
        return shift_images(data, split, shift=shift, **others)

    monkeypatch.setattr(pruning.analysis.shifts, "shift_images", counted)
    monkeypatch.setattr(pruning.analysis.shift_parameters, "IMAGES", 17)
    record = make_record(cascade)
    for evaluation in (
        Robustness(corruptions=("fog", "contrast")),
        PrunePotential(corruptions=("contrast", "snow")),
        Robustness(corruptions=("snow",)),
    ):
        evaluation.evaluate(record)
    assert len(made) == len(set(made)) == 3 + 3
    assert Shift() not in made, "the job has measured all networks on the nominal images"
    assert set(image_counts) == {17}
    assert len({key[0] for key in record.memo}) == 10


def test_noise_is_the_same_for_all_networks_and_batch_sizes(
    cascade: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    shifts, data = [Shift(), Shift(noise=1.5), Shift("shot_noise", 5)], cascade.pipeline.data
    whole = errors_under_shifts(make_record(cascade), shifts, 30)
    monkeypatch.setattr(pruning.analysis.noise, "EVAL_BATCH", 7)
    parts = errors_under_shifts(make_record(cascade), shifts, 30)
    assert all(torch.equal(whole[a][b], parts[a][b]) for a in whole for b in whole[a])
    inputs = data.normalize(data.test.images)
    first, second = (
        shift_images(data, data.test, shift=Shift(noise=0.3), seed=4) for _ in range(2)
    )
    assert torch.equal(first, second)
    assert 0.29 < float((first - inputs).abs().max()) <= 0.3 + 1e-6
    assert not torch.equal(first, shift_images(data, data.test, shift=Shift(noise=0.3), seed=5))


@pytest.mark.parametrize("level", [0.0, 0.4])
def test_images_in_batches_get_the_noise_that_they_get_at_once(
    cascade: Results, monkeypatch: pytest.MonkeyPatch, level: float
) -> None:
    data, model = cascade.pipeline.data, cascade.pipeline.dense()
    inputs = data.normalize(data.test.images)
    draws = key_noise(data.test, level, 3, "noise")
    expected = add_noise(inputs, level, draws)
    monkeypatch.setattr(pruning.analysis.noise, "EVAL_BATCH", 7)
    batches = list(iterate_noisy(data, data.test, level, draws))
    assert [len(batch) for batch in batches] == [7, 7, 7, 7, 2]
    assert torch.equal(torch.cat(batches), expected)
    passed: list[int] = []
    classes = predict_classes(model, batches, passed.append)
    assert classes.tolist() == [int(model(image[None]).argmax()) for image in expected]
    assert passed == [7, 7, 7, 7, 2]


@pytest.mark.parametrize("shift", [Shift(noise=0.4), Shift("gaussian_noise", 2), Shift("fog", 2)])
def test_what_is_drawn_for_an_image_goes_with_its_index_in_the_dataset(shift: Shift) -> None:
    """Limits, samples and orders change which images there are, not what befalls them."""
    rng = np.random.default_rng(0)
    arrays = Arrays(
        {name: rng.integers(0, 256, (40, 3, 8, 8), np.uint8) for name in ("train", "test")},
        {name: np.arange(40) % 3 for name in ("train", "test")},
        ("a", "b", "c"),
    )
    whole = prepare(arrays, limit=Limit(), seed=1, normalize=None)
    some = prepare(arrays, limit=Limit(test=17), seed=1, normalize=None)
    expected = shift_images(whole, whole.test, shift=shift, seed=4)
    indices = some.test.dataset_indices
    assert len(indices) == 17
    assert torch.equal(some.test.images, whole.test.images[indices])
    assert torch.equal(shift_images(some, some.test, shift=shift, seed=4), expected[indices])
    mixed = whole.test[torch.tensor([7, 3, 30])]
    assert torch.equal(shift_images(whole, mixed, shift=shift, seed=4), expected[[7, 3, 30]])
    again = mixed[torch.tensor([2, 0])].to(torch.device("cpu"))
    assert again.dataset_indices.tolist() == [30, 7]


def test_noise_counts_standard_deviations_of_the_data_or_of_the_paper() -> None:
    data = cases.make_data(shape=(3, 8, 8))
    inputs = data.normalize(data.test.images)
    own, paper = (
        shift_images(data, data.test, shift=shift, seed=0) - inputs
        for shift in (Shift(noise=0.3), Shift(noise=0.3, noise_unit="paper"))
    )
    scale = torch.tensor([0.2023, 0.1994, 0.2010]) / torch.tensor(data.std)
    torch.testing.assert_close(paper, own * scale[:, None, None], atol=1e-5, rtol=1e-4)
    assert Shift(noise=0.3, noise_unit="paper").name != Shift(noise=0.3).name


def test_several_draws_of_noise_are_averaged_image_by_image(cascade: Results) -> None:
    record = make_record(cascade)
    several = Shift(noise=2.0, noise_draws=3)
    errors = errors_under_shifts(record, [several], 12)
    split = draw_sample(record, 12)
    for network in name_networks(record):
        model = network.load()
        wrong = [
            compute_network_errors(
                model,
                record.data,
                shift_images(record.data, split, shift=several, seed=record.seed, draw=draw),
                split.labels,
            ).double()
            for draw in range(3)
        ]
        assert torch.equal(errors[network.name][several.name], torch.stack(wrong).mean(0))
    assert len({tuple(flags.tolist()) for flags in wrong}) > 1


def test_logits_need_no_gradient_and_leave_that_of_others_alone() -> None:
    model = cases.mlp().train()
    for logits in iterate_logits(model, [torch.zeros(2, 16), torch.ones(3, 16)]):
        assert torch.is_grad_enabled()
        assert not logits.requires_grad
        assert not model.training


def test_a_split_is_one_of_the_data_or_of_a_shifted_set() -> None:
    data = cases.make_data()
    night = dark(data)
    data = replace(data, shifted={"night": night})
    assert select_split(data) is data.test
    assert select_split(data, validation=True) is data.val
    assert select_split(data, "night") is night.test
    assert select_split(data, "night", validation=True) is night.val


def test_a_shift_named_twice_counts_once_and_no_two_have_one_name(cascade: Results) -> None:
    record, twice = make_record(cascade), ("fog", "snow", "fog")
    shifts = ShiftParameters(twice, (1, 1, 2), (0.1, 0.1)).shifts(record)
    assert [s.name for s in shifts] == ["fog 1", "fog 2", "snow 1", "snow 2", "noise 0.1"]
    near = [Shift(noise=level).name for level in (0.1234567, 0.12345671, 1.0, 10.0, 1e-7)]
    assert len(set(near)) == 5
    assert Robustness(corruptions=twice).evaluate(record) == Robustness(
        corruptions=("fog", "snow")
    ).evaluate(record)
    assert len(ShiftParameters().shifts(record)) == 19


@pytest.mark.parametrize("name", ["robustness", "prune_potential"])
def test_wrong_names_are_refused_with_the_job(name: str) -> None:
    with pytest.raises(UnknownNameError, match="unknown corruption 'fogg'; did you mean 'fog'"):
        evaluations.create(name, {"corruptions": ["fogg"]})
    schema = evaluations.entry(name)["params"]

    def faults(params: dict[str, Any]) -> list[str]:
        return [
            fault.pointer
            for fault in list_schema_faults(schema, params, "/params", "invalid_parameter")
        ]

    assert faults(FEW_SHIFTS) == faults({}) == faults({"corruptions": None}) == []
    assert faults({"corruptions": ["fog", "fogg"]}) == ["/params/corruptions/1"]
    assert faults({"severities": [3, 6]}) == ["/params/severities/1"]
    assert faults({"images": 0}) == ["/params/images"]
    assert faults({"noise": [-1]}) == ["/params/noise/0"]
    (fault,) = list_schema_faults(schema, {"corruptions": ["fogg"]}, "", "invalid_parameter")
    assert "'fogg' is not one of" in fault.message
    refused: tuple[dict[str, list[int] | int], ...] = (
        {"severities": [6]},
        {"severities": [0]},
        {"severities": []},
        {"noise": [0]},
        {"images": 0},
    )
    for parameters in refused:
        with pytest.raises(ParameterError):
            evaluations.create(name, parameters)


def test_no_shift_at_all_is_refused_where_there_is_nothing_to_say(cascade: Results) -> None:
    with pytest.raises(ParameterError, match="no shift to look at"):
        Robustness(corruptions=()).evaluate(make_record(cascade))
    section = PrunePotential(corruptions=(), noise=()).evaluate(make_record(cascade))
    assert {key.rpartition("/")[0] for key in section.curves} == {"margin/nominal", "distribution"}


@pytest.mark.parametrize("name", ["prune_potential", "robustness"])
def test_another_reference_than_the_two_is_refused(name: str) -> None:
    with pytest.raises(ParameterError, match="against"):
        evaluations.create(name, {"against": "parent"})


def test_more_images_than_there_are(cascade: Results) -> None:
    record = make_record(cascade)
    assert (
        ShiftParameters(images=10**9).describe(record, [Shift()])
        == "1 shift, at 30 test images: nominal. Nominal errors are those on all 30 test images; "
        "what compares them with errors under shift takes the same images."
    )
    section = NoiseSimilarity(images=10**9, draws=2, levels=(0.1,)).evaluate(record)
    assert {y.n for curve in section.curves.values() for y in curve.y} == {30}
    assert {
        y.n for y in Robustness(("fog",), images=10**9).evaluate(record).curves["excess/random"].y
    } == {30}
