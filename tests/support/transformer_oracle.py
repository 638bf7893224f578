"""A vision transformer of two blocks in plain numpy, and what criteria score on it, in float64.

Derivatives are complex steps, df/dw = Im f(w + ih) / h with h = 1e-30: exact to rounding, and
without a line in common with automatic differentiation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf
from torch import nn

from pruning.architectures._attention import open_attention_
from tests.support.attention_nets import build_disturbed

Array = NDArray[Any]
HEADS, WIDTH, HIDDEN, SIDE, PATCH, CLASSES, BLOCKS = 2, 4, 5, 4, 2, 3, 2
STEP = 1e-30
LAYER = "encoder.layers.encoder_layer_"


def build_network() -> nn.Module:
    """The network in torch: torchvision's, with all parameters random."""
    from torchvision.models import VisionTransformer

    def make() -> nn.Module:
        return VisionTransformer(
            image_size=SIDE, patch_size=PATCH, num_layers=BLOCKS, num_heads=HEADS,
            hidden_dim=WIDTH, mlp_dim=HIDDEN, num_classes=CLASSES,
        )  # fmt: skip

    return open_attention_(build_disturbed(make))


def softmax(x: Array) -> Array:
    """Softmax along the last axis."""
    powers = np.exp(x - x.real.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


class Oracle:
    """The network with its images: the inputs of its layers, its loss and their derivatives."""

    def __init__(self, state: Mapping[str, Array], images: Array, labels: Array) -> None:
        self.state = dict(state)
        self.images, self.labels = images, labels
        self.names = [
            name for name, value in state.items()
            if value.ndim in (2, 4) and name.endswith("weight")
        ]  # fmt: skip
        self.evidence_order: list[str] = []
        """The weights in the order in which a criterion draws for them."""
        self.seen: dict[str, Array] = {}
        self.run(self.state, images)
        self.inputs = dict(self.seen)
        """The inputs of every layer, (n, positions, inputs)."""

    def apply(self, state: Mapping[str, Array], name: str, x: Array) -> Array:
        """A linear layer on (n, positions, inputs), whose inputs are noted."""
        weight = state[name]
        bias = state[name.removesuffix("weight") + "bias"]
        self.seen[name] = x
        return x @ weight.reshape(len(weight), -1).T + bias

    def normalise(self, state: Mapping[str, Array], name: str, x: Array) -> Array:
        """LayerNorm with torchvision's eps."""
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    def attend(self, state: Mapping[str, Array], name: str, x: Array) -> Array:
        """Attention head by head."""
        packed = self.apply(state, f"{name}.in_proj_weight", x)
        q, k, v = packed[..., :WIDTH], packed[..., WIDTH : 2 * WIDTH], packed[..., 2 * WIDTH :]
        size = WIDTH // HEADS
        parts = []
        for head in range(HEADS):
            own = slice(head * size, (head + 1) * size)
            logits = q[..., own] @ np.swapaxes(k[..., own], 1, 2) / math.sqrt(size)
            parts.append(softmax(logits) @ v[..., own])
        return self.apply(state, f"{name}.out_proj.weight", np.concatenate(parts, -1))

    def run(self, state: Mapping[str, Array], images: Array) -> Array:
        """The logits of images (n, 3, SIDE, SIDE)."""
        patches = [
            images[:, :, top : top + PATCH, left : left + PATCH].reshape(len(images), -1)
            for top in range(0, SIDE, PATCH)
            for left in range(0, SIDE, PATCH)
        ]
        x = self.apply(state, "conv_proj.weight", np.stack(patches, 1))
        token = np.repeat(state["class_token"], len(images), 0)
        x = np.concatenate([token, x], 1) + state["encoder.pos_embedding"]
        for number in range(BLOCKS):
            block = f"{LAYER}{number}"
            attended = self.normalise(state, f"{block}.ln_1", x)
            x = x + self.attend(state, f"{block}.self_attention", attended)
            hidden = self.normalise(state, f"{block}.ln_2", x)
            hidden = self.apply(state, f"{block}.mlp.0.weight", hidden)
            hidden = hidden * (1 + erf(hidden / math.sqrt(2))) / 2
            x = x + self.apply(state, f"{block}.mlp.3.weight", hidden)
        x = self.normalise(state, "encoder.ln", x)[:, 0]
        return self.apply(state, "heads.head.weight", x[:, None])[:, 0]

    def losses(self, state: Mapping[str, Array], temperature: float = 1.0) -> Array:
        """The cross-entropy of every image."""
        logits = self.run(state, self.images) / temperature
        places = np.arange(len(self.labels))
        return -np.log(softmax(logits)[places, self.labels])

    def differentiate(
        self, function: Callable[[Mapping[str, Array]], Array], state: Mapping[str, Array]
    ) -> dict[str, Array]:
        """The derivatives of a function in every weight: (*weight, *value)."""
        derivatives = {}
        for name in self.names:
            rows = []
            for index in np.ndindex(state[name].shape):
                moved = state[name].astype(complex)
                moved[index] += 1j * STEP
                rows.append(np.imag(function({**state, name: moved})) / STEP)
            derivatives[name] = np.stack(rows).reshape(*state[name].shape, *rows[0].shape)
        return derivatives

    @cached_property
    def image_gradients(self) -> dict[str, Array]:
        """The gradient of the loss of every image, (*weight, n)."""
        return self.differentiate(self.losses, self.state)

    @property
    def gradient(self) -> dict[str, Array]:
        """The gradient of the mean loss."""
        return {name: value.mean(-1) for name, value in self.image_gradients.items()}

    def batch_gradients(self, sizes: list[int]) -> Iterator[dict[str, Array]]:
        """The gradient of the mean loss of each batch."""
        stops = np.cumsum(sizes)
        for start, stop in zip(stops - sizes, stops, strict=True):
            yield {
                name: value[..., start:stop].mean(-1)
                for name, value in self.image_gradients.items()
            }

    @cached_property
    def gauss_newton(self) -> dict[str, Array]:
        """The diagonal of (1/n) sum_i J_i^T (diag p_i - p_i p_i^T) J_i."""
        p = softmax(self.run(self.state, self.images))
        jacobians = self.differentiate(lambda state: self.run(state, self.images), self.state)
        diagonal = {}
        for name, jacobian in jacobians.items():  # (*weight, n, classes)
            squares = (p * jacobian**2).sum(-1) - ((p * jacobian).sum(-1)) ** 2
            diagonal[name] = squares.mean(-1)
        return diagonal

    def multiply_hessian(self, temperature: float) -> tuple[dict[str, Array], dict[str, Array]]:
        """The gradient g of the mean loss of logits / T, and H g by central differences of g."""

        def loss(state: Mapping[str, Array]) -> Array:
            return self.losses(state, temperature).mean()

        g = self.differentiate(loss, self.state)
        size = max(float(np.abs(value).max()) for value in g.values())
        step = 1e-5 / size
        moved = [
            self.differentiate(
                loss,
                {**self.state, **{name: self.state[name] + sign * step * g[name] for name in g}},
            )
            for sign in (1, -1)
        ]
        return g, {name: (moved[0][name] - moved[1][name]) / (2 * step) for name in g}

    def flow(self) -> dict[str, Array]:
        """dR/dw of R = sum of the outputs for one image of ones, with all parameters absolute."""
        absolute = {name: np.abs(value) for name, value in self.state.items()}
        ones = np.ones((1, 3, SIDE, SIDE))
        return self.differentiate(lambda state: self.run(state, ones).sum(), absolute)

    def rows(self, name: str) -> Array:
        """A weight as a matrix."""
        return self.state[name].reshape(len(self.state[name]), -1)

    def sensitivities(self, name: str, reduce: Callable[..., Any]) -> Array:
        """The largest part over images of each weight in the sum of its sign, where `reduce` takes
        the positions together; images with negative inputs count as two.
        """
        weight = self.rows(name)
        largest = np.zeros(weight.shape)
        for image in self.inputs[name]:
            for inputs in (np.maximum(image, 0), np.maximum(-image, 0)):
                for row, column in np.ndindex(*weight.shape):
                    if weight[row, column] == 0:
                        continue
                    same = np.sign(weight[row]) == np.sign(weight[row, column])
                    sums = inputs[:, same] @ np.abs(weight[row, same])
                    part = np.abs(weight[row, column]) * inputs[:, column]
                    share = np.where(sums > 2.0**-23, part / np.where(sums > 0, sums, 1), 0.0)
                    largest[row, column] = max(largest[row, column], reduce(share))
        return largest.reshape(self.state[name].shape)
