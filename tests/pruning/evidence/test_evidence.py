"""The gradient, and that evidence is computed once and changes nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.errors import EvidenceError
from pruning.evidence.evidence import Batches, Evidence
from tests.support import cases, oracles


def build_double(case: str) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    model, batches = cases.awkward(case)
    return model.double(), [(x.double(), y) for x, y in batches]


@pytest.mark.parametrize(
    "case", ["plain", "grouped", "depthwise", "strided", "tied", "frozen", "flat_batchnorm"]
)
def test_gradient_agrees_with_finite_differences(case: str) -> None:
    model, batches = build_double(case)
    if case == "flat_batchnorm":
        model[1].running_var.fill_(0.01)  # type: ignore[index]
    gradients = Evidence(model, batches=batches).gradient
    inputs, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    model.eval()
    for name, gradient in gradients.items():
        expected = oracles.finite_differences(
            lambda: F.cross_entropy(model(inputs), labels), model.get_parameter(name)
        )
        torch.testing.assert_close(gradient, expected, atol=1e-7, rtol=1e-5)


def test_gradient_is_the_mean_over_single_images() -> None:
    model, batches = build_double("plain")
    gradients = Evidence(model, batches=batches).gradient
    images = [(x[i : i + 1], y[i : i + 1]) for x, y in batches for i in range(len(y))]
    assert len(images) == 7
    for name, gradient in gradients.items():
        total = torch.zeros_like(gradient)
        for x, y in images:
            total += torch.autograd.grad(F.cross_entropy(model(x), y), model.get_parameter(name))[0]
        torch.testing.assert_close(gradient, total / 7, atol=1e-12, rtol=0)


def test_gradient_does_not_depend_on_the_batches_sizes() -> None:
    model, batches = build_double("plain")
    inputs, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    whole = Evidence(model, batches=[(inputs, labels)]).gradient
    for sizes in ([1, 6], [3, 3, 1], [1] * 7):
        split = list(zip(inputs.split(sizes), labels.split(sizes), strict=True))
        for name, gradient in Evidence(model, batches=split).gradient.items():
            torch.testing.assert_close(gradient, whole[name], atol=1e-12, rtol=0)


def test_everything_is_computed_once() -> None:
    model, batches = cases.awkward("plain")
    calls = {"batches": 0, "loss": 0}

    def make() -> Batches:
        calls["batches"] += 1
        return batches

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        calls["loss"] += 1
        return F.cross_entropy(logits, labels)

    evidence = Evidence(model, batches=make, loss=loss)
    assert evidence.gradient is evidence.gradient
    assert evidence.batches is batches
    assert calls == {"batches": 1, "loss": 2}


def test_gradient_leaves_every_mode_buffer_and_hook_alone() -> None:
    model, batches = cases.awkward("mixed_modes")
    modes = oracles.module_modes(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        evidence = Evidence(model, batches=batches)
        assert all(gradient.any() for gradient in evidence.gradient.values())
    assert oracles.module_modes(model) == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_a_loss_that_fails_leaves_the_modes_alone() -> None:
    model, batches = cases.awkward("mixed_modes")
    modes = oracles.module_modes(model)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        raise RuntimeError("no loss")

    with pytest.raises(RuntimeError, match="no loss"):
        _ = Evidence(model, batches=batches, loss=loss).gradient
    assert oracles.module_modes(model) == modes


def test_an_unused_layer_has_a_zero_gradient() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = nn.Linear(2, 2)
            self.unused = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    gradients = Evidence(Half(), batches=[(torch.ones(1, 2), torch.tensor([0]))]).gradient
    assert gradients["used.weight"].any()
    assert not gradients["unused.weight"].any()


@pytest.mark.parametrize("batches", [None, [], list])
def test_without_data_the_error_says_what_to_do(batches: object) -> None:
    with pytest.raises(EvidenceError, match="pass batches of"):
        _ = Evidence(nn.Linear(2, 2), batches=batches).gradient  # type: ignore[arg-type]
