"""The channels of a network in coupled groups: what can be removed, and what goes with it."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from pruning.architectures._channel_map import ChannelMap
from pruning.channels.coupling import Coupling, Labels, couple_channels, find_components
from pruning.channels.slicing import shrink_, slice_channels
from pruning.errors import StructureError
from pruning.masks import PRUNABLE, apply_masks_
from pruning.networks.layers import as_matrices
from pruning.types import Masks, Shape

TOLERANCE = 1e-3
"""Of a network compared with its smaller copy in single precision, relative to the largest output.
"""


@dataclass(frozen=True)
class Group:
    """Channels side by side: numbers `start ... start + size - 1`, written by the same layers."""

    name: str
    """The first layer that writes them."""
    start: int
    size: int
    reason: str | None = None
    """Why none of them can be removed."""

    @property
    def span(self) -> slice:
        """The group's part of a tensor over all channels."""
        return slice(self.start, self.start + self.size)


@dataclass(frozen=True)
class ChannelGraph:
    """Every channel of the network has a number; coupled ones, which can only be removed together,
    have the same.
    """

    groups: tuple[Group, ...]
    """In the order of the network, numbered without gaps."""
    inputs: Mapping[str, Tensor]
    """By module name, the channel at each position of what the module reads."""
    outputs: Mapping[str, Tensor]
    """By module name, the channel at each position of what the module writes."""
    carried: Tensor
    """(2, n): a channel, and one that it is carried into without a weight (by a parameter-free
    shortcut).
    """

    @staticmethod
    def of(model: nn.Module, shape: Shape, names: Collection[str]) -> ChannelGraph:
        """The graph for images of `shape` (C, H, W), where the weights `names` may lose rows and
        columns.

        The network is traced on a copy with random weights (with images of at most `traced_at`
        pixels a side, where the network says that their size does not matter), and the copy without
        half of its channels is compared with the copy in which these are masked: a group whose
        removal would change the function cannot be removed. Raises `StructureError` where tracing
        fails or the comparison fails with every group that passes it alone.

        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
        >>> graph = ChannelGraph.of(net, (1, 4, 4), ["0.weight", "3.weight"])
        >>> [(group.name, group.size, group.reason) for group in graph.groups]
        [('0', 2, None), ('3', 3, "they are the network's outputs"), ('', 1, "they are the image's channels")]
        >>> graph.inputs["3"]
        tensor([0, 0, 0, 0, 1, 1, 1, 1])
        """
        generator = torch.Generator().manual_seed(0)
        net = _randomised(model, generator)
        size = [min(pixels, getattr(model, "traced_at", pixels)) for pixels in shape[1:]]
        image = torch.randn(
            4, shape[0], *size, generator=generator, dtype=next(net.parameters()).dtype
        )
        return _numbered(model, couple_channels(net, image), set(names))._checked(net, image)

    @property
    def size(self) -> int:
        """How many channels there are."""
        return sum(group.size for group in self.groups)

    @property
    def removable(self) -> tuple[Group, ...]:
        """The groups that can lose channels."""
        return tuple(group for group in self.groups if group.reason is None)

    def masks(self, model: nn.Module, keep: Tensor) -> Masks:
        """What remains of every parameter that loses something when only the channels `keep` (bool,
        by number) remain.
        """
        found: Masks = {}
        for name, module, inputs, outputs in self._kept_of(model, keep):
            for tensor, index in slice_channels(module, inputs, outputs).items():
                value = getattr(module, tensor)
                if isinstance(value, nn.Parameter):
                    mask = torch.zeros(value.shape, dtype=torch.bool)
                    mask[index] = True
                    if not mask.all():
                        found[f"{name}.{tensor}" if name else tensor] = mask.to(value.device)
        return found

    def kept(self, model: nn.Module, masks: Masks) -> Tensor:
        """The channels that masks leave, bool by number: all of which anything remains, be it a
        bias.

        What carries one that is left into another stays too, see `closed`.
        """
        alive = torch.zeros(self.size, dtype=torch.bool)
        for group in self.groups:
            alive[group.span] = group.reason is not None
        for name, outputs in self.outputs.items():
            module = model.get_submodule(name)
            for tensor, parameter in module.named_parameters(recurse=False):
                mask = masks.get(f"{name}.{tensor}" if name else tensor)
                mask = torch.ones(parameter.shape, dtype=torch.bool) if mask is None else mask.cpu()
                if isinstance(module, PRUNABLE) and mask.dim() > 1:
                    by_group = as_matrices(module, mask)
                    reads = by_group.any(1).reshape(len(self.inputs[name]), -1).any(1)
                    alive[self.inputs[name][reads]] = True
                    mask = by_group.any(2).flatten()
                alive[outputs[mask]] = True
        return self.closed(alive)

    def closed(self, keep: Tensor) -> Tensor:
        """`keep` and every channel between two of them along shortcuts without weights: its zero
        weights do not stop the values that pass through it, so that removing it would change the
        function.
        """
        above, below = keep.clone(), keep.clone()
        source, target = self.carried
        while True:
            before = int(above.sum()), int(below.sum())
            above[target[above[source]]] = True
            below[source[below[target]]] = True
            if before == (int(above.sum()), int(below.sum())):
                return above & below

    def shrink(self, model: nn.Module, keep: Tensor) -> nn.Module:
        """A copy of the network with only the channels `keep`."""
        small = copy.deepcopy(model)
        for _, module, inputs, outputs in self._kept_of(small, keep):
            shrink_(module, inputs, outputs)
        return small

    def kept_of(self, name: str, keep: Tensor) -> tuple[Tensor, Tensor]:
        """The positions that remain of what a module reads and of what it writes."""
        return keep[self.inputs[name]].nonzero().flatten(), keep[
            self.outputs[name]
        ].nonzero().flatten()

    def left_dense(self, model: nn.Module, names: Iterable[str]) -> dict[str, str]:
        """The weights that cannot lose rows or columns, each with the reason."""
        reasons = [group.reason for group in self.groups for _ in range(group.size)]
        found = {}
        for name in names:
            owner = name.rpartition(".")[0]
            if owner not in self.inputs:
                found[name] = "it has no part in the outputs"
                continue
            reads, writes = (
                {reasons[channel] for channel in side[owner].tolist()}
                for side in (self.inputs, self.outputs)
            )
            if None not in reads | writes:
                found[name] = (
                    f"its inputs must stay, for {' and '.join(sorted(map(str, reads)))}; "
                    f"so must its outputs, for {' and '.join(sorted(map(str, writes)))}"
                )
        return found

    def _kept_of(
        self, model: nn.Module, keep: Tensor
    ) -> Iterator[tuple[str, nn.Module, Tensor, Tensor]]:
        """The modules that lose something, with the positions that remain."""
        for name in self.inputs:
            inputs, outputs = self.kept_of(name, keep)
            if len(inputs) < len(self.inputs[name]) or len(outputs) < len(self.outputs[name]):
                yield name, model.get_submodule(name), inputs, outputs

    def _checked(self, net: nn.Module, image: Tensor) -> ChannelGraph:
        """The graph with only those groups removable that leave the function what it was."""
        if self._agrees(net, image, self.removable):
            return self
        failing = {group for group in self.removable if not self._agrees(net, image, [group])}
        checked = replace(
            self,
            groups=tuple(
                replace(group, reason="removing some would change what remains")
                if group in failing
                else group
                for group in self.groups
            ),
        )
        if not failing or not checked._agrees(net, image, checked.removable):
            raise StructureError(
                "the network without some channels is not the network with these masked: its "
                "structure "
                "is not understood"
            )
        return checked

    def _agrees(self, net: nn.Module, image: Tensor, wanted: Collection[Group]) -> bool:
        """Whether the network without half the channels of these groups equals the network with
        these masked.
        """
        generator = torch.Generator().manual_seed(1)
        keep = torch.ones(self.size, dtype=torch.bool)
        for group in wanted:
            keep[
                group.start
                + torch.randperm(group.size, generator=generator)[max(1, group.size // 2) :]
            ] = False
        keep = self.closed(keep)
        if keep.all():
            return True
        masked = copy.deepcopy(net)
        apply_masks_(masked, self.masks(net, keep))
        with torch.no_grad():
            expected = masked(image)
            try:
                found = self.shrink(net, keep)(image)
            except Exception:  # a network that is cut wrongly may fail in any way
                return False
        return found.shape == expected.shape and bool(
            (found - expected).abs().max() <= TOLERANCE * expected.abs().max()
        )


def _randomised(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """A copy in eval mode on the CPU, in single precision at least, all its parameters and
    statistics random.
    """
    try:
        net = copy.deepcopy(model).cpu().eval()
    except Exception as error:  # what a module holds may refuse to be copied in any way
        raise StructureError(
            f"the network cannot be copied: {type(error).__name__}: {error}"
        ) from error
    if next(net.parameters()).dtype in (torch.float16, torch.bfloat16):
        net.float()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
            scale = (2 * len(parameter) / parameter.numel()) ** 0.5 if parameter.dim() > 1 else 1.0
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
        for name, buffer in net.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return net


def _numbered(model: nn.Module, coupling: Coupling, names: Collection[str]) -> ChannelGraph:
    """Number the channels group by group, the groups in the order of the layers that write them."""
    modules = {name: module for name, module in model.named_modules() if name in coupling.outputs}
    writers = {
        name: coupling.outputs[name]
        for name, module in modules.items()
        if isinstance(module, PRUNABLE)
    }
    fixed = coupling.fixed + list(_untouchable(model, coupling, names))
    everything = np.concatenate(
        [*coupling.inputs.values(), *coupling.outputs.values(), *(labels for labels, _ in fixed)]
    )
    count = int(everything.max()) + 1
    written = np.concatenate([*writers.values(), np.empty(0, np.int64)])
    owner = find_components(
        count,
        np.concatenate(
            [
                np.empty((0, 2), np.int64),
                *(
                    np.stack([labels, np.full_like(labels, labels[0])], 1)
                    for labels in writers.values()
                ),
            ]
        ),
    )
    owner[np.setdiff1d(np.arange(count), written)] = (
        count  # what no layer writes makes the last group
    )
    order: list[int] = []
    found: list[Group] = []
    for name, labels in [*writers.items(), ("", np.setdiff1d(everything, written))]:
        if not len(labels) or labels[0] in order:
            continue
        mine = written[owner[written] == owner[labels[0]]] if name else labels
        members = mine[np.sort(np.unique(mine, return_index=True)[1])]
        reasons = [reason for touched, reason in fixed if np.isin(touched, members).any()]
        reasons += (
            ["no layer writes them"]
            if not name
            else ["there is only one"]
            if len(members) == 1
            else []
        )
        found.append(Group(name, len(order), len(members), reasons[0] if reasons else None))
        order += members.tolist()
    number = np.zeros(count, np.int64)
    number[order] = np.arange(len(order))
    inputs, outputs = (
        {name: torch.from_numpy(number[side[name]]) for name in modules}
        for side in (coupling.inputs, coupling.outputs)
    )
    carried = [torch.empty(2, 0, dtype=torch.long)]
    for name, module in modules.items():
        if isinstance(module, ChannelMap):
            fed = module.sources.cpu() >= 0
            carried.append(
                torch.stack([inputs[name][module.sources.cpu()[fed]], outputs[name][fed]])
            )
    return ChannelGraph(tuple(found), inputs, outputs, torch.cat(carried, 1))


def _untouchable(
    model: nn.Module, coupling: Coupling, names: Collection[str]
) -> Iterator[tuple[Labels, str]]:
    """The channels of layers that are excluded, frozen, or share a tensor with another layer."""
    owners: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), set()).add(name)
    for name in coupling.inputs:
        module = model.get_submodule(name)
        own = dict(module.named_parameters(recurse=False))
        frozen = {tensor for tensor, parameter in own.items() if not parameter.requires_grad}
        reasons = (
            [f"{name} shares a parameter with another layer"]
            if any(len(owners[id(parameter)]) > 1 for parameter in own.values())
            else []
        )
        if frozen:
            yield coupling.outputs[name], f"{name} is frozen"
        if isinstance(module, PRUNABLE) and (f"{name}.weight" if name else "weight") not in names:
            reasons.append(f"{name} is frozen" if "weight" in frozen else f"{name} is excluded")
        for reason in reasons:
            yield coupling.inputs[name], reason
            yield coupling.outputs[name], reason
