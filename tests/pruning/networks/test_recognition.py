"""Architectures recognised by names and shapes, and files checked before they are sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from pruning.errors import ModelError, ParameterError
from pruning.networks import uploads
from pruning.networks.file_check import check_weights_file
from pruning.networks.loading import build_outline, resolve
from pruning.networks.recognition import (
    choose_architecture,
    complete_architecture,
    find_weights,
    recognise,
)
from secateur.cli import app

State = dict[str, Tensor]
KNOWN: dict[str, tuple[str, dict[str, Any]]] = {
    "cifar": ("cifar_resnet", {"depth": 14, "width": 0.5, "classes": 7}),
    "cifar bottleneck": (
        "cifar_resnet", {"depth": 11, "block": "bottleneck", "shortcut": "B", "channels": 1}),
    "wide": ("wide_resnet", {"depth": 10, "width": 2.0, "classes": 100}),
    "preact": ("preact_resnet", {"depth": 18, "width": 0.25}),
    "imagenet width": ("imagenet_resnet", {"depth": 50, "width": 0.25, "classes": 9}),
    "densenet": ("densenet", {"depth": 16, "width": 0.5}),
    "densenet22": ("densenet22", {"growth": 8, "block": "basic", "compression": 1.0}),
    "vgg": ("vgg", {"depth": 13, "width": 0.25, "batchnorm": False, "head": [64, 32]}),
    "mlp": ("mlp", {"hidden": [6, 5], "channels": 3, "height": 4, "width": 4, "classes": 3}),
    "resnet18": ("torchvision", {"name": "resnet18", "classes": 1000}),
    "wide_resnet50_2": ("torchvision", {"name": "wide_resnet50_2", "classes": 3}),
    "vit": ("torchvision", {"name": "vit_b_32", "image_size": 64, "classes": 3}),
    "squeezenet": ("torchvision", {"name": "squeezenet1_1", "classes": 3}),
    "fcn": ("torchvision_segmentation", {"name": "fcn_resnet50", "aux": True, "classes": 5}),
    "lraspp": ("torchvision_segmentation", {"name": "lraspp_mobilenet_v3_large", "classes": 5}),
}  # fmt: skip


FAST = ("cifar", "mlp", "vgg", "resnet18")


def outline(architecture: str, /, **kwargs: Any) -> State:
    return dict(build_outline(resolve(architecture, kwargs)).state_dict())


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case in FAST else pytest.mark.slow) for case in KNOWN]
)
def test_the_only_architecture_that_fits_is_chosen(case: str) -> None:
    name, kwargs = KNOWN[case]
    state = {f"module.model.{key}": value for key, value in outline(name, **kwargs).items()}
    candidate = choose_architecture({"state_dict": state})
    assert (candidate.architecture, resolve(name, candidate.kwargs)) == (
        name,
        resolve(name, kwargs),
    )
    assert "'module.model.' was taken off" in "; ".join(candidate.fitted.notes)


def test_a_network_that_nobody_registered_is_refused_with_the_nearest() -> None:
    state = outline("resnet18", classes=5) | {"extra.weight": torch.empty(1, device="meta")}
    with pytest.raises(ModelError, match=r"resnet18.*1 unexpected \(extra\.weight\)") as caught:
        choose_architecture({"": state})
    assert caught.value.pointer == "/architecture"
    with pytest.raises(ModelError, match="no registered architecture has these names"):
        choose_architecture({"": {"x": torch.empty(1)}})


def test_several_that_fit_are_named() -> None:
    state = {"fc1.weight": torch.empty(3, 12), "fc1.bias": torch.empty(3)}
    assert [candidate.kwargs["channels"] for candidate in recognise({"": state})] == [3]
    state = {"fc1.weight": torch.empty(3, 108 * 108 * 3), "fc1.bias": torch.empty(3)}
    assert len(recognise({"": state})) == 1


def test_what_is_given_goes_before_what_is_read_off() -> None:
    states = {"": outline("vit_b_32", image_size=64, classes=7)}
    inferred = complete_architecture("torchvision", {"name": "vit_b_32"}, states)
    assert inferred.exact
    assert inferred.kwargs == {"name": "vit_b_32", "classes": 7, "image_size": 64}
    candidate, notes = find_weights("vit_b_32", {"classes": 5}, states)
    assert candidate.kwargs["classes"] == 5
    assert candidate.fitted.differences.other_shape == ("heads.head.weight", "heads.head.bias")
    assert notes == ["image_size 64 was read off the weights"]


def test_a_file_is_checked_before_it_is_sent(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = resolve("cifar_resnet", {"depth": 8, "width": 0.25, "classes": 4}).build()
    torch.save({"net": net.state_dict(), "acc": 93.1}, tmp_path / "ckpt.pth")
    run = CliRunner().invoke(app, ["models", "check", str(tmp_path / "ckpt.pth")])
    assert run.exit_code == 0, run.output
    assert "the weights were taken from 'net'" in run.output
    assert 'cifar_resnet {"depth": 8, "width": 0.25' in run.output
    run = CliRunner().invoke(
        app, ["models", "check", str(tmp_path / "ckpt.pth"), "--json", "--architecture", "resnet18"]
    )
    assert run.exit_code == 1
    report = json.loads(run.output)
    assert report["problem"].startswith("the state dict does not fit the architecture: missing")
    assert report["suggestions"][0]["architecture"] == "cifar_resnet"
    torch.save(nn.Linear(1, 1), tmp_path / "module.pth")
    assert "whole Python object" in str(check_weights_file(tmp_path / "module.pth").problem)


def test_inputs_that_are_transformed_leave_no_trace_in_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published files of GoogLeNet expect it and are known; of others it is said."""
    net = resolve("googlenet", {"transform_input": True, "classes": 3}).build()
    assert net.transform_input
    torch.save(net.state_dict(), tmp_path / "net.pth")
    report = check_weights_file(tmp_path / "net.pth", "googlenet")
    assert report.usable
    assert any(
        "transform_input is not in the file: false is taken" in note for note in report.notes
    )
    given = check_weights_file(tmp_path / "net.pth", "googlenet", {"transform_input": True})
    assert not any("transform_input" in note for note in given.notes)
    monkeypatch.setattr(uploads, "_hash_file", lambda path: "1378be20" + 56 * "0")
    known = check_weights_file(tmp_path / "net.pth")
    assert known.suggestions[0].kwargs["transform_input"] is True
    assert "the one that torchvision published" in known.notes[0]
    with pytest.raises(ParameterError, match="transforms no inputs") as caught:
        resolve("resnet18", {"transform_input": True})
    assert caught.value.pointer == "transform_input"


def test_a_network_of_ones_own_says_what_is_missing(tmp_path: Path) -> None:
    save_file({"a.weight": torch.zeros(2, 2)}, tmp_path / "f")
    report = check_weights_file(tmp_path / "f")
    assert not report.usable
    assert "docs/plugins.md" in report.lines()[-1]
