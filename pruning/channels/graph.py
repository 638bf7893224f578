"""The channels of a network in coupled groups: what can be removed, and what goes with it."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from pruning.architectures._attention_heads import AttentionHeads
from pruning.architectures._channel_map import ChannelMap
from pruning.channels.coupling import Coupling, Labels, couple_channels, find_components
from pruning.channels.slicing import shrink_, slice_channels
from pruning.errors import StructureError
from pruning.masks import PRUNABLE, apply_masks_
from pruning.networks.layers import as_matrices, list_own_parameters, name_layer, name_tensor
from pruning.types import Masks, Selection, Shape

TOLERANCE = 1e-3
"""The largest difference between a network and its smaller copy in single precision, relative to
the largest output.
"""


@dataclass(frozen=True)
class Group:
    """Channels with the numbers `start ... start + size - 1`, written by the same layers."""

    name: str
    """The first layer that writes them."""
    start: int
    size: int
    reason: str | None = None
    """Why none of them can be removed; None where they can."""
    head_size: int | None = None
    """The channels of a layer that are one head of an attention; None where no heads are meant."""

    @property
    def span(self) -> slice:
        """The group's part of a tensor over all channels."""
        return slice(self.start, self.start + self.size)


@dataclass(frozen=True)
class ChannelGraph:
    """The channels of a network by number; coupled channels, which can only be removed together,
    have the same number.
    """

    groups: tuple[Group, ...]
    """The groups in the order of the network, numbered without gaps."""
    inputs: Mapping[str, Tensor]
    """The channel at each position of what a module reads, by module name."""
    outputs: Mapping[str, Tensor]
    """The channel at each position of what a module writes, by module name."""
    carried: Tensor
    """(2, n): a channel, and the one that a parameter-free shortcut carries it into."""
    feeds: frozenset[tuple[str, str]] = frozenset()
    """A convolution or linear layer, and another that reads what it writes with none between."""

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
        >>> for group in graph.groups:
        ...     print(repr(group.name), group.size, group.reason)
        '0' 2 None
        '3' 3 they are the network's outputs
        '' 1 they are the image's channels
        >>> graph.inputs["3"]
        tensor([0, 0, 0, 0, 1, 1, 1, 1])
        """
        generator = torch.Generator().manual_seed(0)
        net = _randomise(model, generator)
        size = [min(pixels, getattr(model, "traced_at", pixels)) for pixels in shape[1:]]
        dtype = next(net.parameters()).dtype
        image = torch.randn(4, shape[0], *size, generator=generator, dtype=dtype)
        graph = _number_channels(model, couple_channels(net, image), set(names))
        return graph._check(net, image)

    @staticmethod
    def of_selection(selection: Selection) -> ChannelGraph:
        """The graph of the network of a selection, traced once for selections that share what is
        known of it.
        """
        shape = selection.shape()
        key = (ChannelGraph, shape, tuple(selection.weights))
        if key not in selection.known:
            selection.known[key] = ChannelGraph.of(selection.model, shape, selection.weights)
        graph: ChannelGraph = selection.known[key]
        return graph

    @property
    def size(self) -> int:
        """The number of channels."""
        return sum(group.size for group in self.groups)

    @property
    def removable(self) -> tuple[Group, ...]:
        """The groups that can lose channels."""
        return tuple(group for group in self.groups if group.reason is None)

    def masks(self, model: nn.Module, keep: Tensor) -> Masks:
        """The masks of the parameters that lose something when only the channels `keep` (bool, by
        number) remain.
        """
        masks: Masks = {}
        for name, module, inputs, outputs in self._list_cut_modules(model, keep):
            for tensor, index in slice_channels(module, inputs, outputs).items():
                value = getattr(module, tensor)
                if isinstance(value, nn.Parameter):
                    mask = torch.zeros(value.shape, dtype=torch.bool)
                    mask[index] = True
                    if not mask.all():
                        masks[name_tensor(name, module, tensor)] = mask.to(value.device)
        return masks

    def kept(self, model: nn.Module, masks: Masks) -> Tensor:
        """The channels that masks leave, bool by number.

        A channel is left if any weight, bias or BatchNorm parameter that reads or writes it
        remains, or if its group cannot be removed. Channels on a shortcut between such channels
        stay too, see `closed`.
        """
        alive = torch.zeros(self.size, dtype=torch.bool)
        for group in self.groups:
            alive[group.span] = group.reason is not None
        for name, outputs in self.outputs.items():
            module = model.get_submodule(name)
            for tensor, parameter in list_own_parameters(module).items():
                mask = masks.get(name_tensor(name, module, tensor))
                if mask is None:  # nothing of it was pruned
                    mask = torch.ones(parameter.shape, dtype=torch.bool)
                mask = mask.cpu()
                if isinstance(module, PRUNABLE) and mask.dim() > 1:
                    # (groups, outputs of a group, what each reads): a channel is read where any
                    # weight of its columns remains, and written where any of its row does.
                    by_group = as_matrices(module, mask)
                    reads = by_group.any(1).reshape(len(self.inputs[name]), -1).any(1)
                    alive[self.inputs[name][reads]] = True
                    mask = by_group.any(2).flatten()
                alive[outputs[mask]] = True
        return self.closed(alive)

    def closed(self, keep: Tensor) -> Tensor:
        """The channels `keep` and every channel between two of them along weightless shortcuts.

        Zero weights of a channel between do not stop the values that a shortcut carries through it,
        so that removing it would change the function.
        """
        after_kept, before_kept = keep.clone(), keep.clone()
        source, target = self.carried
        # Both spread by one shortcut in each pass, until nothing is added.
        while True:
            counts = int(after_kept.sum()), int(before_kept.sum())
            after_kept[target[after_kept[source]]] = True
            before_kept[source[before_kept[target]]] = True
            if counts == (int(after_kept.sum()), int(before_kept.sum())):
                return after_kept & before_kept

    def shrink(self, model: nn.Module, keep: Tensor) -> nn.Module:
        """A copy of the network with only the channels `keep`."""
        small = copy.deepcopy(model)
        for _, module, inputs, outputs in self._list_cut_modules(small, keep):
            shrink_(module, inputs, outputs)
        return small

    def kept_of(self, name: str, keep: Tensor) -> tuple[Tensor, Tensor]:
        """The positions that remain of what a module reads and of what it writes."""
        reads, writes = keep[self.inputs[name]], keep[self.outputs[name]]
        return reads.nonzero().flatten(), writes.nonzero().flatten()

    def left_dense(self, model: nn.Module, names: Iterable[str]) -> dict[str, str]:
        """The weights that cannot lose rows or columns, each with the reason."""
        by_channel = [group.reason for group in self.groups for _ in range(group.size)]
        left_dense = {}
        for name in names:
            owner = name_layer(name)
            if owner not in self.inputs:
                left_dense[name] = _explain_unseen(model, owner)
                continue
            reads = {by_channel[channel] for channel in self.inputs[owner].tolist()}
            writes = {by_channel[channel] for channel in self.outputs[owner].tolist()}
            if None not in reads | writes:
                left_dense[name] = (
                    f"its inputs must stay, for {' and '.join(sorted(map(str, reads)))}; "
                    f"so must its outputs, for {' and '.join(sorted(map(str, writes)))}"
                )
        return left_dense

    def _list_cut_modules(
        self, model: nn.Module, keep: Tensor
    ) -> Iterator[tuple[str, nn.Module, Tensor, Tensor]]:
        """The modules that lose something, with the positions that remain."""
        for name in self.inputs:
            inputs, outputs = self.kept_of(name, keep)
            if len(inputs) < len(self.inputs[name]) or len(outputs) < len(self.outputs[name]):
                yield name, model.get_submodule(name), inputs, outputs

    def _check(self, net: nn.Module, image: Tensor) -> ChannelGraph:
        """The graph in which only the groups can be removed that leave the function what it was."""
        if self._agrees(net, image, self.removable):
            return self
        failing = {group for group in self.removable if not self._agrees(net, image, [group])}
        groups = [
            replace(group, reason="removing some would change what remains")
            if group in failing
            else group
            for group in self.groups
        ]
        checked = replace(self, groups=tuple(groups))
        if not failing or not checked._agrees(net, image, checked.removable):
            raise StructureError(
                "the network without some channels is not the network with these masked: its "
                "structure is not understood"
            )
        return checked

    def _agrees(self, net: nn.Module, image: Tensor, groups: Collection[Group]) -> bool:
        """Whether the network without half the channels of these groups equals the network with
        these channels masked.
        """
        generator = torch.Generator().manual_seed(1)
        keep = torch.ones(self.size, dtype=torch.bool)
        for group in groups:
            order = torch.randperm(group.size, generator=generator)
            removed = order[max(1, group.size // 2) :]
            keep[group.start + removed] = False
        keep = self.closed(keep)
        if keep.all():
            return True
        masked = copy.deepcopy(net)
        apply_masks_(masked, self.masks(net, keep))
        with torch.no_grad():
            expected = masked(image)
            try:
                output = self.shrink(net, keep)(image)
            except Exception:  # a network that is cut wrongly may fail in any way
                return False
        if output.shape != expected.shape:
            return False
        return bool((output - expected).abs().max() <= TOLERANCE * expected.abs().max())


def _explain_unseen(model: nn.Module, owner: str) -> str:
    """Why a layer has no channels that could be followed."""
    for name in (owner, owner.rpartition(".")[0]):
        if isinstance(model.get_submodule(name), nn.MultiheadAttention):
            return "it is a projection of an attention, whose heads are not removed as channels"
    return "it has no part in the outputs"


def _randomise(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """A copy of the network in eval mode on the CPU, in at least single precision, with random
    parameters and statistics.
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
            # As He et al. initialise: values keep their size from layer to layer.
            scale = (2 * len(parameter) / parameter.numel()) ** 0.5 if parameter.dim() > 1 else 1.0
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
        for name, buffer in net.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return net


def _number_channels(model: nn.Module, coupling: Coupling, names: Collection[str]) -> ChannelGraph:
    """Number the channels group by group, the groups in the order of the layers that write them."""
    modules = {name: module for name, module in model.named_modules() if name in coupling.outputs}
    writers = {
        name: coupling.outputs[name]
        for name, module in modules.items()
        if isinstance(module, PRUNABLE)
    }
    heads = [
        (coupling.outputs[name], module.size)
        for name, module in modules.items()
        if isinstance(module, AttentionHeads)
    ]
    fixed = coupling.fixed + list(_list_untouchable(model, coupling, names))
    labels = np.concatenate(
        [*coupling.inputs.values(), *coupling.outputs.values(), *(part for part, _ in fixed)]
    )
    written = np.concatenate([*writers.values(), np.empty(0, np.int64)])
    unwritten = np.setdiff1d(labels, written)
    component = _join_writers(int(labels.max()) + 1, list(writers.values()))
    order: list[int] = []  # the labels by the number that they get
    groups: list[Group] = []
    for name, own in [*writers.items(), ("", unwritten)]:
        if not len(own) or own[0] in order:
            continue  # no channels, or a group that an earlier layer writes too
        members = own
        if name:
            candidates = written[component[written] == component[own[0]]]
            # Each label once, in the order in which the layers write them.
            _, first = np.unique(candidates, return_index=True)
            members = candidates[np.sort(first)]
        reason = _explain_fixed(members, fixed, written=bool(name))
        size = next((size for labels, size in heads if np.isin(labels, members).any()), None)
        groups.append(Group(name, len(order), len(members), reason, size))
        order += members.tolist()
    number = np.zeros(len(component), np.int64)
    number[order] = np.arange(len(order))
    inputs = {name: torch.from_numpy(number[coupling.inputs[name]]) for name in modules}
    outputs = {name: torch.from_numpy(number[coupling.outputs[name]]) for name in modules}
    carried = [torch.empty(2, 0, dtype=torch.long)]
    for name, module in modules.items():
        if isinstance(module, ChannelMap):
            sources = module.sources.cpu()
            fed = sources >= 0  # the other outputs are zeros
            carried.append(torch.stack([inputs[name][sources[fed]], outputs[name][fed]]))
    feeds = frozenset(coupling.feeds)
    return ChannelGraph(tuple(groups), inputs, outputs, torch.cat(carried, 1), feeds)


def _join_writers(count: int, writers: Sequence[Labels]) -> Labels:
    """The component of each of `count` labels, where a layer joins all labels that it writes.

    The layers that add into one residual stream write the same labels, and so are one group.
    """
    edges = [np.stack([labels, np.full_like(labels, labels[0])], 1) for labels in writers]
    return find_components(count, np.concatenate([np.empty((0, 2), np.int64), *edges]))


def _explain_fixed(
    members: Labels, fixed: Sequence[tuple[Labels, str]], *, written: bool
) -> str | None:
    """Why no channel of a group can be removed; None where some can."""
    for labels, reason in fixed:
        if np.isin(labels, members).any():
            return reason
    if not written:
        return "no layer writes them"
    return "there is only one" if len(members) == 1 else None


def _list_untouchable(
    model: nn.Module, coupling: Coupling, names: Collection[str]
) -> Iterator[tuple[Labels, str]]:
    """The channels of layers that are excluded, frozen, or share a tensor with another layer, or
    that say why they stay.
    """
    owners: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), set()).add(name)
    for name in coupling.inputs:
        module = model.get_submodule(name)
        own = list_own_parameters(module)
        frozen = {tensor for tensor, parameter in own.items() if not parameter.requires_grad}
        reasons = []
        if any(len(owners[id(parameter)]) > 1 for parameter in own.values()):
            reasons.append(f"{name} shares a parameter with another layer")
        if frozen:
            yield coupling.outputs[name], f"{name} is frozen"
        if isinstance(module, PRUNABLE) and name_tensor(name, module, "weight") not in names:
            reasons.append(f"{name} is frozen" if "weight" in frozen else f"{name} is excluded")
        for reason in reasons:
            yield coupling.inputs[name], reason
            yield coupling.outputs[name], reason
        if hasattr(module, "inputs_stay"):
            yield coupling.inputs[name], str(module.inputs_stay)
        if hasattr(module, "outputs_stay"):
            yield coupling.outputs[name], str(module.outputs_stay)
