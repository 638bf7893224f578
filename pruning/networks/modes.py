"""Training and evaluation modes that are put back as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def evaluate_mode(model: nn.Module) -> Iterator[None]:
    """Put a network in eval mode until the block ends.

    Afterwards every submodule is in its own mode again: a frozen BatchNorm stays frozen.

    >>> net = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1).eval())
    >>> with evaluate_mode(net):
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


@contextmanager
def batch_statistics_mode(model: nn.Module) -> Iterator[None]:
    """Put a network in eval mode, but let every BatchNorm normalise by the batch at hand.

    Running statistics and modes are put back when the block ends.

    >>> import torch
    >>> net = nn.Sequential(nn.BatchNorm1d(1), nn.Dropout())
    >>> with batch_statistics_mode(net):
    ...     net(torch.tensor([[1.0], [3.0]])).round().tolist()
    [[-1.0], [1.0]]
    >>> net[0].running_mean
    tensor([0.])
    """
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    saved = [{name: value.clone() for name, value in layer.named_buffers()} for layer in layers]
    with evaluate_mode(model):
        try:
            for layer in layers:
                layer.train()
            yield
        finally:
            for layer, buffers in zip(layers, saved, strict=True):
                layer.eval()
                for name, value in buffers.items():
                    layer.get_buffer(name).copy_(value)
