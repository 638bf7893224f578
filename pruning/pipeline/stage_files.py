"""The contents of stage files: which tensors a stage saves, under which names, and its note.

A tensor is named by the part of the stage that it belongs to, a dot, and its own name:
`model.conv1.weight` is a weight of the network, `mask.conv1.weight` the mask of that weight.

What is restored from a file holds its measurements; weights and masks are `StoredPart`s, which read
their tensors from the file each time they are used, so that a job of many rounds holds one network
at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from torch import Tensor

from pruning.errors import EvidenceError
from pruning.measurement.measure import Measured
from pruning.rounds.pruning import StageLoss
from pruning.storage.stages import State, StoredStage

NO_LOSSES = (
    "the job did not measure losses on training images, as no evaluation of its recipe says that "
    "it reads them (`reads_losses`)"
)
Weights: TypeAlias = Mapping[str, Tensor]
"""The state dict of a network, in memory or in a file."""


@dataclass(frozen=True, kw_only=True)
class DenseStage:
    """The dense network, as given or as the job trained it.

    >>> import torch
    >>> from pruning.measurement.measure import Answers
    >>> flags = torch.tensor([False, True])
    >>> answers = Answers(torch.zeros(2, dtype=torch.int32), torch.ones(2))
    >>> measured = Measured(flags, torch.ones(2), flags, answers=answers)
    >>> stage = DenseStage(model={"fc.bias": torch.zeros(1)}, measured=measured)
    >>> list(stage.tensors())[:4]
    ['model.fc.bias', 'given.wrong', 'given.losses', 'given.val_wrong']
    """

    model: Weights
    measured: Measured
    initial: Weights | None = None
    """The weights before any training of the job, where it prunes before it trains."""
    rewind: Weights | None = None
    """The weights to rewind to, where the job has them."""

    def tensors(self) -> State:
        """The tensors of the stage file by name."""
        parts = {"initial": self.initial, "model": self.model, "rewind": self.rewind}
        return _name_parts(parts) | self.measured.tensors("given")

    @staticmethod
    def restore(stored: StoredStage, *, initial: bool, rewind: bool) -> DenseStage:
        """The stage from its file, with the `initial` weights and those to `rewind` to where the
        job needs them.

        Raises `KeyError` where the file lacks something.
        """
        return DenseStage(
            model=stored.part("model"),
            measured=_restore_measured(stored, "given"),
            initial=stored.part("initial") if initial else None,
            rewind=stored.part("rewind") if rewind else None,
        )


@dataclass(frozen=True, kw_only=True)
class ControlStage:
    """A dense control: the dense network, retrained as the pruned ones are."""

    model: Weights
    measured: Measured | None
    """None where no target is compared with it, and the next control alone goes on from it."""

    def tensors(self) -> State:
        """The tensors of the stage file by name."""
        tensors = _name_parts({"model": self.model})
        return tensors | (self.measured.tensors("control") if self.measured is not None else {})

    @staticmethod
    def restore(stored: StoredStage, *, measured: bool) -> ControlStage:
        """The stage from its file, with what was `measured` where the job needs it.

        Raises `KeyError` where the file lacks something.
        """
        return ControlStage(
            model=stored.part("model"),
            measured=_restore_measured(stored, "control") if measured else None,
        )


@dataclass(frozen=True, kw_only=True)
class SecondNetworkStage:
    """The second dense network, trained from another seed."""

    model: Weights

    def tensors(self) -> State:
        """The tensors of the stage file by name."""
        return _name_parts({"model": self.model})

    @staticmethod
    def restore(stored: StoredStage) -> SecondNetworkStage:
        """The stage from its file; raises `KeyError` where the file lacks something."""
        return SecondNetworkStage(model=stored.part("model"))


@dataclass(frozen=True, kw_only=True)
class RoundStage:
    """A round of pruning and retraining."""

    masks: Mapping[str, Tensor]
    model: Weights
    """The network as it was measured last, in the shape of the dense network."""
    pruned: Measured
    """The network right after pruning, measured."""
    retrained: Measured | None = None
    """The network after retraining, measured; None where it is not retrained."""
    loss_before: Tensor | None = None
    """float32 (n,): the losses on a sample of training images, right before the pruning; None where
    no evaluation reads them.
    """
    loss_after: Tensor | None = None
    """float32 (n,): the losses on the same images, right after the pruning."""
    untrained: Weights | None = None
    """The network right after pruning, where the job prunes before it trains: the next round starts
    from it.
    """
    unretrained: Weights | None = None
    """The network right after pruning, where an evaluation reads it."""
    stages: Sequence[StageLoss] = ()
    """The change of the loss at each stage of the pruning, where the criterion models the loss."""
    batchnorm: Mapping[str, float] | None = None
    """The effect of re-estimating BatchNorm, where it was."""

    def read_losses(self) -> tuple[Tensor, Tensor]:
        """The losses before and after the pruning, float32 (n,) both; raises `EvidenceError` where
        the job did not measure them.
        """
        if self.loss_before is None or self.loss_after is None:
            raise EvidenceError(NO_LOSSES)
        return self.loss_before, self.loss_after

    def tensors(self) -> State:
        """The tensors of the stage file by name."""
        losses = {"before": self.loss_before, "after": self.loss_after}
        parts = {
            "loss": {name: value for name, value in losses.items() if value is not None},
            "mask": self.masks,
            "untrained": self.untrained,
            "unretrained": self.unretrained,
            "model": self.model,
        }
        tensors = _name_parts(parts) | self.pruned.tensors("pruned")
        if self.retrained is not None:
            tensors |= self.retrained.tensors("retrained")
        return tensors

    def notes(self) -> dict[str, Any]:
        """The entries of the stage file's note beside time and warnings."""
        return {
            "stages": [vars(stage) for stage in self.stages],
            "batchnorm": self.batchnorm,
            "unretrained": self.unretrained is not None,
        }

    @staticmethod
    def restore(
        stored: StoredStage, *, untrained: bool, retrained: bool, losses: bool = True
    ) -> RoundStage:
        """The stage from its file, with the `untrained` weights, what was measured after it was
        `retrained` and the `losses` on training images where the job needs them.

        Raises `KeyError` where the file lacks something.
        """
        return RoundStage(
            masks=stored.part("mask"),
            model=stored.part("model"),
            pruned=_restore_measured(stored, "pruned"),
            retrained=_restore_measured(stored, "retrained") if retrained else None,
            loss_before=stored.whole["loss.before"] if losses else None,
            loss_after=stored.whole["loss.after"] if losses else None,
            untrained=stored.part("untrained") if untrained else None,
            unretrained=stored.part("unretrained") if stored.note["unretrained"] else None,
            stages=[_restore_stage_loss(entries) for entries in stored.note["stages"]],
            batchnorm=stored.note.get("batchnorm"),
        )


def _name_parts(parts: Mapping[str, Weights | None]) -> State:
    """The tensors of all parts, each named by its part, a dot and its own name."""
    return {
        f"{part}.{name}": tensor
        for part, tensors in parts.items()
        if tensors is not None
        for name, tensor in tensors.items()
    }


def _restore_measured(stored: StoredStage, part: str) -> Measured:
    return Measured.restore(_name_parts({part: stored.part(part)}), part)


def _restore_stage_loss(entries: Mapping[str, Any]) -> StageLoss:
    return StageLoss(**{field.name: entries[field.name] for field in fields(StageLoss)})
