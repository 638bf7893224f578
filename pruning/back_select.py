"""BackSelect: in which order pixels can be hidden so that a network stays sure of its answer for as long as possible.

Source: Carter, Mueller, Jain and Gifford, What made you do this? Understanding black-box decisions with sufficient input
subsets, AISTATS 2019, and the code released with it (a hidden pixel has the mean colour; of equal pixels the first goes).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from pruning.bounds.graph import folded, traced
from pruning.errors import StructureError
from pruning.modes import evaluating
from pruning.shifts import sureness
from pruning.windows import Box, Windows

BATCH = 256
NEAR = 16
"""On a CPU, how many blocks that lie together are tried at once: the fewer, the smaller what has to be computed anew."""


def fast(model: nn.Module, image: Tensor) -> nn.Module:
    """A copy for many forward passes on images like this one (C, H, W): a graph, BatchNorm folded, channels last.

    The plain copy where the network cannot be traced, or does not run with channels last (`view` after a convolution).
    """
    try:
        found: nn.Module = traced(folded(model)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
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
    left, order = list(range(count)), list[int]()
    current = image.clone()
    with torch.no_grad(), evaluating(model):
        windows = _windows(model)
        for _ in range(count if steps is None else min(steps, count)):
            if windows is None:
                sure = _confidence(model, current, numbers, torch.tensor(left, device=image.device), target)
            else:
                sure = _confidence_nearby(windows, current, numbers, left, target, block)
            order.append(left.pop(int(sure.argmax())))
            current = current.masked_fill(numbers == order[-1], 0.0)
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


def _windows(model: nn.Module) -> Windows | None:
    """None for a network that cannot be evaluated so, or has nothing to gain by it."""
    if not any(isinstance(module, nn.Conv2d) for module in model.modules()):
        return None
    try:
        return Windows(model)
    except StructureError:
        return None


def _confidence_nearby(windows: Windows, image: Tensor, numbers: Tensor, left: list[int], target: int, block: int) -> Tensor:
    """As `_confidence`, of blocks that lie together at once, evaluated only where they change something."""
    windows.settle(image)
    height, width = numbers.shape
    most = NEAR if image.device.type == "cpu" else BATCH
    found = torch.empty(len(left), dtype=torch.float64, device=image.device)
    for places, (top, bottom, start, end) in _together(left, -(-height // block), -(-width // block), most):
        box = top * block, min(bottom * block, height), start * block, min(end * block, width)
        inside = slice(box[0], box[1]), slice(box[2], box[3])
        chosen = torch.tensor([left[place] for place in places], device=image.device)
        hidden = numbers[inside] == chosen[:, None, None]
        values = image[(slice(None), *inside)].masked_fill(hidden[:, None], 0.0)
        found[places] = sureness(windows.answer(values, box))[:, target]
    return found


def _together(left: list[int], rows: int, columns: int, most: int) -> list[tuple[list[int], Box]]:
    """Places in the list of at most so many blocks that lie together, and the box that holds them, in blocks.

    Boxes are halves of halves of the whole, so that few shapes recur: new shapes are slow.

    >>> _together([0, 1, 3, 5, 7], 2, 4, 2)
    [([0, 1], (0, 1, 0, 2)), ([3], (1, 2, 0, 2)), ([2, 4], (0, 2, 2, 4))]
    """
    def split(places: list[int], box: Box) -> list[tuple[list[int], Box]]:
        top, bottom, start, end = box
        if not places:
            return []
        if len(places) <= most:
            return [(places, box)]
        if bottom - top > end - start:
            middle = (top + bottom) // 2
            boxes = (top, middle, start, end), (middle, bottom, start, end)
            first = [place for place in places if left[place] // columns < middle]
        else:
            middle = (start + end) // 2
            boxes = (top, bottom, start, middle), (top, bottom, middle, end)
            first = [place for place in places if left[place] % columns < middle]
        taken = set(first)
        return split(first, boxes[0]) + split([place for place in places if place not in taken], boxes[1])

    return split(list(range(len(left))), (0, rows, 0, columns))
