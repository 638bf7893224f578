"""The experiments of the papers as presets: networks, trainings and prune ratios; imports no torch.

Sources: Liebenwein et al., Lost in Pruning, MLSys 2021, and Laurent et al., Revisiting loss
modelling for unstructured pruning, 2020, each with its code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

Paper: TypeAlias = Literal["Lost in Pruning", "Revisiting loss modelling"]
# The prune ratios of the networks that the paper retrains, in percent of all parameters.
MANY = (
    15, 30.2, 42.7, 53, 61.4, 68.3, 74, 78.6, 82.5, 85.6, 88.2, 90.3, 92, 93.5, 94.6, 95.6,
    96.4, 97, 97.6, 98,
)  # fmt: skip
DENSE = (
    15, 24.1, 32.1, 39.4, 45.8, 51.6, 56.8, 61.4, 65.5, 69.2, 72.4, 75.4, 78, 80.3, 82.4, 84.3,
    86, 87.5, 88.8, 90, 92.6, 95.3,
)  # fmt: skip
RESNET20 = (
    15, 22.4, 29.2, 35.4, 41, 46.2, 50.8, 55.1, 59.1, 62.6, 65.9, 68.9, 71.6, 74.1, 76.3, 78.4,
    80.3, 82, 83.6, 85, 89.6, 93.8, 98,
)  # fmt: skip
IMAGENET = (
    10, 17.4, 24.2, 30.4, 36.2, 41.4, 46.2, 50.7, 54.7, 58.4, 61.9, 65, 69, 73.2, 77.4, 81.6,
    85.8, 90,
)  # fmt: skip
VOC = (20, 36.5, 49.6, 60, 68.3, 74.8, 80, 84.1, 87.4, 90, 92, 93.7, 95.1, 96.2, 97)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A network of a paper, its training and retraining, and how far it is pruned."""

    architecture: str
    kwargs: Mapping[str, Any]
    parameters: int
    """The parameters of the network for colour images of `classes` classes, without those that only
    training uses.
    """
    prunable: int
    """The weights of convolutions and the classifier among them."""
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    nesterov: bool
    milestones: tuple[int, ...]
    gamma: float
    warmup: int
    prune_ratios: tuple[float, ...]
    """The percentages that are removed, one for each retrained network."""
    runs: int
    """The networks that the paper trains under seeds of their own."""
    paper: Paper = "Lost in Pruning"
    of_all: bool = True
    """Whether prune ratios are of all parameters, as against those that can be pruned."""
    retrain_epochs: int | None = None
    """The number of first epochs of the schedule that make a retraining; `None`: all of them."""
    classes: int = 10
    """The classes of the paper's data."""
    schedule: str = "step"
    """The schedule of the learning rate; `milestones` and `gamma` belong to `step`."""
    augment: str = "crop_flip"
    corrupt: bool = False
    """Whether trainings see corrupted images: the paper's robust runs."""
    keep: str = "last"
    """The epoch of a training whose weights are kept."""
    criteria: tuple[Mapping[str, Any], ...] = ()
    """The criteria that the paper compares, where the preset fills them in."""

    @property
    def sparsities(self) -> list[float]:
        """The prune ratios as fractions of the prunable weights, since only these are removed.

        sparsity = prune ratio * parameters / prunable, where it is of all parameters

        >>> PRESETS["vgg16"].sparsities[:2], PRESETS["densenet22"].sparsities[-1]
        ([0.150129, 0.30226], 0.980379)
        """
        scale = self.parameters / self.prunable if self.of_all else 1.0
        return [round(ratio / 100 * scale, 6) for ratio in self.prune_ratios]

    def training(self, epochs: int, scale: float) -> dict[str, Any]:
        """Return the first `epochs` of the schedule, shortened to max(1, round(scale epochs)).

        Milestones and warm-up are shortened by the same factor as the rounded epochs: the learning
        rate takes the same course over the fraction of the training that is done.

        >>> short = PRESETS["resnet20"].training(182, 0.1)
        >>> (
        ...     short["epochs"],
        ...     short["lr_schedule"]["milestones"],
        ...     round(short["lr_schedule"]["warmup_epochs"], 4),
        ... )
        (18, [9.0, 13.450549], 0.4945)
        """
        fewer = max(1, round(scale * epochs))
        factor = fewer / epochs
        schedule: dict[str, Any] = {
            "name": self.schedule,
            "warmup_epochs": round(self.warmup * factor, 6),
        }
        if self.schedule == "step":
            schedule |= {
                "gamma": self.gamma,
                "milestones": [
                    round(epoch * factor, 6) for epoch in self.milestones if epoch < epochs
                ],
            }
        training: dict[str, Any] = {
            "epochs": fewer,
            "batch_size": self.batch_size,
            "augment": self.augment,
            "optimizer": {
                "name": "sgd",
                "lr": self.lr,
                "momentum": 0.9,
                "weight_decay": self.weight_decay,
                "nesterov": self.nesterov,
            },
            "lr_schedule": schedule,
        }
        if self.augment == "scaled_crop":
            training["scaled_crop"] = {"sides": [256, 1024], "crop": 513}
        if self.corrupt:
            training["corrupt"] = {}
        if self.keep != "last":
            training["keep"] = self.keep
        return training


LOST_IN_PRUNING: dict[str, Preset] = {
    "resnet20": Preset(
        architecture="cifar_resnet",
        kwargs={"depth": 20, "shortcut": "B"},
        parameters=272_474,
        prunable=270_896,
        epochs=182,
        batch_size=128,
        lr=0.1,
        weight_decay=1e-4,
        nesterov=False,
        milestones=(91, 136),
        gamma=0.1,
        warmup=5,
        prune_ratios=RESNET20,
        runs=3,
    ),
    "resnet56": Preset(
        architecture="cifar_resnet",
        kwargs={"depth": 83, "shortcut": "B", "block": "bottleneck"},
        parameters=869_530,
        prunable=856_496,
        epochs=182,
        batch_size=128,
        lr=0.1,
        weight_decay=1e-4,
        nesterov=False,
        milestones=(91, 136),
        gamma=0.1,
        warmup=5,
        prune_ratios=MANY,
        runs=3,
    ),
    "resnet110": Preset(
        architecture="cifar_resnet",
        kwargs={"depth": 164, "shortcut": "B", "block": "bottleneck"},
        parameters=1_704_154,
        prunable=1_679_024,
        epochs=182,
        batch_size=128,
        lr=0.1,
        weight_decay=1e-4,
        nesterov=False,
        milestones=(91, 136),
        gamma=0.1,
        warmup=5,
        prune_ratios=MANY,
        runs=3,
    ),
    "vgg16": Preset(
        architecture="vgg",
        kwargs={"depth": 16},
        parameters=14_728_266,
        prunable=14_715_584,
        epochs=300,
        batch_size=256,
        lr=0.05,
        weight_decay=5e-4,
        nesterov=False,
        milestones=tuple(range(30, 300, 30)),
        gamma=0.5,
        warmup=10,
        prune_ratios=MANY,
        runs=3,
        retrain_epochs=150,
    ),
    "densenet22": Preset(
        architecture="densenet22",
        kwargs={},
        parameters=71_686,
        prunable=69_684,
        epochs=300,
        batch_size=64,
        lr=0.1,
        weight_decay=1e-4,
        nesterov=True,
        milestones=(150, 225),
        gamma=0.1,
        warmup=10,
        prune_ratios=DENSE,
        runs=3,
    ),
    "wrn16_8": Preset(
        architecture="wide_resnet",
        kwargs={"depth": 16, "width": 8},
        parameters=10_961_370,
        prunable=10_954_160,
        epochs=200,
        batch_size=128,
        lr=0.1,
        weight_decay=5e-4,
        nesterov=True,
        milestones=(60, 120, 160),
        gamma=0.2,
        warmup=5,
        prune_ratios=(*DENSE, 98),
        runs=3,
    ),
    "resnet18": Preset(
        architecture="torchvision",
        kwargs={"name": "resnet18"},
        parameters=11_689_512,
        prunable=11_678_912,
        epochs=90,
        batch_size=256,
        lr=0.1,
        weight_decay=1e-4,
        nesterov=False,
        milestones=(30, 60, 80),
        gamma=0.1,
        warmup=5,
        prune_ratios=IMAGENET,
        runs=1,
        classes=1000,
        augment="random_resized_crop",
    ),
    "resnet101": Preset(
        architecture="torchvision",
        kwargs={"name": "resnet101"},
        parameters=44_549_160,
        prunable=44_442_816,
        epochs=90,
        batch_size=256,
        lr=0.1,
        weight_decay=1e-4,
        nesterov=False,
        milestones=(30, 60, 80),
        gamma=0.1,
        warmup=5,
        prune_ratios=IMAGENET[:16],
        runs=1,
        classes=1000,
        augment="random_resized_crop",
    ),
    "deeplabv3_resnet50": Preset(
        architecture="torchvision_segmentation",
        kwargs={"name": "deeplabv3_resnet50", "aux": True},
        parameters=39_638_869,
        prunable=39_582_144,
        epochs=45,
        batch_size=16,
        lr=0.02,
        weight_decay=1e-4,
        nesterov=False,
        milestones=(),
        gamma=0.1,
        warmup=0,
        prune_ratios=VOC,
        runs=2,
        classes=21,
        schedule="poly",
        augment="scaled_crop",
    ),
}
"""The cascades of Lost in Pruning: train, then prune and retrain over and over, each retraining the
whole schedule from its first epoch (learning-rate rewinding; of VGG16 the first 150 of 300 epochs).
ResNet-56 and ResNet-110 are those of the paper's code, with 9 and 18 bottlenecks in a stage, so
their depths are 83 and 164. DeepLabV3 starts from a backbone that was trained on ImageNet where the
job names one (`model.backbone`), as the paper's does, and else from scratch.
"""
SPARSEST = {"densenet22": (13, 0.05)}
"""The number of prune ratios of a robust run and its least density, where they are not 16 and .03.
"""


def space_ratios(number: int, least: float) -> tuple[float, ...]:
    """Space percentages of removed parameters so that what remains falls from .80 to `least` by
    equal factors.

    >>> space_ratios(3, 0.2)
    (20.0, 60.0, 80.0)
    """
    factor = (least / 0.8) ** (1 / (number - 1))
    return tuple(round(100 * (1 - 0.8 * factor**index), 4) for index in range(number))


ROBUST: dict[str, Preset] = {
    f"{name}_robust": replace(
        LOST_IN_PRUNING[name],
        corrupt=True,
        prune_ratios=space_ratios(*SPARSEST.get(name, (16, 0.03))),
    )
    for name in ("resnet20", "resnet56", "resnet110", "vgg16", "densenet22", "wrn16_8")
}
"""The robust runs of Lost in Pruning: the same networks, every training on nine of the corruptions.
"""
SETTINGS: tuple[dict[str, Any], ...] = (
    {"name": "magnitude"},
    *(
        {"name": name, "params": {"pi": stages, "lambda": penalty}}
        for name in ("lm", "qm", "obd")
        for stages in (1, 14, 140)
        for penalty in (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)
    ),
)
"""The 82 settings that the third paper compares: numbers of stages and strengths of the penalty."""
LOSS_MODELLING: dict[str, Preset] = {
    "loss_mlp": Preset(
        architecture="mlp",
        kwargs={"hidden": [300, 100], "activation": "tanh", "initialisation": "kaiming"},
        parameters=266_610,
        prunable=266_200,
        epochs=800,
        batch_size=100,
        lr=0.01,
        weight_decay=5e-4,
        nesterov=False,
        milestones=(),
        gamma=0.1,
        warmup=0,
        prune_ratios=(98.847,),
        of_all=False,
        runs=5,
        paper="Revisiting loss modelling",
        schedule="constant",
        augment="none",
        keep="best",
        criteria=SETTINGS,
    ),
    "loss_vgg11": Preset(
        architecture="vgg",
        kwargs={"depth": 11, "batchnorm": False, "head": [512, 512]},
        parameters=9_750_922,
        prunable=9_747_136,
        epochs=300,
        batch_size=100,
        lr=0.01,
        weight_decay=5e-4,
        nesterov=False,
        milestones=(60, 120, 180, 240),
        gamma=0.1,
        warmup=0,
        prune_ratios=(95.6,),
        of_all=False,
        runs=5,
        paper="Revisiting loss modelling",
        keep="best",
        criteria=SETTINGS,
    ),
    "loss_preact_resnet18": Preset(
        architecture="preact_resnet",
        kwargs={"depth": 18},
        parameters=11_172_180,
        prunable=11_164_352,
        epochs=200,
        batch_size=100,
        lr=0.1,
        weight_decay=5e-4,
        nesterov=False,
        milestones=(70, 140),
        gamma=0.1,
        warmup=0,
        prune_ratios=(95.6,),
        of_all=False,
        runs=5,
        paper="Revisiting loss modelling",
        keep="best",
        criteria=SETTINGS,
    ),
}
"""The networks of the third paper, pruned once and trained again as they were trained."""
PRESETS: dict[str, Preset] = LOST_IN_PRUNING | ROBUST | LOSS_MODELLING
"""The presets by name. A new preset is one more entry."""
