"""The recipe of a pruning job, with every default written in."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from pruning.schemas.base import Document
from pruning.schemas.gates import EVALUATION_OF_GATE
from pruning.schemas.gates import Gates as Gates
from pruning.schemas.layer_patterns import LayerPatterns, Overrides
from pruning.schemas.targets import Targets as Targets
from pruning.schemas.training import Train, Training

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
UPLOADED = "uploaded"
"""The name that stands for the criterion of a network that was pruned elsewhere."""


class Method(Document):
    """A registered method by name, with its parameters (see `GET /v1/methods`)."""

    name: Name
    params: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _is_an_object(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError(f"write {json.dumps({'name': value})}")
        return value


Evaluations = Annotated[tuple[Method, ...], Field(max_length=100)] | Literal["all"] | None
"""Evaluations by name, `all`, or none named."""


class Distill(Document):
    """Knowledge distillation from the dense network (Hinton et al., 2015).

    loss = (1 - alpha) CE(z, y) + alpha T^2 KL(softmax(t / T) || softmax(z / T)), z the logits of
    the network, t those of the dense network as given, T the temperature.
    """

    alpha: Annotated[float, Field(gt=0, le=1)] = 0.5
    temperature: Annotated[float, Field(gt=0, le=100)] = 4.0


class Retrain(Training):
    """The training that follows every pruning round.

    `none`: nothing. `fine_tune`: train on with this schedule. `weight_rewind`: the surviving
    weights return to those of `rewind_epoch` and the schedule resumes there. `lr_rewind`: the
    weights stay, the schedule resumes at `rewind_epoch`. Where the job trains the dense network
    itself (`model.train`), both rewindings replay that schedule with its penalty. `gradual`: the
    rounds to a target share one run of this schedule. Round i = 0 ... R - 1 prunes before epoch
    floor(i prune_epochs / R) (default of `prune_epochs`: three quarters of `epochs`) and trains up
    to the next; the last trains to the end. The learning rate and the order of the images go on as
    in one training; the optimiser's momentum starts from zero after each pruning. With the schedule
    `cubic` this is gradual magnitude pruning (GMP).
    """

    mode: Literal["none", "fine_tune", "weight_rewind", "lr_rewind", "gradual"] = "fine_tune"
    rewind_epoch: Annotated[int, Field(ge=0)] = 0
    prune_epochs: Annotated[int, Field(ge=1)] | None = None
    distill: Annotated[
        Distill | bool, AfterValidator(lambda value: Distill() if value is True else value)
    ] = False
    """`true`, or the constants: learn from the dense network's outputs too; the dense control does
    so as well.
    """

    @property
    def distillation(self) -> Distill | None:
        """The constants of distillation, if any."""
        return self.distill if isinstance(self.distill, Distill) else None

    @property
    def pruning_epochs(self) -> int:
        """Epochs of a gradual run in which it prunes."""
        return self.prune_epochs or max(1, round(0.75 * self.epochs))

    @model_validator(mode="after")
    def _nothing_ignored(self) -> Retrain:
        extra = self.model_fields_set - {"mode"}
        if self.mode == "none" and extra:
            raise ValueError(f"{', '.join(sorted(extra))} has no effect with mode 'none'")
        if self.mode not in ("weight_rewind", "lr_rewind") and self.rewind_epoch:
            raise ValueError(f"rewind_epoch has no effect with mode {self.mode!r}")
        if self.mode != "gradual" and self.prune_epochs is not None:
            raise ValueError(f"prune_epochs has no effect with mode {self.mode!r}")
        if self.mode == "gradual" and self.keep == "best":
            raise ValueError(
                "keep: with mode 'gradual' the best epoch may be one before the last pruning"
            )
        if self.rewind_epoch >= self.epochs:
            raise ValueError(
                f"rewind_epoch {self.rewind_epoch} must lie before the last of {self.epochs} epochs"
            )
        if self.pruning_epochs > self.epochs:
            raise ValueError(
                f"prune_epochs {self.prune_epochs} is more than the {self.epochs} epochs"
            )
        return self


class Control(Document):
    """The training of the dense control, which retrained checkpoints are compared with.

    `matched`: the dense network is retrained round by round as the checkpoints are, with the same
    data, schedules and restarts of the optimiser, and each checkpoint is compared with the control
    that was retrained as often as it. `one_round`: it is retrained once, and all checkpoints are
    compared with it. Where weights are rewound before each retraining the two are the same.
    """

    budget: Literal["matched", "one_round"] = "matched"


Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]


class Limit(Document):
    """The largest number or fraction of images of each split, and how images are drawn, also those
    that are set aside for validation.

    They are drawn in proportion to the classes, so that errors are those of the whole dataset, and
    each class keeps an image to train on; with `balanced` equally many of each class; without
    `stratify`, or with masks, with no regard to class.
    """

    train: Count | Fraction | None = None
    test: Count | Fraction | None = None
    stratify: bool = True
    balanced: bool = False
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    """The seed of the draw of images; `null`: that of the job. Jobs that differ in their `seed`
    alone and have this one in common see the same images in the same splits.
    """

    @model_validator(mode="after")
    def _one_way_to_draw(self) -> Limit:
        if self.balanced and not self.stratify:
            raise ValueError("balanced has no effect without stratify")
        return self

    @property
    def mix(self) -> Literal["plain", "proportional", "balanced"]:
        """The way in which images are drawn."""
        if not self.stratify:
            return "plain"
        return "balanced" if self.balanced else "proportional"

    def of(self, split: Literal["train", "test"], images: int) -> int:
        """Return how many of the images of a split are used.

        >>> (
        ...     Limit(train=500).of("train", 300),
        ...     Limit(train=0.25).of("train", 300),
        ...     Limit().of("test", 300),
        ... )
        (300, 75, 300)
        """
        limit = self.train if split == "train" else self.test
        if limit is None:
            return images
        return min(images, limit if isinstance(limit, int) else max(1, round(limit * images)))


class Shifts(Document):
    """The user's knowledge of the data that the network will meet, beyond the test images.

    `unexpected`: they may shift in ways nobody can name. `partly_modelled`: some shifts are trained
    on (`corrupt`), others may come. `modelled`: what comes is like the training data, corruptions
    and all. The recommendation follows the guideline of Lost in Pruning for each.
    """

    knowledge: Literal["unexpected", "partly_modelled", "modelled"]


class Recipe(Document):
    """The science of a job: criterion, targets, steps, retraining and evaluations."""

    criterion: Method | Annotated[tuple[Method, ...], Field(min_length=1, max_length=100)] = Method(
        name="magnitude"
    )
    allocation: Method | None = None
    """The division of the budget over the layers; `null`: as in the criterion's paper, mostly
    `global`.
    """
    granularity: Method | None = None
    """The unit that is removed as a whole; `null`: the unit that the criterion scores, a weight or
    a channel.
    """
    sparsifier: Method | None = None
    """The spending of a layer's share; `null`: as the criterion prescribes, mostly `top_k`."""
    schedule: Method = Method(name="targets_only")
    when: Literal["after_training", "before_training"] = "after_training"
    independent: bool = False
    """Restart every target from the dense network instead of continuing one cascade."""
    targets: Targets
    include: LayerPatterns = ()
    """The weights that are prunable, by name, glob pattern or kind of layer; none: all."""
    exclude: LayerPatterns = ()
    """Weights left dense, by name, glob pattern or kind of layer; they do not count as prunable."""
    overrides: Overrides = {}
    """The sparsity at every target of the layers that a glob pattern names, as a share of their
    own weights; of their own channels, where channels are removed.
    """
    train: Train | None = None
    """Train the network first; without it the weights are taken as they come."""
    retrain: Retrain = Retrain()
    control: Control = Control()
    batchnorm: Literal["reestimate", "keep"] = "reestimate"
    """After pruning, before retraining: `reestimate` takes BatchNorm's statistics again from
    training images and keeps them where they lower the loss on other training images; `keep` leaves
    them.
    """
    evaluations: Evaluations = None
    """The evaluations to run. `null`: those that a person decides by, those that the gates read,
    and under `shifts` and with shifted sets those about shifts; `all`: every one that applies.
    """
    limit: Limit = Limit()
    keep_zeros: bool = True
    """The exact zeros among the prunable weights of a network that the job does not train itself
    are its mask: they count as pruned and stay zero.
    """
    gates: Gates = Gates()
    shifts: Shifts | None = None
    """`null`: the recommendation speaks for data like the test images alone."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @property
    def image_seed(self) -> int:
        """The seed under which images are drawn: for limits, validation and shifts."""
        return self.seed if self.limit.seed is None else self.limit.seed

    @property
    def prunes(self) -> bool:
        """Whether the job prunes; one that judges networks which were pruned elsewhere does not."""
        return True

    @property
    def restarts(self) -> bool:
        """Whether every target starts from the dense network, as the networks of a search do."""
        return self.independent or self.targets.are_searched

    @property
    def criteria(self) -> tuple[Method, ...]:
        """The criteria to compare, one or several."""
        return (self.criterion,) if isinstance(self.criterion, Method) else self.criterion

    @property
    def names_evaluations(self) -> bool:
        """Whether the recipe lists its evaluations by name."""
        return isinstance(self.evaluations, tuple)

    @property
    def named_evaluations(self) -> tuple[Method, ...]:
        """The evaluations that the recipe lists by name."""
        return self.evaluations if isinstance(self.evaluations, tuple) else ()

    @property
    def retraining(self) -> Training:
        """The schedule that follows a pruning: that of the first training where it is replayed."""
        replays = self.retrain.mode in ("weight_rewind", "lr_rewind")
        if self.train is not None and (replays or self.when == "before_training"):
            return self.train
        return self.retrain

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        self._check_evaluations()
        if self.when == "before_training":
            if self.train is None:
                raise ValueError(
                    "when: 'before_training' prunes at initialisation and needs model.train"
                )
            if self.retrain.mode != "none" and "retrain" in self.model_fields_set:
                raise ValueError(
                    "retrain: with when 'before_training' the pruned network is trained by "
                    "model.train; leave retrain out"
                )
            if "batchnorm" in self.model_fields_set:
                raise ValueError(
                    "batchnorm: has no effect with when 'before_training': BatchNorm is trained "
                    "afterwards"
                )
        elif self.train is not None and self.retrain.mode in ("weight_rewind", "lr_rewind"):
            ignored = self.retrain.model_fields_set - {"mode", "distill"}
            if ignored:
                raise ValueError(
                    f"retrain: {', '.join(sorted(ignored))} come from model.train when the job "
                    f"trains the network and the mode is {self.retrain.mode!r}"
                )
        if self.overrides and self.targets.quantity != "sparsity":
            raise ValueError(
                "overrides: they go with targets.sparsity; under "
                f"{self.targets.describe()} the search decides how much of each layer remains"
            )
        if self.retrain.mode == "gradual" and len(self.targets.values) > 1 and not self.restarts:
            raise ValueError(
                "retrain: a gradual run ends at one target; set independent, or list one target"
            )
        return self

    def _check_evaluations(self) -> None:
        """Raise `ValueError` for evaluations listed twice, or that do not measure what the gates
        read.
        """
        names = [method.name for method in self.named_evaluations]
        if len(set(names)) != len(names):
            raise ValueError("evaluations: an evaluation is listed twice")
        for gate in self.gates.list_set():
            evaluation = EVALUATION_OF_GATE.get(gate)
            if self.names_evaluations and evaluation and evaluation not in names:
                raise ValueError(
                    f"gates.{gate}: it is read from the evaluation {evaluation!r}, which is not "
                    "listed"
                )
        for method in self.named_evaluations:
            if method.name == "robustness" and method.params.get("against") == "given":
                self._refuse_gate_on_given()

    def _refuse_gate_on_given(self) -> None:
        if self.gates.max_delta_excess_error is not None:
            raise ValueError(
                "gates: max_delta_excess_error is a limit on the excess error above that of the "
                "dense control, and the evaluation 'robustness' is told to compare with 'given'"
            )

    def digest(self) -> str:
        """Return the SHA-256 (hex) of the recipe with every default written in, as canonical JSON.

        Two ways to write one recipe have one digest: a criterion or a list of one; what has no
        effect before training; no penalty or one of zero; no corruptions.
        """
        document = self.model_dump(mode="json") | {
            "criterion": [method.model_dump(mode="json") for method in self.criteria]
        }
        if self.when == "before_training":
            del document["retrain"], document["batchnorm"]
        elif self.retrain.mode == "gradual":
            document["retrain"]["prune_epochs"] = self.retrain.pruning_epochs
        if self.control.budget == "matched":
            del document["control"]
        if self.shifts is None:
            del document["shifts"]
        if self.keep_zeros:
            del document["keep_zeros"]
        document = {
            name: value
            for name, value in document.items()
            if value or name not in ("include", "overrides")
        }
        if not self.limit.stratify:
            del document["limit"]["balanced"]
        if self.image_seed == self.seed:
            del document["limit"]["seed"]
        unset = Gates().model_dump(mode="json")
        document["gates"] = {
            name: value
            for name, value in document["gates"].items()
            if name == "max_error_increase" or value != unset[name]
        }
        for name in ("train", "retrain"):
            if document.get(name) is not None:
                document[name] = _leave_out_unset(document[name])
        if self.train is not None and not self.train.l1:
            del document["train"]["penalty"]
        return hashlib.sha256(
            json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
        ).hexdigest()


LATER_FIELDS: dict[str, Any] = {"corrupt": None, "keep": "last", "scaled_crop": None}
"""The younger fields of a training, with the values that change nothing."""


def _leave_out_unset(training: dict[str, Any]) -> dict[str, Any]:
    """A training as a document, without the younger fields that change nothing."""
    return {
        name: value
        for name, value in training.items()
        if name not in LATER_FIELDS or value != LATER_FIELDS[name]
    }
