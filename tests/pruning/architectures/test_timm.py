"""timm's networks: which are taken, what comes with their names, and that nothing is fetched."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from pruning.architectures._timm_signatures import describe_signatures, list_networks
from pruning.errors import MissingPackageError, ParameterError, SecateurError, UnknownNameError
from pruning.networks.file_check import check_weights_file
from pruning.networks.loading import build_outline, resolve
from pruning.networks.published import add_published_sizes, read_published_preprocessing
from pruning.networks.recognition import choose_architecture, complete_architecture, find_weights
from pruning.schemas.preprocessing import choose_resizing, describe_model_preprocessing

TINY: dict[str, Any] = {
    "name": "vit_tiny_patch16_224",
    "options": {"depth": 1, "embed_dim": 12, "num_heads": 2},
}


def outline(**kwargs: Any) -> dict[str, torch.Tensor]:
    return dict(build_outline(resolve("timm", kwargs)).state_dict())


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"name": "vit_tiny_patch16_22"}, UnknownNameError, "'vit_tiny_patch16_224'"),
        ({"name": "hf-hub:timm/resnet18"}, UnknownNameError, "unknown timm network"),
        ({"name": "resnet*"}, UnknownNameError, "unknown timm network"),
        ({"name": "resnet18.of_mine"}, UnknownNameError, "unknown timm network"),
        ({"name": "resnet18", "image_size": 64}, ParameterError, "any size"),
        ({"name": "resnet18", "options": {"num_classes": 3}}, ParameterError, "of its own"),
        ({"name": "resnet18", "options": {"pretrained": True}}, ParameterError, "never fetched"),
        ({"name": "resnet18", "options": {"checkpoint_path": "/x"}}, ParameterError, "never"),
        ({"name": "resnet18", "options": {"depht": 3}}, ParameterError, "cannot be built"),
    ],
)
def test_what_timm_does_not_have_is_refused(
    kwargs: dict[str, Any], error: type[SecateurError], message: str
) -> None:
    with pytest.raises(error, match=message):
        resolve("timm", kwargs).build()


def test_a_vision_transformer_of_any_size_and_depth() -> None:
    architecture = resolve("timm", TINY, shape=(1, 32, 32), classes=3)
    assert architecture.input_shape == (1, 32, 32)
    network = architecture.build()
    assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 3)
    assert not any(getattr(module, "fused_attn", False) for module in network.modules())
    assert resolve("timm", {"name": "resnet18"}).input_shape == (3, None, None)


def test_the_image_size_is_read_off_positions() -> None:
    state = outline(**TINY, classes=7, image_size=48)
    candidate = complete_architecture("timm", TINY, {"": state})
    assert candidate.exact
    assert candidate.kwargs["image_size"] == 48
    assert candidate.kwargs["classes"] == 7


def test_names_carry_the_preprocessing_of_published_weights() -> None:
    known = read_published_preprocessing(resolve("timm", {"name": "vit_tiny_patch16_224"}))
    assert known["normalize"] == {"mean": [0.5] * 3, "std": [0.5] * 3}
    assert known["preprocessing"]["sizes"] == {
        "resize": 248, "crop": 224, "interpolation": "bicubic"}  # fmt: skip
    model = {"architecture": "timm", "kwargs": {}, **known}
    preprocessing = describe_model_preprocessing(model)
    assert preprocessing is not None
    assert (preprocessing.source, preprocessing.size_source) == ("timm", "timm")
    # As with torchvision, images of one size that are smaller are not enlarged.
    assert choose_resizing((32, 32), model) == (None, None)
    assert choose_resizing((None, None), model)[1] == "timm"
    tagged = resolve("timm", {"name": "resnet18.tv_in1k", "channels": 1})
    assert "normalize" not in read_published_preprocessing(tagged)
    untrained = add_published_sizes({"architecture": "timm", "kwargs": {"name": "resnet18"}})
    assert "normalize" not in untrained
    assert untrained["preprocessing"]["source"] == "timm"
    assert add_published_sizes({"architecture": "mlp"}) == {"architecture": "mlp"}


def test_weights_are_recognised_by_the_table(tmp_path: Path) -> None:
    state = outline(name="mobilenetv4_conv_small_050", classes=5)
    candidate = choose_architecture({"": {f"module.{key}": state[key] for key in state}})
    assert (candidate.architecture, candidate.exact) == ("timm", True)
    assert candidate.kwargs["classes"] == 5
    assert resolve("timm", candidate.kwargs).build().num_classes == 5
    # What torchvision has under the same names is torchvision's.
    assert choose_architecture({"": outline(name="resnet18")}).architecture == "torchvision"
    network = resolve("timm", {"name": "test_efficientnet", "classes": 4}).build()
    torch.save(network.state_dict(), tmp_path / "net.pth")
    report = check_weights_file(tmp_path / "net.pth")
    assert report.usable, report.problem
    assert report.suggestions[0].kwargs["name"] == "test_efficientnet"


def test_images_of_another_size_have_a_digest_of_their_own() -> None:
    for size in (224, 64):
        shapes = {
            key: tuple(value.shape)
            for key, value in outline(name="vit_tiny_patch16_224", image_size=size).items()
        }
        assert "vit_tiny_patch16_224" in list_networks(shapes)
    assert len(set(describe_signatures(shapes))) == 2
    assert list_networks({"x": (1,)}) == []


def test_without_timm_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    state = outline(name="test_efficientnet", classes=4)

    def refuse(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", refuse)
    for act in (
        lambda: resolve("timm", {"name": "resnet18"}),
        lambda: find_weights(None, {}, {"": state}),
    ):
        with pytest.raises(MissingPackageError, match=r"pip install 'secateur\[timm\]'") as caught:
            act()
        assert caught.value.code == "missing_package"
