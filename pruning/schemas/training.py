"""The training of a network: optimiser, learning-rate schedule, augmentation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pruning.schemas.base import Document


class Optimizer(Document):
    """The optimiser and its constants; `momentum` and `nesterov` are SGD's, `betas` AdamW's."""

    name: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[float, Field(gt=0, le=100)] = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 1e-4
    nesterov: bool = False
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (
        0.9,
        0.999,
    )

    @model_validator(mode="after")
    def _no_ignored_field(self) -> Optimizer:
        fields_of_the_other = {"sgd": {"betas"}, "adamw": {"momentum", "nesterov"}}
        foreign = fields_of_the_other[self.name] & self.model_fields_set
        if any(getattr(self, field) != type(self).model_fields[field].default for field in foreign):
            raise ValueError(
                f"{', '.join(sorted(foreign))} has no effect with the optimizer {self.name!r}"
            )
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum > 0")
        return self


class LrSchedule(Document):
    """The factor on the learning rate over a training of `epochs`.

    `constant`: 1. `cosine`: (1 + cos(pi t / T)) / 2. `linear`: 1 - t / T. `poly`: (1 - t / T)^0.9.
    `step`: gamma to the number of milestones passed (in epochs). A warm-up of `warmup_epochs`
    multiplies each by t / warmup_epochs first.
    """

    name: Literal["constant", "cosine", "linear", "poly", "step"] = "constant"
    milestones: tuple[Annotated[float, Field(gt=0)], ...] = ()
    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.1
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _milestones_belong_to_step(self) -> LrSchedule:
        if self.name == "step" and not self.milestones:
            raise ValueError("the schedule 'step' needs milestones, in epochs")
        if self.name != "step" and (self.milestones or self.gamma != 0.1):
            raise ValueError(f"milestones and gamma have no effect with the schedule {self.name!r}")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError("milestones must increase")
        return self


MIX1 = (
    "contrast",
    "elastic_transform",
    "gaussian_blur",
    "impulse_noise",
    "motion_blur",
    "pixelate",
    "shot_noise",
    "snow",
    "zoom_blur",
)
"""The corruptions that Lost in Pruning trains on in its robust runs; the other ten, Mix2, test."""


class Corrupt(Document):
    """Train on corrupted images: every fetch of an image draws one of `names` and one of
    `severities`, 0 for none.

    Both are uniform and drawn again in every epoch. By default the paper's Mix1 and severities 0 to
    5. Source: Liebenwein, Baykal, Carter, Gifford and Rus, Lost in Pruning, MLSys 2021, robust
    training.
    """

    names: Annotated[tuple[str, ...], Field(min_length=1)] = MIX1
    """Registered corruptions (`GET /v1/methods`); a job with an unknown one is refused."""
    severities: Annotated[tuple[Annotated[int, Field(ge=0, le=5)], ...], Field(min_length=1)] = (
        0,
        1,
        2,
        3,
        4,
        5,
    )

    @model_validator(mode="after")
    def _check_listed_once(self) -> Corrupt:
        names, severities = set(self.names), set(self.severities)
        if len(names) < len(self.names) or len(severities) < len(self.severities):
            raise ValueError("names and severities are each listed once")
        return self


class ScaledCrop(Document):
    """The random sizes and the random crop of images with masks.

    The default is that of the training of DeepLabV3 in Liebenwein et al., Lost in Pruning, 2021.
    """

    sides: tuple[Annotated[int, Field(ge=1, le=8_192)], Annotated[int, Field(ge=1, le=8_192)]] = (
        256,
        1024,
    )
    """The least and the most pixels of the shorter side of a scaled image; all between are equally
    likely.
    """
    crop: Annotated[int, Field(ge=1, le=8_192)] = 513
    """The side of the square, in pixels, that is cropped anywhere; smaller images are padded."""

    @model_validator(mode="after")
    def _check_order(self) -> ScaledCrop:
        if self.sides[0] > self.sides[1]:
            raise ValueError(f"sides: {self.sides[0]} is more than {self.sides[1]}")
        return self


class Training(Document):
    """One training schedule, from epoch 0 to `epochs`."""

    epochs: Annotated[int, Field(ge=1, le=10_000)] = 1
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 128
    optimizer: Optimizer = Optimizer()
    lr_schedule: LrSchedule = LrSchedule()
    augment: Literal["auto", "none", "crop", "crop_flip", "random_resized_crop", "scaled_crop"] = (
        "auto"
    )
    """`crop`: a random crop after a padding of 4 pixels; `crop_flip`: and a random flip;
    `random_resized_crop`: a random part of the photo (8 to 100 % of its area, sides 3:4 to 4:3),
    resized to what the network takes, and a random flip; `scaled_crop`: images and their masks
    scaled at random, flipped at random and cropped, as `scaled_crop` says. `auto`:
    `random_resized_crop` for photos that are resized, `crop_flip` for other colour images of 24
    pixels and more, nothing otherwise.
    """
    scaled_crop: ScaledCrop | None = None
    """The sizes of `augment` `scaled_crop`; by default from half to twice the shorter side of the
    dataset's images, and a crop as large as that side.
    """
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`bf16`: training steps under autocast. `auto`: bf16 for retraining from trained weights where
    a trial on the job's own network finds it at least 1.2 times as fast and its error no higher, as
    `environment.precision` of the report says; else fp32. Reported errors are measured in fp32
    either way.
    """
    corrupt: Corrupt | None = None
    """Robust training; cropping and flipping come after it, but before it for photos."""
    keep: Literal["last", "best"] = "last"
    """`best`: the weights of the epoch with the least validation error, the first of equal ones.

    The validation errors in the report are then those of the best of many, and too low.
    """

    @model_validator(mode="after")
    def _scaled_crop_used(self) -> Training:
        if self.scaled_crop is not None and self.augment != "scaled_crop":
            raise ValueError("scaled_crop: only augment 'scaled_crop' reads it")
        return self

    @model_validator(mode="after")
    def _schedule_inside(self) -> Training:
        last = max(self.lr_schedule.milestones, default=0.0)
        if last >= self.epochs or self.lr_schedule.warmup_epochs > self.epochs:
            raise ValueError(
                f"lr_schedule: a milestone or warm-up beyond the {self.epochs} epochs has no effect"
            )
        return self


class Penalty(Document):
    """The term added to the training loss: l1 sum |w| over the weights of every Linear and Conv2d
    that may be pruned.

    Those are the weights that train and are not in the job's `exclude`; biases and BatchNorm are
    not penalised. The term is minimised by a proximal step after every update, w <- sign(w) max(|w|
    - t, 0) with t = l1 lr / (1 - momentum): SGD with momentum moves a weight by lr / (1 - momentum)
    times a constant gradient, so that the networks at which the training rests are those of the
    penalised loss (Parikh and Boyd, Proximal Algorithms, 2014, section 4.2). Unlike a subgradient
    step, which passes zero by, it leaves exact zeros: the trained network is sparse.
    """

    l1: Annotated[float, Field(ge=0)]


class Train(Training):
    """Train the dense network first; the weights at `rewind_epoch` are kept for weight rewinding.

    Whatever replays this schedule replays all of it, the penalty too: weight and learning-rate
    rewinding, and the training that follows with `before_training`. Fine-tuning and gradual runs
    follow `retrain`, without a penalty.
    """

    optimizer: Optimizer = Optimizer(lr=0.1)
    lr_schedule: LrSchedule = LrSchedule(name="cosine")
    rewind_epoch: Annotated[int, Field(ge=0)] = 0
    penalty: Penalty | None = None

    @property
    def l1(self) -> float:
        """The strength of the L1 penalty, 0 without one."""
        return self.penalty.l1 if self.penalty is not None else 0.0

    @model_validator(mode="after")
    def _one_step_for_all(self) -> Train:
        if self.l1 and self.optimizer.name != "sgd":
            raise ValueError(
                f"penalty: l1 needs the optimizer 'sgd'; {self.optimizer.name!r} takes a step of "
                "another size for every weight, and one threshold would not minimise the penalised "
                "loss"
            )
        return self

    @model_validator(mode="after")
    def _rewind_inside(self) -> Train:
        if self.rewind_epoch >= self.epochs:
            raise ValueError(
                f"rewind_epoch {self.rewind_epoch} must lie before the last of {self.epochs} epochs"
            )
        return self
