"""Named jobs: the prune-retrain cascades of Lost in Pruning, with its hyper-parameters; imports no
torch.

Source: Liebenwein et al., Lost in Pruning, MLSys 2021, and its code: train, then prune and retrain
over and over, each retraining the whole schedule from its first epoch (learning-rate rewinding; of
VGG16 the first 150 of 300 epochs).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

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
    """One row of the paper's table of experiments: a network, its training and its prune ratios."""

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
    """The percentages of all parameters that are removed, one for each retrained network."""
    retrain_epochs: int | None = None
    """The number of first epochs of the schedule that make a retraining; `None`: all of them."""
    classes: int = 10
    """The classes of the paper's data."""
    schedule: str = "step"
    """The schedule of the learning rate; `milestones` and `gamma` belong to `step`."""

    @property
    def sparsities(self) -> list[float]:
        """The prune ratios as fractions of the prunable weights, since only these are removed.

        sparsity = prune ratio * parameters / prunable

        >>> PRESETS["vgg16"].sparsities[:2], PRESETS["densenet22"].sparsities[-1]
        ([0.150129, 0.30226], 0.980379)
        """
        return [
            round(ratio / 100 * self.parameters / self.prunable, 6) for ratio in self.prune_ratios
        ]

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
        return {
            "epochs": fewer,
            "batch_size": self.batch_size,
            "augment": "crop_flip",
            "optimizer": {
                "name": "sgd",
                "lr": self.lr,
                "momentum": 0.9,
                "weight_decay": self.weight_decay,
                "nesterov": self.nesterov,
            },
            "lr_schedule": schedule,
        }


PRESETS: dict[str, Preset] = {
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
        classes=1000,
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
        classes=1000,
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
        classes=21,
        schedule="poly",
    ),
}
"""The presets by name. ResNet-56 and ResNet-110 are those of the paper's code, with 9 and 18
bottlenecks in a stage, so their depths are 83 and 164. A new preset is one more entry.
"""


def expand_preset(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return a job with a `preset`, completed by the preset where the job leaves something open;
    the job itself is not changed.

    Filled in are `model` (architecture, kwargs and `train`, key by key; only `train`, and only
    where it is given, for an uploaded model; no kwargs for another architecture), `targets`,
    `retrain` (key by key where it has the preset's mode or none, left alone otherwise) and
    `batchnorm`; the last two not with `when: before_training`. Expanding twice is expanding once.
    Raises `ValueError` for an unknown name or a scale outside (0, 1].

    >>> job = expand_preset(
    ...     {
    ...         "type": "prune",
    ...         "preset": "resnet20",
    ...         "epochs_scale": 0.1,
    ...         "dataset": {"builtin": "digits"},
    ...     }
    ... )
    >>> (
    ...     job["model"]["kwargs"],
    ...     job["model"]["train"]["epochs"],
    ...     job["retrain"],
    ...     job["targets"]["sparsity"][0],
    ... )
    ({'depth': 20, 'shortcut': 'B'}, 18, {'mode': 'lr_rewind'}, 0.150874)
    >>> expand_preset({"preset": "resnet21"})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: preset: unknown preset 'resnet21'; known: resnet20, resnet56, resnet110, ...
    """
    name, scale = job.get("preset"), job.get("epochs_scale", 1.0)
    if not isinstance(name, str) or name not in PRESETS:
        raise ValueError(f"preset: unknown preset {name!r}; known: {', '.join(PRESETS)}")
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale <= 1:
        raise ValueError(f"epochs_scale: {scale!r} is not a number above 0 and at most 1")
    preset = PRESETS[name]
    expanded = {key: _copy_plainly(value) for key, value in job.items()}
    _fill_model(expanded, preset, preset.training(preset.epochs, scale))
    if expanded.get("targets") is None:
        expanded["targets"] = {"sparsity": preset.sparsities}
    if expanded.get("when") != "before_training":
        _fill_retrain(expanded, preset, scale)
        if expanded.get("batchnorm") is None:
            expanded["batchnorm"] = "keep"
    return expanded


def _fill_model(job: dict[str, Any], preset: Preset, train: dict[str, Any]) -> None:
    model = {} if job.get("model") is None else job["model"]
    if not isinstance(model, dict):
        return  # anything but an object is refused where the job is read
    is_uploaded = model.get("id") is not None
    if not is_uploaded and model.get("architecture") in (None, preset.architecture):
        model = {
            **model,
            "architecture": preset.architecture,
            "kwargs": _merge(dict(preset.kwargs), model.get("kwargs")),
        }
    if not is_uploaded or model.get("train") is not None:
        model = {**model, "train": _merge(train, model.get("train"))}
    job["model"] = model


def _fill_retrain(job: dict[str, Any], preset: Preset, scale: float) -> None:
    """Fill in learning-rate rewinding; a retraining that repeats only the first part of the
    schedule is fine-tuning with that part as a schedule of its own.
    """
    schedule = preset.training(preset.retrain_epochs or preset.epochs, scale)
    trains = isinstance(job["model"], dict) and job["model"].get("train") is not None
    retrain: dict[str, Any] = {"mode": "lr_rewind"}
    if preset.retrain_epochs is not None:
        retrain = {"mode": "fine_tune", **schedule}
    elif not trains:
        # a job that trains the network rewinds to that schedule, which it must not repeat
        retrain |= schedule
    requested = job.get("retrain")
    if requested is None:
        job["retrain"] = retrain
    elif isinstance(requested, dict) and requested.get("mode") in (None, retrain["mode"]):
        job["retrain"] = retrain | requested


def _merge(filled: dict[str, Any], requested: Any) -> Any:
    """Return the job's own keys on top of those filled in; anything but an object stays as it is,
    to be refused where the job is read.
    """
    if requested is None:
        return filled
    return filled | requested if isinstance(requested, dict) else requested


def _copy_plainly(value: Any) -> Any:
    """Return a copy of a value, a document as the fields that were set."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return list(value)
    return copy.deepcopy(value)
