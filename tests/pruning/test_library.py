"""The functions that a notebook user imports."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from pruning.errors import DeviceError, ParameterError, UnknownNameError
from pruning.library import prune, read_masks, score, write_sparse
from pruning.masks import find_prunable
from pruning.measurement.measure import measure_network
from pruning.networks.device import pick_device
from tests.support import cases
from tests.support.pipelines import MODES, pretrained


def trained() -> nn.Module:
    model = cases.mlp()
    model.load_state_dict(pretrained()[0])
    return model


def test_scores_by_parameter_name() -> None:
    model = trained()
    scores = score(model, "magnitude", [])
    assert all(
        torch.equal(scores[name], weight.abs()) for name, weight in find_prunable(model).items()
    )
    first, second = (
        score(model, "random", [], generator=torch.Generator().manual_seed(1)) for _ in range(2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(UnknownNameError, match="did you mean 'magnitude'"):
        score(model, "magnitud", [])
    with pytest.raises(ParameterError, match="criterion 'magnitude': p: Unexpected"):
        score(model, "magnitude", [], p=2)


def test_masks_of_a_sparse_checkpoint_are_read(tmp_path: Path) -> None:
    masks = cases.half_masks(trained())
    state = {name: mask.float() for name, mask in masks.items()}
    write_sparse(tmp_path / "sparse", state, masks)
    read = read_masks(tmp_path / "sparse")
    assert list(read) == sorted(masks)
    assert all(torch.equal(read[name], mask) for name, mask in masks.items())


def test_batches_may_come_from_a_generator() -> None:
    data = cases.make_data()
    assert set(score(trained(), "magnitude", data.batches(data.fit, 8))) == {"1.weight", "3.weight"}


def test_images_beyond_those_a_criterion_looks_at_are_not_dropped_in_silence() -> None:
    """Sorted by class, the first images would all be of one class."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(300) // 100
    inputs = torch.randn(300, 1, 4, 4, generator=rng)
    sorted_batches = list(zip(inputs.split(70), labels.split(70), strict=True))
    with pytest.warns(UserWarning, match="snip looks at 30 of 300 images, equally many of each"):
        scores = score(trained(), "snip", sorted_batches)
    with pytest.warns(UserWarning, match="snip looks at 30"):
        again = score(trained(), "snip", sorted_batches)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = score(trained(), "snip", [(inputs[:30], labels[:30])])
    assert all(torch.equal(scores[name], again[name]) for name in scores)
    assert not any(torch.allclose(scores[name], first[name]) for name in scores)
    with pytest.warns(UserWarning, match="wanda looks at 5 of 300 images, drawn at random"):
        score(trained(), "wanda", sorted_batches, images=5)


@pytest.mark.parametrize(
    "mode", ["none", "fine_tune", "lr_rewind", "trained weight_rewind", "before_training"]
)
def test_prune_yields_one_network_a_target_and_leaves_the_given_one_alone(mode: str) -> None:
    model, data = trained().train(), cases.make_data()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    pruned_models = list(prune(model, cases.recipe(0.5, 0.8, **MODES[mode]), data))
    assert [pruned.requested_sparsity for pruned in pruned_models] == [0.5, 0.8]
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    for pruned in pruned_models:
        assert pruned.criterion == "magnitude"
        assert not pruned.model.training
        assert measure_network(pruned.model, data).document() == pruned.measured
        weights = find_prunable(pruned.model)
        assert all(
            not bool(weights[name].detach()[~mask].any()) for name, mask in pruned.masks.items()
        )
        kept = sum(int(mask.sum()) for mask in pruned.masks.values())
        assert pruned.sparsity == pytest.approx(
            1 - kept / sum(mask.numel() for mask in pruned.masks.values())
        )


def test_prune_takes_tied_and_frozen_weights() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2, self.fc3 = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 3)
            self.fc2.weight = self.fc1.weight
            self.fc2.bias.requires_grad_(False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x.flatten(1))))))

    torch.manual_seed(0)
    recipe = cases.recipe(
        0.5,
        train={"epochs": 4, "batch_size": 8, "optimizer": {"lr": 0.05}},
        retrain={"mode": "fine_tune", "batch_size": 8},
    )
    (pruned,) = prune(Tied(), recipe, cases.make_data())
    assert list(pruned.masks) == ["fc1.weight", "fc3.weight"]
    assert isinstance(pruned.model, Tied)
    assert pruned.model.fc1.weight is pruned.model.fc2.weight


def test_rewinding_needs_weights_to_rewind_to() -> None:
    with pytest.raises(ParameterError, match="weights to rewind to"):
        list(
            prune(
                trained(), cases.recipe(0.5, retrain={"mode": "weight_rewind"}), cases.make_data()
            )
        )


def test_devices() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_device_that_is_not_here_is_a_named_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto").type == pick_device("cpu").type == "cpu"
    with pytest.raises(DeviceError, match="no"):
        pick_device("cuda")
