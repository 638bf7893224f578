"""Training and evaluation modes that are put back as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every submodule is in its own mode again (a frozen BatchNorm stays frozen).

    >>> net = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1).eval())
    >>> with evaluating(net):
    ...     net.training
    False
    >>> [module.training for module in net.modules()]
    [True, True, False]
    """
    trained = [module for module in model.modules() if module.training]
    if trained:
        model.eval()
    try:
        yield
    finally:
        for module in trained:
            module.training = True
