"""BackSelect: in which order pixels can be hidden so that a network stays sure of its answer for as long as possible.

Source: Carter, Mueller, Jain and Gifford, What made you do this? Understanding black-box decisions with sufficient input
subsets, AISTATS 2019, and the code released with it (a hidden pixel has the mean colour; of equal pixels the first goes).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from pruning.bounds.graph import folded
from pruning.errors import StructureError
from pruning.modes import evaluating
from pruning.shifts import sureness

BATCH = 256


def fast(model: nn.Module, image: Tensor) -> nn.Module:
    """A copy for many forward passes on images like this one (C, H, W): BatchNorm folded, channels last.

    The plain copy where the network cannot be traced, or does not run with channels last (`view` after a convolution).
    """
    try:
        found: nn.Module = folded(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch.no_grad():
            found(image[None])
    except (StructureError, RuntimeError):
        return copy.deepcopy(model).eval()
    return found


def back_select(model: nn.Module, image: Tensor, target: int, block: int = 1, *, steps: int | None = None) -> Tensor:
    """The order in which blocks of pixels are hidden, first to last, int64 (blocks,), numbered row by row.

    From the whole normalised image (C, H, W), at each step the block whose hiding (all channels set to 0) leaves the softmax
    confidence of class `target` largest, of equal ones the first. B blocks take B (B + 1) / 2 forward passes, in batches.
    `block` is the side of a block in pixels; at the right and the lower edge blocks may be smaller. `steps` ends it early.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    >>> _ = net[1].weight.data.copy_(torch.tensor([[3.0, -1.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))
    >>> back_select(net, torch.ones(1, 2, 2), 0)
    tensor([1, 3, 2, 0])
    """
    height, width = image.shape[1:]
    numbers = blocks(height, width, block).to(image.device)
    count = int(numbers.max()) + 1
    left, order = torch.arange(count, device=image.device), []
    current = image.clone()
    with torch.no_grad(), evaluating(model):
        for _ in range(count if steps is None else min(steps, count)):
            best = int(_confidence(model, current, numbers, left, target).argmax())
            order.append(int(left[best]))
            current = current.masked_fill(numbers == left[best], 0.0)
            left = torch.cat([left[:best], left[best + 1:]])
    return torch.tensor(order)


def blocks(height: int, width: int, block: int) -> Tensor:
    """The number of each pixel's block, (H, W).

    >>> blocks(2, 3, 2)
    tensor([[0, 0, 1],
            [0, 0, 1]])
    """
    across = -(-width // block)
    return (torch.arange(height)[:, None] // block) * across + torch.arange(width)[None] // block


def informative(order: Tensor, numbers: Tensor, share: float = 0.1) -> Tensor:
    """The pixels hidden last, bool (H, W): whole blocks from the end of the order until they are the share of all pixels.

    >>> informative(torch.tensor([1, 3, 2, 0]), blocks(2, 2, 1), 0.5)
    tensor([[ True, False],
            [ True, False]])
    """
    sizes = torch.bincount(numbers.flatten(), minlength=len(order))[order]
    kept = sizes.flip(0).cumsum(0).flip(0) <= max(share * numbers.numel() + 1e-6, float(sizes[-1]))
    return torch.isin(numbers, order[kept])


def _confidence(model: nn.Module, image: Tensor, numbers: Tensor, left: Tensor, target: int) -> Tensor:
    """The confidence with each of the blocks that are left hidden too, (left,), float64."""
    found = []
    for part in torch.split(left, BATCH):
        hidden = numbers[None] == part[:, None, None]  # (B, H, W)
        inputs = image[None].masked_fill(hidden[:, None], 0.0).contiguous()
        found.append(sureness(model(inputs))[:, target])
    return torch.cat(found)
