"""One unit of a network pruned alone, and what that does to the losses: a layer where weights are
removed, a coupled group of channels where these are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from pruning.channels.graph import ChannelGraph, Group
from pruning.errors import BudgetError, ScoreError, StructureError
from pruning.evidence.criterion import Criterion, moves_weights
from pruning.evidence.evidence import Evidence
from pruning.granularities.channel import Channel
from pruning.graphs.prefixes import Change, Prefixes
from pruning.masks import select_top, select_weight_masks
from pruning.measurement.objective import compute_errors, compute_losses, limit_losses
from pruning.networks.layers import name_layer
from pruning.rounds.overrides import restrict
from pruning.types import Granularity, Masks, Selection


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A layer, by the name of its weight, or a coupled group of channels, by that of the first
    layer that writes them.
    """

    name: str
    size: int
    """The weights of the layer, or the channels of the group."""
    alive: int
    """The weights or channels that are not pruned yet."""
    group: Group | None = None


@dataclass(frozen=True, kw_only=True)
class PrunedUnit:
    """A network in which one unit is pruned, and nothing else."""

    unit: Unit
    kept: int
    """The weights or channels that remain of the unit."""
    masks: Masks
    """The masks of the parameters that lose something."""
    weights: Mapping[str, Tensor]
    """New values of weights that remain, where a criterion or a sampler moves them."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters that change."""
        return tuple(self.masks)

    def build_values(self, model: nn.Module) -> dict[str, Tensor]:
        """Build the parameters of the pruned network by name."""
        values = {}
        for name, mask in self.masks.items():
            value = self.weights.get(name, model.get_parameter(name).detach())
            values[name] = value.masked_fill(~mask.to(value.device), 0.0)
        return values


@dataclass(frozen=True, kw_only=True)
class SingleUnits:
    """The units of a selection, each pruned alone as a job would that includes nothing else."""

    selection: Selection
    granularity: Granularity
    criterion: Criterion
    evidence: Evidence
    """The evidence of the scores."""

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """The units of which something can be removed, in the order of the network."""
        masks = self.selection.masks
        if not isinstance(self.granularity, Channel):
            return tuple(
                Unit(name=name, size=weight.numel(), alive=int(masks[name].count_nonzero()))
                for name, weight in self.selection.weights.items()
            )
        return tuple(
            Unit(
                name=group.name,
                size=group.size,
                alive=int(self._before[group.span].count_nonzero()),
                group=group,
            )
            for group in self._graph.removable
        )

    def explain_left_out(self) -> dict[str, str]:
        """Explain which layers among those of the selection can lose nothing, by name."""
        if not isinstance(self.granularity, Channel):
            return {}
        groups = {
            group.name: group.reason
            for group in self._graph.groups
            if group.name and group.reason is not None
        }
        dense = self._graph.left_dense(self.selection.model, self.selection.weights)
        unseen = {name: why for name, why in dense.items() if name_layer(name) not in groups}
        return groups | unseen

    @property
    def draws_channels(self) -> bool:
        """Whether channels are drawn at random and stand for others, so that none is chosen."""
        reweights = bool(getattr(self.selection.sparsifier, "reweights", False))
        return isinstance(self.granularity, Channel) and reweights

    def prune(self, unit: Unit, sparsity: float) -> PrunedUnit | str:
        """Prune one unit to a sparsity of its own; the reason where nothing can be removed of it.

        Of a layer N - round(s N) weights remain, as the granularity realises it; of a group as many
        channels, at least one. Random draws of samplers are the same for every unit and sparsity.
        """
        if self.draws_channels:
            return "its channels are drawn at random, and none is chosen"
        if unit.group is not None:
            pruned = self._prune_group(unit, unit.group, sparsity)
        else:
            state = self.selection.generator.get_state()
            try:
                pruned = self._prune_layer(unit, sparsity)
            except (BudgetError, ScoreError, StructureError) as error:
                return str(error)
            finally:
                self.selection.generator.set_state(state)
        if pruned.kept < unit.alive:
            return pruned
        noun = "channel" if unit.group is not None else "weight"
        return f"no {noun} goes at this level: {pruned.kept} of {unit.size} remain before and after"

    def _prune_layer(self, unit: Unit, sparsity: float) -> PrunedUnit:
        name = unit.name
        part = restrict(self.selection, [name], 1.0 - sparsity)
        selected = self.granularity.select(part)
        own = select_weight_masks(selected.masks)[name]
        changed = {
            other: mask
            for other, mask in selected.masks.items()
            if other == name or not bool(mask.all())
        }
        weights: Mapping[str, Tensor] = {}
        if moves_weights(self.criterion):
            weights = self.criterion.compensate(self._restrict_evidence(name), {name: own})
        elif getattr(self.selection.sparsifier, "reweights", False):
            weights = selected.weights
        return PrunedUnit(
            unit=unit, kept=int(own.count_nonzero()), masks=changed, weights=dict(weights)
        )

    def _prune_group(self, unit: Unit, group: Group, sparsity: float) -> PrunedUnit:
        count = max(1, min(unit.alive, unit.size - round(sparsity * unit.size)))
        keep = self._before.clone()
        keep[group.span] = select_top(self._importance[group.name], count)
        keep = self._graph.closed(keep)
        old = self.selection.masks
        masks = {
            name: mask & old[name] if name in old else mask
            for name, mask in self._graph.masks(self.selection.model, keep).items()
        }
        kept = int(keep[group.span].count_nonzero())
        return PrunedUnit(unit=unit, kept=kept, masks=masks, weights={})

    def _restrict_evidence(self, name: str) -> Evidence:
        """The evidence of a job that includes one layer alone."""
        evidence = self.evidence
        return Evidence(
            evidence.model,
            {name: evidence.masks[name]},
            lambda: evidence.batches,
            evidence.generator,
            include=[name],
            loss=evidence.loss,
            shape=evidence.shape,
        )

    @cached_property
    def _graph(self) -> ChannelGraph:
        return ChannelGraph.of_selection(self.selection)

    @cached_property
    def _before(self) -> Tensor:
        return self._graph.kept(self.selection.model, self.selection.masks)

    @cached_property
    def _importance(self) -> dict[str, Tensor]:
        assert isinstance(self.granularity, Channel)
        return self.granularity.compute_importance(self._graph, self.selection, self._before)


@dataclass(frozen=True)
class ChangedLosses:
    """Errors and losses of the same images, of a network and under each of several changes."""

    wrong: Tensor
    """The errors as in `pruning.measurement.measure`, (images,)."""
    losses: Tensor
    """float32 (images,)."""
    changed_wrong: Tensor
    """(changes, images)."""
    changed_losses: Tensor
    """(changes, images)."""


def measure_changes(
    prefixes: Prefixes,
    batches: Iterable[tuple[Tensor, Tensor]],
    changes: Sequence[Change],
    advance: Callable[[int], None] = lambda images: None,
) -> ChangedLosses:
    """Measure the errors and the losses of the images of the batches, (inputs, labels), before and
    under each change; `advance` is called with the images of each batch when it is done.
    """
    wrong: list[Tensor] = []
    losses: list[Tensor] = []
    for inputs, labels in batches:
        outputs = prefixes.evaluate(inputs, changes)
        by_number = {number: _judge(logits, labels) for number, logits in outputs}
        rows = [by_number[number] for number in range(-1, len(changes))]
        wrong.append(torch.stack([row[0] for row in rows]))
        losses.append(torch.stack([row[1] for row in rows]))
        advance(len(labels))
    all_wrong, all_losses = torch.cat(wrong, 1), limit_losses(torch.cat(losses, 1))
    return ChangedLosses(all_wrong[0], all_losses[0], all_wrong[1:], all_losses[1:])


def _judge(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The errors and losses of a batch, on the CPU."""
    logits = outputs.float()
    return compute_errors(logits, labels).cpu(), compute_losses(logits, labels).cpu()
