"""The networks of torchvision, listed so that the catalogue needs no torchvision."""

from __future__ import annotations

from collections.abc import Mapping

SMALLEST: Mapping[str, int] = {
    "alexnet": 63,
    "convnext_base": 32,
    "convnext_large": 32,
    "convnext_small": 32,
    "convnext_tiny": 32,
    "densenet121": 29,
    "densenet161": 29,
    "densenet169": 29,
    "densenet201": 29,
    **{f"efficientnet_b{i}": 1 for i in range(8)},
    "efficientnet_v2_l": 1,
    "efficientnet_v2_m": 1,
    "efficientnet_v2_s": 1,
    "googlenet": 15,
    "inception_v3": 75,
    "maxvit_t": 224,
    "mnasnet0_5": 1,
    "mnasnet0_75": 1,
    "mnasnet1_0": 1,
    "mnasnet1_3": 1,
    "mobilenet_v2": 1,
    "mobilenet_v3_large": 1,
    "mobilenet_v3_small": 1,
    **{
        f"regnet_{kind}_{size}": 1
        for kind in "xy"
        for size in ("400mf", "800mf", "1_6gf", "3_2gf", "8gf", "16gf", "32gf")
    },
    "regnet_y_128gf": 1,
    "resnet18": 1,
    "resnet34": 1,
    "resnet50": 1,
    "resnet101": 1,
    "resnet152": 1,
    "resnext50_32x4d": 1,
    "resnext101_32x8d": 1,
    "resnext101_64x4d": 1,
    "shufflenet_v2_x0_5": 1,
    "shufflenet_v2_x1_0": 1,
    "shufflenet_v2_x1_5": 1,
    "shufflenet_v2_x2_0": 1,
    "squeezenet1_0": 21,
    "squeezenet1_1": 17,
    **{f"swin{version}_{size}": 4 for version in ("", "_v2") for size in "tsb"},
    **{f"vgg{depth}{suffix}": 32 for depth in (11, 13, 16, 19) for suffix in ("", "_bn")},
    "vit_b_16": 16,
    "vit_b_32": 32,
    "vit_h_14": 14,
    "vit_l_16": 16,
    "vit_l_32": 32,
    "wide_resnet50_2": 1,
    "wide_resnet101_2": 1,
}
"""The rows and columns of the smallest image of each network, by name."""
PATCHES: Mapping[str, int] = {
    name: side for name, side in SMALLEST.items() if name.startswith(("vit", "maxvit"))
}
"""The networks for images of one size, with the number of pixels of which their side is a
multiple: the side of a patch, or what the stages of MaxViT divide into windows.
"""
TENSORS: Mapping[int, str] = {
    16: "alexnet",
    22: "vgg11",
    26: "vgg13",
    32: "vgg16",
    38: "vgg19",
    52: "squeezenet1_0 squeezenet1_1",
    54: "vgg11_bn",
    66: "vgg13_bn",
    84: "vgg16_bn",
    102: "resnet18 vgg19_bn",
    152: "vit_b_16 vit_b_32",
    182: "convnext_tiny resnet34",
    185: "swin_t",
    210: "mobilenet_v3_small",
    233: "swin_v2_t",
    262: "mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3 mobilenet_v2",
    266: "mobilenet_v3_large",
    267: "regnet_x_800mf resnet50 resnext50_32x4d wide_resnet50_2",
    282: "shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0",
    287: "googlenet",
    293: "regnet_y_800mf",
    296: "vit_l_16 vit_l_32",
    297: "regnet_x_1_6gf",
    311: "efficientnet_b0",
    331: "regnet_y_400mf",
    344: "convnext_base convnext_large convnext_small",
    350: "regnet_y_8gf",
    353: "swin_b swin_s",
    357: "regnet_x_16gf regnet_x_400mf",
    369: "regnet_y_16gf",
    372: "regnet_x_32gf regnet_x_8gf",
    392: "vit_h_14",
    402: "regnet_x_3_2gf",
    407: "regnet_y_32gf",
    426: "regnet_y_3_2gf",
    439: "efficientnet_b1 efficientnet_b2",
    449: "swin_v2_b swin_v2_s",
    472: "inception_v3",
    496: "efficientnet_b3",
    522: "resnet101 resnext101_32x8d resnext101_64x4d wide_resnet101_2",
    540: "regnet_y_128gf regnet_y_1_6gf",
    548: "maxvit_t",
    606: "densenet121",
    610: "efficientnet_b4",
    672: "efficientnet_v2_s",
    738: "efficientnet_b5",
    777: "resnet152",
    806: "densenet161",
    846: "densenet169",
    852: "efficientnet_b6",
    963: "efficientnet_v2_m",
    1006: "densenet201",
    1037: "efficientnet_b7",
    1331: "efficientnet_v2_l",
}
"""The networks by the number of their tensors, without the counters of BatchNorm."""
NEAR = 0.1
"""The difference of numbers of tensors up to which a network is worth comparing."""


def list_like(tensors: int) -> list[str]:
    """The networks with so many tensors; where there is none, those with the nearest numbers.

    >>> list_like(102), list_like(103), list_like(4)
    (['resnet18', 'vgg19_bn'], ['resnet18', 'vgg19_bn'], [])
    """
    nearest = min(TENSORS, key=lambda count: abs(count - tensors))
    return TENSORS[nearest].split() if abs(nearest - tensors) <= NEAR * nearest else []
