"""BackSelect: in which order pixels can be hidden so that a network stays sure of its answer for as
long as possible.

Source: Carter, Mueller, Jain and Gifford, What made you do this? Understanding black-box decisions
with sufficient input subsets, AISTATS 2019, and the code released with it (a hidden pixel has the
mean colour; of equal pixels the first goes).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pruning.analysis.shifts import compute_confidence
from pruning.errors import StructureError
from pruning.graphs.in_place import simplify
from pruning.graphs.receptive_fields import Box
from pruning.graphs.tracing import fold_batchnorm, trace
from pruning.graphs.windowed import Windows
from pruning.networks.modes import evaluate_mode

BATCH = 256
"""The number of blocks that are tried at once."""
NEAR = 16
"""The number of neighbouring blocks that are tried at once on a CPU.

The fewer there are, the smaller is the part of the network that is computed again.
"""


def optimise_for_inference(model: nn.Module, image: Tensor) -> nn.Module:
    """A copy for many forward passes on images like this one (C, H, W): a graph, BatchNorm folded,
    channels last.

    The plain copy where the network cannot be traced, or does not run with channels last (`view`
    after a convolution).
    """
    try:
        graph = simplify(trace(fold_batchnorm(model)))
        optimised: nn.Module = graph.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch.no_grad():
            optimised(image[None])
    except (StructureError, RuntimeError):
        return copy.deepcopy(model).eval()
    return optimised


def select_backwards(
    model: nn.Module, image: Tensor, target: int, block: int = 1, *, steps: int | None = None
) -> Tensor:
    """The order in which blocks of pixels are hidden, first to last, int64 (blocks,), numbered row
    by row.

    From the whole normalised image (C, H, W), at each step the block whose hiding (all channels set
    to 0) leaves the softmax confidence of class `target` largest, of equal ones the first. B blocks
    take B (B + 1) / 2 forward passes, in batches; in convolutional networks that can be traced,
    early layers are evaluated only around what is hidden (`Windows`). `block` is the side of a
    block in pixels; at the right and the lower edge blocks may be smaller. `steps` ends it early.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    >>> _ = net[1].weight.data.copy_(torch.tensor([[3.0, -1.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))
    >>> select_backwards(net, torch.ones(1, 2, 2), 0)
    tensor([1, 3, 2, 0])
    """
    height, width = image.shape[1:]
    numbers = number_blocks(height, width, block).to(image.device)
    count = int(numbers.max()) + 1
    visible = list(range(count))
    order: list[int] = []
    current = image.clone()
    with torch.inference_mode(), evaluate_mode(model):
        windows = _make_windows(model)
        for _ in range(count if steps is None else min(steps, count)):
            if windows is None:
                confidence = _try_blocks(
                    model, current, numbers=numbers, visible=visible, target=target
                )
            else:
                confidence = _try_blocks_in_windows(
                    windows, current, numbers=numbers, visible=visible, target=target, block=block
                )
            hidden = visible.pop(int(confidence.argmax()))
            order.append(hidden)
            current = current.masked_fill(numbers == hidden, 0.0)
    return torch.tensor(order)


def number_blocks(height: int, width: int, block: int) -> Tensor:
    """The number of each pixel's block, (H, W).

    >>> number_blocks(2, 3, 2)
    tensor([[0, 0, 1],
            [0, 0, 1]])
    """
    blocks_per_row = -(-width // block)
    rows = torch.arange(height)[:, None] // block
    columns = torch.arange(width)[None] // block
    return rows * blocks_per_row + columns


def find_informative_pixels(order: Tensor, numbers: Tensor, share: float = 0.1) -> Tensor:
    """The pixels hidden last, bool (H, W): as many whole blocks from the end of the order as fit
    into the share of all pixels, at least one.

    >>> find_informative_pixels(torch.tensor([1, 3, 2, 0]), number_blocks(2, 2, 1), 0.5)
    tensor([[ True, False],
            [ True, False]])
    """
    sizes = torch.bincount(numbers.flatten(), minlength=len(order))[order]
    pixels_from_here_on = sizes.flip(0).cumsum(0).flip(0)
    limit = max(share * numbers.numel() + 1e-6, float(sizes[-1]))
    return torch.isin(numbers, order[pixels_from_here_on <= limit])


def _try_blocks(
    model: nn.Module, image: Tensor, *, numbers: Tensor, visible: list[int], target: int
) -> Tensor:
    """The confidence with each of the visible blocks hidden too, (visible,), float64."""
    confidences = []
    for blocks in torch.split(torch.tensor(visible, device=image.device), BATCH):
        hidden = numbers[None] == blocks[:, None, None]  # (B, H, W)
        inputs = image[None].masked_fill(hidden[:, None], 0.0).contiguous()
        confidences.append(compute_confidence(model(inputs))[:, target])
    return torch.cat(confidences)


def _make_windows(model: nn.Module) -> Windows | None:
    """The network evaluated in windows; None where that is not possible or saves nothing."""
    if not any(isinstance(module, nn.Conv2d) for module in model.modules()):
        return None
    try:
        return Windows(model)
    except StructureError:
        return None


def _try_blocks_in_windows(
    windows: Windows, image: Tensor, *, numbers: Tensor, visible: list[int], target: int, block: int
) -> Tensor:
    """The confidence with each of the visible blocks hidden too, (visible,), float64; neighbouring
    blocks are tried at once, and layers evaluated only where hiding changes something.
    """
    height, width = numbers.shape
    rows, columns = -(-height // block), -(-width // block)
    unchanged = compute_confidence(windows.set_reference(image))[:, target]
    confidences = unchanged.repeat(rows * columns)
    shown = set(numbers[(image != 0).any(0)].tolist())
    tried = [number for number in visible if number in shown]  # hiding zeros changes nothing
    at_once = NEAR if image.device.type == "cpu" else BATCH
    for group, blocks in _group_neighbours(tried, (0, rows, 0, columns), columns, at_once):
        top, left = blocks[0] * block, blocks[2] * block
        bottom, right = min(blocks[1] * block, height), min(blocks[3] * block, width)
        chosen = torch.tensor(group, device=image.device)
        hidden = numbers[top:bottom, left:right] == chosen[:, None, None]
        values = image[:, top:bottom, left:right].masked_fill(hidden[:, None], 0.0)
        answers = windows.evaluate(values, (top, bottom, left, right))
        confidences[chosen] = compute_confidence(answers)[:, target]
    return confidences[visible]


def _group_neighbours(
    numbers: list[int], box: Box, columns: int, most: int
) -> Iterator[tuple[list[int], Box]]:
    """Groups of at most `most` neighbouring blocks, each with the box that holds it, in blocks.

    Boxes are halves of halves of the whole, so that few shapes recur: for a new one kernels are
    made first.

    >>> list(_group_neighbours([0, 1, 3, 5, 7], (0, 2, 0, 4), 4, 2))
    [([0], (0, 2, 0, 1)), ([1, 5], (0, 2, 1, 2)), ([3, 7], (0, 2, 2, 4))]
    """
    if not numbers:
        return
    if len(numbers) <= most:
        yield numbers, box
        return
    top, bottom, left, right = box
    first: list[int] = []
    second: list[int] = []
    if bottom - top > right - left:
        middle = (top + bottom) // 2
        halves = (top, middle, left, right), (middle, bottom, left, right)
        for number in numbers:
            (first if number // columns < middle else second).append(number)
    else:
        middle = (left + right) // 2
        halves = (top, bottom, left, middle), (top, bottom, middle, right)
        for number in numbers:
            (first if number % columns < middle else second).append(number)
    yield from _group_neighbours(first, halves[0], columns, most)
    yield from _group_neighbours(second, halves[1], columns, most)
