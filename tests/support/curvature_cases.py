"""Networks of every kind of layer, with the whole Jacobian to compare with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.seeding import seeded

CLASSES = 4
IMAGES = 5


class Tied(nn.Module):
    """A network with two layers that share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)
        self.head = nn.Linear(8, CLASSES)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x.flatten(1)[:, :8])))))


class Twice(nn.Module):
    """One convolution called twice, on images of different size, and one layer never called."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.head = nn.Linear(8, CLASSES)
        self.idle = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(
            torch.tanh(self.conv(F.max_pool2d(torch.tanh(self.conv(x)), 2))).flatten(1)
        )


class Tokens(nn.Module):
    """Linear layers at every position of the image, on inputs of more than two dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(2, 3)
        self.mix = nn.Linear(3, 3)
        self.head = nn.Linear(3, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.tanh(self.embed(x.permute(0, 2, 3, 1)))
        return self.head(torch.tanh(self.mix(tokens.flatten(1, 2))).mean(1))


class Residual(nn.Module):
    """A block that adds in place, with BatchNorm in eval mode, and a branch whose output is not
    used.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 3, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.branch = nn.Conv2d(3, 3, 3, padding=1)
        self.lost = nn.Conv2d(3, 1, 1)
        self.head = nn.Linear(48, CLASSES)
        assert self.norm.running_var is not None
        self.norm.running_var.fill_(1.7)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)), inplace=True)
        self.lost(x)
        y = self.branch(x)
        y += x
        return self.head(torch.relu_(y).flatten(1))


def build_sequence(*layers: nn.Module, features: int) -> nn.Module:
    """Build layers with a classifier behind them."""
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, CLASSES))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "conv and linear": lambda: build_sequence(
        nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), features=48
    ),
    "oblong": lambda: build_sequence(
        nn.Conv2d(2, 3, (1, 3), padding="same"), nn.Tanh(), features=48
    ),
    "grouped": lambda: build_sequence(
        nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.Tanh(), features=64
    ),
    "depthwise": lambda: build_sequence(
        nn.Conv2d(2, 2, 3, padding=1, groups=2), nn.Tanh(), features=32
    ),
    "multiplied depthwise": lambda: build_sequence(
        nn.Conv2d(2, 6, 3, groups=2), nn.Tanh(), features=24
    ),
    "pointwise": lambda: build_sequence(nn.Conv2d(2, 3, 1, bias=False), nn.Tanh(), features=48),
    "strided": lambda: build_sequence(
        nn.Conv2d(2, 3, 3, stride=(2, 1), padding=(1, 0)), nn.Tanh(), features=12
    ),
    "dilated": lambda: build_sequence(nn.Conv2d(2, 3, 2, dilation=(2, 3)), nn.Tanh(), features=6),
    "circular": lambda: build_sequence(
        nn.Conv2d(2, 3, 3, padding=(1, 2), padding_mode="circular"), nn.Tanh(), features=72
    ),
    "reflected": lambda: build_sequence(
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), nn.Tanh(), features=48
    ),
    "inplace": lambda: build_sequence(
        nn.Conv2d(2, 3, 3),
        nn.ReLU(inplace=True),
        nn.Conv2d(3, 3, 2),
        nn.ReLU(inplace=True),
        features=3,
    ),
    "tied": Tied,
    "twice": Twice,
    "tokens": Tokens,
    "residual": Residual,
}


def build_network(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """Build a seeded float64 network in training mode, with images and labels."""
    with seeded(1):
        model = NETWORKS[name]().double().train()
        return (
            model,
            torch.randn(IMAGES, 2, 4, 4, dtype=torch.float64),
            torch.arange(IMAGES) % CLASSES,
        )


def compute_jacobian(model: nn.Module, images: Tensor, name: str) -> Tensor:
    """Compute d f_c(x_i) / d weight by a backward pass for each image and class."""
    weight = model.get_parameter(name)
    modes = [module.training for module in model.modules()]
    model.eval()
    by_image = []
    for image in images:
        logits = model(image[None])[0]
        rows = [
            torch.autograd.grad(logit, weight, retain_graph=True, allow_unused=True)[0]
            for logit in logits
        ]
        connected = [torch.zeros_like(weight) if row is None else row for row in rows]
        by_image.append(torch.stack(connected))
    for module, training in zip(model.modules(), modes, strict=True):
        module.training = training
    return torch.stack(by_image)


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    """Assert that two tensors are equal up to rounding of the largest entry."""
    assert actual.shape == expected.shape
    assert float((actual - expected).abs().max()) <= tolerance * max(
        1.0, float(expected.abs().max())
    )


def compute_exact(model: nn.Module, images: Tensor, name: str) -> Tensor:
    """Compute diag(J^T (diag p - p p^T) J), the mean over images, from the whole Jacobian."""
    rows = compute_jacobian(model, images, name).flatten(2)
    modes = [module.training for module in model.modules()]
    p = model.eval()(images).detach().softmax(1)
    for module, training in zip(model.modules(), modes, strict=True):
        module.training = training
    middle = torch.stack([torch.diag(softmax) - torch.outer(softmax, softmax) for softmax in p])
    return (
        torch.stack([(row.T @ m @ row).diag() for row, m in zip(rows, middle, strict=True)])
        .mean(0)
        .view_as(model.get_parameter(name))
    )
