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

MANY = (
    15,
    30.2,
    42.7,
    53,
    61.4,
    68.3,
    74,
    78.6,
    82.5,
    85.6,
    88.2,
    90.3,
    92,
    93.5,
    94.6,
    95.6,
    96.4,
    97,
    97.6,
    98,
)
DENSE = (
    15,
    24.1,
    32.1,
    39.4,
    45.8,
    51.6,
    56.8,
    61.4,
    65.5,
    69.2,
    72.4,
    75.4,
    78,
    80.3,
    82.4,
    84.3,
    86,
    87.5,
    88.8,
    90,
    92.6,
    95.3,
)
RESNET20 = (
    15,
    22.4,
    29.2,
    35.4,
    41,
    46.2,
    50.8,
    55.1,
    59.1,
    62.6,
    65.9,
    68.9,
    71.6,
    74.1,
    76.3,
    78.4,
    80.3,
    82,
    83.6,
    85,
    89.6,
    93.8,
    98,
)
IMAGENET = (
    10,
    17.4,
    24.2,
    30.4,
    36.2,
    41.4,
    46.2,
    50.7,
    54.7,
    58.4,
    61.9,
    65,
    69,
    73.2,
    77.4,
    81.6,
    85.8,
    90,
)
VOC = (20, 36.5, 49.6, 60, 68.3, 74.8, 80, 84.1, 87.4, 90, 92, 93.7, 95.1, 96.2, 97)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One row of the paper's table of experiments."""

    architecture: str
    kwargs: Mapping[str, Any]
    parameters: int
    """Of the network for colour images of `classes` classes, without what serves training alone."""
    prunable: int
    """Of these, weights of convolutions and the classifier."""
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    nesterov: bool
    milestones: tuple[int, ...]
    gamma: float
    warmup: int
    prune_ratios: tuple[float, ...]
    """Of the networks that are retrained: the percentage of all parameters that is removed."""
    retrain_epochs: int | None = None
    """The first epochs of the schedule that are a retraining; None: all."""
    classes: int = 10
    """Of the paper's data."""
    schedule: str = "step"
    """Of the learning rate; `milestones` and `gamma` are those of steps."""

    @property
    def sparsities(self) -> list[float]:
        """The prune ratios as fractions of the prunable weights: only these are removed.

        sparsity = prune ratio * parameters / prunable

        >>> PRESETS["vgg16"].sparsities[:2], PRESETS["densenet22"].sparsities[-1]
        ([0.150129, 0.30226], 0.980379)
        """
        return [
            round(ratio / 100 * self.parameters / self.prunable, 6) for ratio in self.prune_ratios
        ]

    def training(self, epochs: int, scale: float) -> dict[str, Any]:
        """The first `epochs` of the schedule, shortened to max(1, round(scale epochs)).

        Milestones and warm-up are shortened by what the epochs are, after rounding: the learning
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
        by = fewer / epochs
        schedule: dict[str, Any] = {
            "name": self.schedule,
            "warmup_epochs": round(self.warmup * by, 6),
        }
        if self.schedule == "step":
            schedule |= {
                "gamma": self.gamma,
                "milestones": [round(at * by, 6) for at in self.milestones if at < epochs],
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
"""By name. ResNet-56 and ResNet-110 as in the paper's code: 9 and 18 bottlenecks a stage, so depths
83 and 164.
"""


def expand_preset(job: Mapping[str, Any]) -> dict[str, Any]:
    """A job with a `preset`, and what the preset says where the job does not say otherwise; the job
    is not changed.

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
    ValueError: preset: unknown preset 'resnet21'; known: resnet20, resnet56, resnet110, vgg16, densenet22, wrn16_8, ...
    """
    name, scale = job.get("preset"), job.get("epochs_scale", 1.0)
    if not isinstance(name, str) or name not in PRESETS:
        raise ValueError(f"preset: unknown preset {name!r}; known: {', '.join(PRESETS)}")
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale <= 1:
        raise ValueError(f"epochs_scale: {scale!r} is no number above 0 and at most 1")
    preset = PRESETS[name]
    found = {key: _plain(value) for key, value in job.items()}
    _fill_model(found, preset, preset.training(preset.epochs, scale))
    if found.get("targets") is None:
        found["targets"] = {"sparsity": preset.sparsities}
    if found.get("when") != "before_training":
        _fill_retrain(found, preset, scale)
        if found.get("batchnorm") is None:
            found["batchnorm"] = "keep"
    return found


def _fill_model(job: dict[str, Any], preset: Preset, train: dict[str, Any]) -> None:
    model = {} if job.get("model") is None else job["model"]
    if not isinstance(model, dict):
        return  # what is no object is refused where the job is read
    uploaded = model.get("id") is not None
    if not uploaded and model.get("architecture") in (None, preset.architecture):
        model = {
            **model,
            "architecture": preset.architecture,
            "kwargs": _merged(dict(preset.kwargs), model.get("kwargs")),
        }
    if not uploaded or model.get("train") is not None:
        model = {**model, "train": _merged(train, model.get("train"))}
    job["model"] = model


def _fill_retrain(job: dict[str, Any], preset: Preset, scale: float) -> None:
    """Learning-rate rewinding; the first part of a schedule is that part as a schedule of its
    own.
    """
    schedule = preset.training(preset.retrain_epochs or preset.epochs, scale)
    trains = isinstance(job["model"], dict) and job["model"].get("train") is not None
    if preset.retrain_epochs is not None:
        filled = {"mode": "fine_tune", **schedule}
    else:
        filled = {"mode": "lr_rewind"} if trains else {"mode": "lr_rewind", **schedule}
    given = job.get("retrain")
    if given is None or (isinstance(given, dict) and given.get("mode") in (None, filled["mode"])):
        job["retrain"] = _merged(filled, given)


def _merged(filled: dict[str, Any], given: Any) -> Any:
    """What was given on top of what is filled in; what is no object stays, to be refused where the
    job is read.
    """
    return given if given is not None and not isinstance(given, dict) else filled | (given or {})


def _plain(value: Any) -> Any:
    """A copy, documents as what was set of them."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=True)
    return (
        list(value)
        if isinstance(value, Sequence) and not isinstance(value, str)
        else copy.deepcopy(value)
    )
