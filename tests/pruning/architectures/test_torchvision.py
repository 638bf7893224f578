"""torchvision's networks: which are taken, that what prunes understands them, and that nothing slow
is imported for it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning.architectures import _torchvision_shim as torchvision_shim
from pruning.architectures._torchvision_networks import SMALLEST, TENSORS
from pruning.architectures.torchvision import NAMES, create_torchvision, list_arguments
from pruning.architectures.torchvision_segmentation import NAMES as SEGMENTERS
from pruning.architectures.torchvision_segmentation import WITHOUT_AUX
from pruning.channels.compaction import build_compact, load_compact, write_arch
from pruning.errors import DataError, ParameterError, UnknownNameError
from pruning.evidence.evidence import Evidence
from pruning.masks import (
    build_full_masks,
    count_parameters,
    explain_dense,
    find_prunable,
    list_layer_shapes,
)
from pruning.measurement.costs import count_flops
from pruning.networks.loading import (
    build_outline,
    check_fits,
    load_model,
    load_state_,
    resolve,
)
from pruning.networks.modes import evaluate_mode
from pruning.rounds.method import PruningMethod
from pruning.rounds.pruning import prune_
from pruning.seeding import seeded
from tests.support import cases


def outline(architecture: str, **kwargs: object) -> nn.Module:
    with torch.device("meta"):
        return resolve(architecture, kwargs).build().eval()


def test_the_names_are_torchvisions_own() -> None:
    """All of its classifiers and segmenters."""
    from torchvision import models

    assert set(NAMES) == set(models.list_models(models))
    assert set(SEGMENTERS) == set(models.list_models(models.segmentation))
    assert sorted(" ".join(TENSORS.values()).split()) == NAMES


def test_schemas_are_declared_for_a_mismatched_pair_alone() -> None:
    assert torchvision_shim.is_mismatched(None, None, "0.28.0+cu130")
    for pair in [
        ("13.0", None, "0.28.0+cu130"),
        (None, "7.0", "0.28.0+cu130"),
        (None, None, "0.28.0+cpu"),
        (None, None, "0.28.0"),
        (None, None, None),
    ]:
        assert not torchvision_shim.is_mismatched(*pair), pair
    declared = torchvision_shim.LIBRARY is not None
    assert declared == torchvision_shim.is_mismatched(
        torch.version.cuda, torch.version.hip, torchvision_shim._read_installed_version()
    )


@pytest.mark.parametrize(
    "name",
    [
        "alexnet",
        "convnext_tiny",
        pytest.param("densenet121", marks=pytest.mark.slow),
        "efficientnet_b0",
        pytest.param("googlenet", marks=pytest.mark.slow),
        pytest.param("inception_v3", marks=pytest.mark.slow),
        "mnasnet0_5",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "regnet_x_400mf",
        "resnet18",
        "resnext50_32x4d",
        "shufflenet_v2_x0_5",
        "squeezenet1_0",
        "squeezenet1_1",
        "swin_t",
        pytest.param("swin_v2_t", marks=pytest.mark.slow),
        "vgg11",
    ],
)
def test_classifiers_run_from_their_smallest_image_on(name: str) -> None:
    """Run a network of each family without numbers; most of each are layers that can be pruned."""
    model = outline("torchvision", name=name, classes=7)
    side = SMALLEST[name]
    assert model(torch.zeros(2, 3, side, side, device="meta")).shape == (2, 7)
    if side > 1:
        with pytest.raises(RuntimeError):
            model(torch.zeros(2, 3, side - 1, side - 1, device="meta"))
    assert sum(w.numel() for w in find_prunable(model).values()) > 0.97 * count_parameters(model)
    assert count_flops(model, (3, side, side)) > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "convnext_large",
        "densenet161",
        "efficientnet_b7",
        "efficientnet_v2_s",
        "mnasnet1_3",
        "mobilenet_v3_large",
        "regnet_y_128gf",
        "resnet152",
        "resnext101_64x4d",
        "shufflenet_v2_x2_0",
        "swin_b",
        "vgg19_bn",
        "wide_resnet101_2",
    ],
)
def test_the_largest_of_each_family_runs(name: str) -> None:
    """The networks of a family are built by one function, of other widths and depths: the smallest
    image of all of them is that of the smallest and of the largest.
    """
    side = SMALLEST[name]
    assert outline("torchvision", name=name, classes=3)(
        torch.zeros(1, 3, side, side, device="meta")
    ).shape == (1, 3)


def test_unknown_names_and_sizes_are_refused_with_the_reason() -> None:
    with pytest.raises(UnknownNameError, match=r"'resnet19'; did you mean 'resnet18'\?") as caught:
        resolve("torchvision", {"name": "resnet19"})
    assert caught.value.pointer == "name"
    with pytest.raises(ParameterError, match="a multiple of 16, not 40"):
        resolve("torchvision", {"name": "vit_b_16", "image_size": 40})
    with pytest.raises(ParameterError, match="resnet18 takes images of any size"):
        resolve("torchvision", {"name": "resnet18", "image_size": 40})
    with pytest.raises(UnknownNameError, match="did you mean 'deeplabv3_resnet50'"):
        resolve("torchvision_segmentation", {"name": "deeplab_resnet50"})
    with pytest.raises(ParameterError, match="no auxiliary head"):
        resolve("torchvision_segmentation", {"name": "lraspp_mobilenet_v3_large", "aux": True})


def test_the_name_of_a_network_stands_for_it() -> None:
    assert resolve("resnet18", {}) == resolve("torchvision", {"name": "resnet18"})
    assert resolve("fcn_resnet50", {}).outputs == 21
    assert resolve("vit_b_16", {}, shape=(3, 32, 32)).input_shape == (3, 32, 32)
    with pytest.raises(ParameterError, match="the kwargs name 'vgg11'"):
        resolve("resnet18", {"name": "vgg11"})
    with pytest.raises(UnknownNameError, match="unknown architecture 'resnet19'"):
        resolve("resnet19", {})


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_classifier_has_torchvisions_tensors(name: str) -> None:
    model = outline("torchvision", name=name, classes=3)
    with torch.device("meta"):
        theirs = create_torchvision(name, num_classes=3, **list_arguments(name, None))
    names = [key for key in theirs.state_dict() if not key.endswith("num_batches_tracked")]
    assert list(model.state_dict()) == list(theirs.state_dict())
    assert name in TENSORS[len(names)].split()
    weights = sum(weight.numel() for weight in find_prunable(model).values())
    assert weights > 0.95 * count_parameters(model)


def test_images_and_task_must_fit() -> None:
    vgg, deeplab = (
        resolve("torchvision", {"name": "vgg11"}),
        resolve("torchvision_segmentation", {}, classes=4),
    )
    assert deeplab.outputs == 4
    with pytest.raises(DataError, match="images of 3 channels, the dataset's have 1"):
        check_fits(vgg, (1, 64, 64), list("0123456789"))
    with pytest.raises(DataError, match="at least 32 x 32"):
        check_fits(vgg, (3, 31, 64), list("0123456789"))
    with pytest.raises(
        DataError, match="made for segmentation, the dataset's labels are for classification"
    ):
        check_fits(deeplab, (3, 64, 64), list("0123"))
    with pytest.raises(
        DataError, match="made for classification, the dataset's labels are for segmentation"
    ):
        check_fits(vgg, (3, 64, 64), list("0123456789"), "segmentation")
    check_fits(deeplab, (3, 64, 64), list("0123"), "segmentation")


def same(first: Tensor, second: Tensor) -> bool:
    return bool(torch.allclose(first, second, atol=1e-5))


def build_both(name: str, aux: bool) -> tuple[nn.Module, nn.Module]:
    """The network as it is built here, and as torchvision builds it."""
    own = resolve("torchvision_segmentation", {"name": name, "aux": aux, "classes": 5}).build()
    theirs = create_torchvision(
        name,
        weights_backbone=None,
        num_classes=5,
        **({} if name in WITHOUT_AUX else {"aux_loss": aux}),
    )
    return own, theirs


@pytest.mark.parametrize("name", SEGMENTERS)
def test_segmenters_have_the_names_and_shapes_of_torchvisions(name: str) -> None:
    for aux in (False,) if name in WITHOUT_AUX else (False, True):
        with torch.device("meta"):
            states = [network.state_dict() for network in build_both(name, aux)]
        first, second = ([(key, value.shape) for key, value in state.items()] for state in states)
        assert first == second


@pytest.mark.parametrize(
    ("name", "aux"),
    [
        pytest.param("fcn_resnet50", True, marks=pytest.mark.slow),
        pytest.param("deeplabv3_mobilenet_v3_large", False, marks=pytest.mark.slow),
        ("deeplabv3_mobilenet_v3_large", True),
        ("lraspp_mobilenet_v3_large", False),
    ],
)
def test_segmenters_are_torchvisions(name: str, aux: bool) -> None:
    """The same function for each head and each kind of backbone; the auxiliary head answers in
    training alone.
    """
    torch.manual_seed(0)
    own, theirs = build_both(name, aux)
    theirs.load_state_dict(own.state_dict())
    images = torch.rand(2, 3, 40, 33)
    with evaluate_mode(own), evaluate_mode(theirs), torch.no_grad():
        expected = theirs(images)
        assert same(own(images), expected["out"])
    own.train()
    output = own(images)
    assert isinstance(output, tuple) == aux
    assert [logits.shape for logits in (output if aux else [output])] == [(2, 5, 40, 33)] * (
        1 + aux
    )


def test_an_auxiliary_head_is_not_pruned_and_does_not_count() -> None:
    plain = outline("torchvision_segmentation", name="deeplabv3_mobilenet_v3_large")
    helped = outline("torchvision_segmentation", name="deeplabv3_mobilenet_v3_large", aux=True)
    assert (
        count_parameters(helped)
        == count_parameters(plain)
        < sum(p.numel() for p in helped.parameters())
    )
    assert list(find_prunable(helped)) == list(find_prunable(plain))
    assert list(list_layer_shapes(helped)) == list(list_layer_shapes(plain))
    assert explain_dense(helped, "aux_classifier.0.weight", ()) == "used in training alone"
    assert count_flops(helped, (3, 64, 64)) == count_flops(plain, (3, 64, 64))


@pytest.mark.parametrize(
    ("architecture", "kwargs", "side"),
    [
        ("torchvision", {"name": "resnet18"}, 16),
        pytest.param("torchvision", {"name": "mobilenet_v2"}, 32, marks=pytest.mark.slow),
        pytest.param(
            "torchvision_segmentation",
            {"name": "lraspp_mobilenet_v3_large"},
            32,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "torchvision_segmentation",
            {"name": "deeplabv3_mobilenet_v3_large", "aux": True},
            32,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_channels_can_be_removed(
    architecture: str, kwargs: dict[str, Any], side: int, tmp_path: Path
) -> None:
    """Removed as a whole, what remains computes the same; with an auxiliary head what it reads
    stays, so that it goes on.
    """
    torch.manual_seed(0)
    model = load_model(architecture, classes=4, **kwargs)
    recipe = cases.recipe(0.5, criterion={"name": "filter_norm"})
    masks = prune_(
        model,
        build_full_masks(find_prunable(model)),
        0.6,
        PruningMethod.of(recipe, recipe.criteria[0]),
        lambda masks, stage: Evidence(model, masks, shape=(3, side, side)),
        generator=torch.Generator(),
    )
    small = build_compact(model, masks, (3, side, side))
    assert count_parameters(small) < 0.75 * count_parameters(model)
    images = torch.rand(2, 3, side, side)
    with torch.no_grad():
        assert torch.allclose(small(images), model(images), atol=1e-4)
    write_arch(tmp_path / "arch.json", small, architecture, kwargs | {"classes": 4})
    again = load_compact(tmp_path / "arch.json", small.state_dict())
    with torch.no_grad():
        assert torch.equal(again(images), small(images))
    if kwargs.get("aux"):
        small.train()
        assert len(small(images)) == 2


@pytest.mark.slow
def test_the_catalogue_needs_no_torchvision() -> None:
    code = (
        "import sys, json; from pruning.architectures import architectures; "
        "entries = architectures.catalogue(); "
        "assert not {'torchvision', 'timm', 'transformers'} & set(sys.modules); "
        "names = {e['name']: e['params']['properties'].get('name') for e in entries}; "
        "print(json.dumps(names))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    properties = json.loads(answer.stdout.splitlines()[-1])
    assert properties["torchvision"]["enum"] == NAMES
    assert properties["torchvision_segmentation"]["enum"] == list(SEGMENTERS)


FIFTY: tuple[tuple[str, dict[str, Any]], ...] = (
    ("torchvision", {"name": "resnet50"}),
    ("imagenet_resnet", {"depth": 50}),
)


def test_the_family_for_imagenet_is_torchvisions_at_width_1() -> None:
    with seeded(0):
        theirs = resolve("torchvision", {"name": "resnet18"}).build().eval()
        ours = resolve("imagenet_resnet", {"depth": 18, "classes": 10}).build().eval()
    load_state_(ours, theirs.state_dict())
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours(images), theirs(images))
    names = [list(build_outline(resolve(*net)).state_dict()) for net in FIFTY]
    assert names[0] == names[1]
