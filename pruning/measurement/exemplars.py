"""Images on which a population of pruned networks answers otherwise than a dense one."""

from __future__ import annotations

from torch import Tensor


def find_exemplars(pruned: Tensor, dense: Tensor) -> Tensor:
    """Return the pruning-identified exemplars, bool (images,): the images whose modal label over
    the pruned networks differs from that over the dense ones.

    Both are the answers of several networks, whole numbers (networks, images). Where several labels
    are equally frequent, each of them counts as modal, and an image is an exemplar only if the two
    populations share no modal label. Hooker et al., What do compressed deep neural networks
    forget?, arXiv:1911.05248 (2019), section 2.

    >>> import torch
    >>> pruned = torch.tensor([[3, 1], [3, 0], [5, 1]])
    >>> find_exemplars(pruned, torch.tensor([[5, 1], [5, 1], [3, 0]]))
    tensor([ True, False])
    """
    if pruned.shape[1] != dense.shape[1]:
        raise ValueError(f"{pruned.shape[1]} images beside {dense.shape[1]}")
    same = pruned[:, None] == dense[None]
    both_modal = _mark_modal(pruned)[:, None] & _mark_modal(dense)[None]
    return ~(same & both_modal).any(0).any(0)


def _mark_modal(answers: Tensor) -> Tensor:
    """Whether the answer of each network is modal for the image, bool (networks, images)."""
    agreeing = (answers[:, None] == answers[None]).sum(1)
    return agreeing == agreeing.max(0).values
