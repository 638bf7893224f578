"""The preprocessing of the published weights of torchvision's classifiers, by network.

It is that of the newest weights of each, `get_model_weights(name).DEFAULT.transforms()`, listed
here so that it can be read without torchvision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

Transform = tuple[int, int, Literal["bilinear", "bicubic"]]
"""The shorter side after resizing, the side of the crop, and the interpolation."""
NETWORKS: Mapping[Transform, Sequence[str]] = {
    (224, 224, "bicubic"): ("maxvit_t",),
    (230, 224, "bilinear"): ("convnext_small",),
    (232, 224, "bicubic"): ("swin_t",),
    (232, 224, "bilinear"): (
        "convnext_base",
        "convnext_large",
        "mnasnet0_75",
        "mnasnet1_3",
        "mobilenet_v2",
        "mobilenet_v3_large",
        "regnet_x_16gf",
        "regnet_x_1_6gf",
        "regnet_x_32gf",
        "regnet_x_3_2gf",
        "regnet_x_400mf",
        "regnet_x_800mf",
        "regnet_x_8gf",
        "regnet_y_16gf",
        "regnet_y_1_6gf",
        "regnet_y_32gf",
        "regnet_y_3_2gf",
        "regnet_y_400mf",
        "regnet_y_800mf",
        "regnet_y_8gf",
        "resnet101",
        "resnet152",
        "resnet50",
        "resnext101_32x8d",
        "resnext101_64x4d",
        "resnext50_32x4d",
        "shufflenet_v2_x1_5",
        "shufflenet_v2_x2_0",
        "wide_resnet101_2",
        "wide_resnet50_2",
    ),
    (236, 224, "bilinear"): ("convnext_tiny",),
    (238, 224, "bicubic"): ("swin_b",),
    (242, 224, "bilinear"): ("vit_l_16",),
    (246, 224, "bicubic"): ("swin_s",),
    (256, 224, "bicubic"): ("efficientnet_b0",),
    (256, 224, "bilinear"): (
        "alexnet",
        "densenet121",
        "densenet161",
        "densenet169",
        "densenet201",
        "googlenet",
        "mnasnet0_5",
        "mnasnet1_0",
        "mobilenet_v3_small",
        "resnet18",
        "resnet34",
        "shufflenet_v2_x0_5",
        "shufflenet_v2_x1_0",
        "squeezenet1_0",
        "squeezenet1_1",
        "vgg11",
        "vgg11_bn",
        "vgg13",
        "vgg13_bn",
        "vgg16",
        "vgg16_bn",
        "vgg19",
        "vgg19_bn",
        "vit_b_16",
        "vit_b_32",
        "vit_l_32",
    ),
    (255, 240, "bilinear"): ("efficientnet_b1",),
    (260, 256, "bicubic"): ("swin_v2_s", "swin_v2_t"),
    (272, 256, "bicubic"): ("swin_v2_b",),
    (288, 288, "bicubic"): ("efficientnet_b2",),
    (342, 299, "bilinear"): ("inception_v3",),
    (320, 300, "bicubic"): ("efficientnet_b3",),
    (384, 380, "bicubic"): ("efficientnet_b4",),
    (384, 384, "bicubic"): ("regnet_y_128gf",),
    (384, 384, "bilinear"): ("efficientnet_v2_s",),
    (456, 456, "bicubic"): ("efficientnet_b5",),
    (480, 480, "bicubic"): ("efficientnet_v2_l",),
    (480, 480, "bilinear"): ("efficientnet_v2_m",),
    (518, 518, "bicubic"): ("vit_h_14",),
    (528, 528, "bicubic"): ("efficientnet_b6",),
    (600, 600, "bicubic"): ("efficientnet_b7",),
}
TRANSFORMS: Mapping[str, Transform] = {
    name: transform for transform, names in NETWORKS.items() for name in names
}
OTHER_CONSTANTS: Mapping[str, Mapping[str, Sequence[float]]] = {
    "efficientnet_v2_l": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
}
"""The constants of the networks that were not trained with those of ImageNet."""
