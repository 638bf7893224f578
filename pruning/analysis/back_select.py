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
NEAR = 16
"""On a CPU, how many blocks that lie together are tried at once: the fewer, the smaller what has to
be computed anew.
"""


def optimise_for_inference(model: nn.Module, image: Tensor) -> nn.Module:
    """A copy for many forward passes on images like this one (C, H, W): a graph, BatchNorm folded,
    channels last.

    The plain copy where the network cannot be traced, or does not run with channels last (`view`
    after a convolution).
    """
    try:
        found: nn.Module = simplify(trace(fold_batchnorm(model))).to(
            memory_format=torch.channels_last
        )  # type: ignore[call-overload]
        with torch.no_grad():
            found(image[None])
    except (StructureError, RuntimeError):
        return copy.deepcopy(model).eval()
    return found


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
    left, order = list(range(count)), list[int]()
    current = image.clone()
    with torch.inference_mode(), evaluate_mode(model):
        windows = _windows(model)
        for _ in range(count if steps is None else min(steps, count)):
            if windows is None:
                sure = _confidence(
                    model, current, numbers, torch.tensor(left, device=image.device), target
                )
            else:
                sure = _confidence_nearby(
                    windows, current, numbers=numbers, left=left, target=target, block=block
                )
            order.append(left.pop(int(sure.argmax())))
            current = current.masked_fill(numbers == order[-1], 0.0)
    return torch.tensor(order)


def number_blocks(height: int, width: int, block: int) -> Tensor:
    """The number of each pixel's block, (H, W).

    >>> number_blocks(2, 3, 2)
    tensor([[0, 0, 1],
            [0, 0, 1]])
    """
    across = -(-width // block)
    return (torch.arange(height)[:, None] // block) * across + torch.arange(width)[None] // block


def find_informative_pixels(order: Tensor, numbers: Tensor, share: float = 0.1) -> Tensor:
    """The pixels hidden last, bool (H, W): whole blocks from the end of the order until they are
    the share of all pixels.

    >>> find_informative_pixels(torch.tensor([1, 3, 2, 0]), number_blocks(2, 2, 1), 0.5)
    tensor([[ True, False],
            [ True, False]])
    """
    sizes = torch.bincount(numbers.flatten(), minlength=len(order))[order]
    kept = sizes.flip(0).cumsum(0).flip(0) <= max(share * numbers.numel() + 1e-6, float(sizes[-1]))
    return torch.isin(numbers, order[kept])


def _confidence(
    model: nn.Module, image: Tensor, numbers: Tensor, left: Tensor, target: int
) -> Tensor:
    """The confidence with each of the blocks that are left hidden too, (left,), float64."""
    found = []
    for part in torch.split(left, BATCH):
        hidden = numbers[None] == part[:, None, None]  # (B, H, W)
        inputs = image[None].masked_fill(hidden[:, None], 0.0).contiguous()
        found.append(compute_confidence(model(inputs))[:, target])
    return torch.cat(found)


def _windows(model: nn.Module) -> Windows | None:
    """None for a network that cannot be evaluated so, or has nothing to gain by it."""
    if not any(isinstance(module, nn.Conv2d) for module in model.modules()):
        return None
    try:
        return Windows(model)
    except StructureError:
        return None


def _confidence_nearby(
    windows: Windows, image: Tensor, *, numbers: Tensor, left: list[int], target: int, block: int
) -> Tensor:
    """As `_confidence`, of blocks that lie together at once, evaluated only where they change
    something.
    """
    height, width = numbers.shape
    rows, columns = -(-height // block), -(-width // block)
    found = compute_confidence(windows.set_reference(image))[:, target].repeat(rows * columns)
    shown = set(numbers[(image != 0).any(0)].tolist())
    tried = [one for one in left if one in shown]  # to hide any other changes nothing
    most = NEAR if image.device.type == "cpu" else BATCH
    for some, (top, bottom, start, end) in _together(tried, (0, rows, 0, columns), columns, most):
        box = top * block, min(bottom * block, height), start * block, min(end * block, width)
        inside, chosen = (slice(*box[:2]), slice(*box[2:])), torch.tensor(some, device=image.device)
        hidden = numbers[inside] == chosen[:, None, None]
        values = image[:, *inside].masked_fill(hidden[:, None], 0.0)
        found[chosen] = compute_confidence(windows.evaluate(values, box))[:, target]
    return found[left]


def _together(
    left: list[int], box: Box, columns: int, most: int
) -> Iterator[tuple[list[int], Box]]:
    """At most so many blocks that lie together, and the box that holds them, in blocks.

    Boxes are halves of halves of the whole, so that few shapes recur: for a new one kernels are
    made first.

    >>> list(_together([0, 1, 3, 5, 7], (0, 2, 0, 4), 4, 2))
    [([0], (0, 2, 0, 1)), ([1, 5], (0, 2, 1, 2)), ([3, 7], (0, 2, 2, 4))]
    """
    top, bottom, start, end = box
    if len(left) <= most:
        if left:
            yield left, box
        return
    if bottom - top > end - start:
        middle = (top + bottom) // 2
        first = [one for one in left if one // columns < middle]
        boxes = (top, middle, start, end), (middle, bottom, start, end)
    else:
        middle = (start + end) // 2
        first = [one for one in left if one % columns < middle]
        boxes = (top, bottom, start, middle), (top, bottom, middle, end)
    among = set(first)
    yield from _together(first, boxes[0], columns, most)
    yield from _together([one for one in left if one not in among], boxes[1], columns, most)
