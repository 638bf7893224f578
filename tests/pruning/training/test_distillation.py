"""Knowledge distillation: the loss against plain Python, the training loop, and whole jobs in every
mode.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.masks import apply_masks_
from pruning.schemas.recipe import Distill
from pruning.schemas.training import Optimizer, Training
from pruning.seeding import generator
from pruning.training.loop import Controls, Teacher, train_
from tests.support import cases
from tests.support.trainings import SGD, Cramped, Memory, same


class Given(nn.Module):
    """A teacher with fixed logits."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, inputs: Tensor) -> Tensor:
        return self.logits


def softmax(logits: list[float], temperature: float) -> list[float]:
    powers = [math.exp(z / temperature) for z in logits]
    return [power / math.fsum(powers) for power in powers]


def plain_loss(
    student: list[list[float]],
    teacher: list[list[float]],
    labels: list[int],
    alpha: float,
    temperature: float,
) -> float:
    """The documented formula, image by image."""
    total = 0.0
    for z, t, y in zip(student, teacher, labels, strict=True):
        hard = -math.log(softmax(z, 1.0)[y])
        target, answer = softmax(t, temperature), softmax(z, temperature)
        soft = math.fsum(pi * math.log(pi / qi) for pi, qi in zip(target, answer, strict=True))
        total += (1 - alpha) * hard + alpha * temperature**2 * soft
    return total / len(labels)


def logits(n: int = 6, classes: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """The logits of a student and its teacher, with labels; float64."""
    rng = torch.Generator().manual_seed(0)
    student, teacher = (
        3 * torch.randn(n, classes, generator=rng, dtype=torch.float64) for _ in range(2)
    )
    return student.requires_grad_(), teacher, torch.arange(n) % classes


CONSTANTS = [(0.5, 4.0), (0.9, 2.0), (1.0, 1.0), (0.01, 20.0), (1.0, 0.5)]


@pytest.mark.parametrize(("alpha", "temperature"), CONSTANTS)
def test_the_loss_is_the_formula(alpha: float, temperature: float) -> None:
    student, teacher, labels = logits()
    loss = Teacher(Given(teacher), Distill(alpha=alpha, temperature=temperature)).loss(
        student, labels, labels
    )
    expected = plain_loss(student.tolist(), teacher.tolist(), labels.tolist(), alpha, temperature)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("alpha", "temperature"), CONSTANTS)
def test_its_gradient_is_that_of_both_terms(alpha: float, temperature: float) -> None:
    """dL/dz = ((1 - alpha) (softmax(z) - y) + alpha T (softmax(z/T) - softmax(t/T))) / N; none
    flows to the teacher.
    """
    student, teacher, labels = logits()
    teacher.requires_grad_()
    Teacher(Given(teacher), Distill(alpha=alpha, temperature=temperature)).loss(
        student, labels, labels
    ).backward()
    assert teacher.grad is None
    assert student.grad is not None
    for row, z, t, y in zip(
        student.grad.tolist(), student.tolist(), teacher.tolist(), labels.tolist(), strict=True
    ):
        hard = [p - (c == y) for c, p in enumerate(softmax(z, 1.0))]
        soft = [
            q - p for p, q in zip(softmax(t, temperature), softmax(z, temperature), strict=True)
        ]
        expected = [
            ((1 - alpha) * h + alpha * temperature * s) / len(labels)
            for h, s in zip(hard, soft, strict=True)
        ]
        assert row == pytest.approx(expected, rel=1e-10, abs=1e-12)


def test_the_square_of_the_temperature_keeps_the_gradient_in_scale() -> None:
    """For large T the gradient of alpha = 1 tends to (z - mean z - t + mean t) / (C N), whatever T
    is (Hinton et al.).
    """
    student, teacher, labels = logits()
    limit = (
        student - student.mean(1, keepdim=True) - teacher + teacher.mean(1, keepdim=True)
    ).detach() / (4 * 6)
    for temperature in (50.0, 100.0):
        student.grad = None
        Teacher(Given(teacher), Distill(alpha=1, temperature=temperature)).loss(
            student, labels, labels
        ).backward()
        torch.testing.assert_close(student.grad, limit, rtol=0.15, atol=5e-3)


def test_alpha_one_reads_no_label_and_a_twin_teaches_nothing() -> None:
    student, teacher, labels = logits()
    only = Teacher(Given(teacher), Distill(alpha=1))
    assert torch.equal(
        only.loss(student, labels, labels), only.loss(student, labels, labels.flip(0))
    )
    loss = Teacher(Given(student.detach()), Distill(alpha=1)).loss(student, labels, labels)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-15)
    assert student.grad is not None
    assert float(student.grad.abs().max()) < 1e-15


# the loop


def teacher(seed: int = 1, **constants: float) -> Teacher:
    return Teacher(cases.mlp(seed), Distill(**constants))


def test_the_loop_is_the_textbook_one() -> None:
    data, training = cases.make_data(fit=11), Training(epochs=2, batch_size=4, optimizer=SGD)
    model, expected, guide = cases.mlp(), cases.mlp(), cases.mlp(1).eval()
    masks = cases.half_masks(model)
    train_(
        model,
        data,
        training,
        seed=5,
        name="t",
        masks=masks,
        teacher=teacher(alpha=0.7, temperature=3),
    )
    images, labels = data.normalize(data.fit.images), data.fit.labels
    optimizer = torch.optim.SGD(expected.parameters(), lr=SGD.lr, momentum=0.9, weight_decay=1e-4)
    apply_masks_(expected, masks)
    for epoch in range(2):
        order = torch.randperm(11, generator=generator(5, "t", "order", epoch))
        for index in (order[:4], order[4:8], order[8:]):
            optimizer.zero_grad()
            z, t = expected(images[index]), guide(images[index]).detach()
            soft = (
                (F.softmax(t / 3, 1) * (F.log_softmax(t / 3, 1) - F.log_softmax(z / 3, 1)))
                .sum(1)
                .mean()
            )
            (0.3 * F.cross_entropy(z, labels[index]) + 0.7 * 9 * soft).backward()
            optimizer.step()
            apply_masks_(expected, masks)
    for name, weight in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], weight, atol=1e-6, rtol=1e-5)


def test_the_teacher_is_in_eval_mode_and_does_not_change() -> None:
    network = nn.Sequential(cases.conv_net(1), nn.Dropout(0.5)).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    guide = Teacher(network, Distill())
    assert not any(module.training for module in network.modules())
    training = Training(epochs=2, batch_size=8, optimizer=SGD)
    first, second = cases.conv_net(), cases.conv_net()
    for seed, model in enumerate((first, second)):
        torch.manual_seed(seed)
        train_(model, cases.make_data(), training, seed=0, name="t", teacher=guide)
    assert same(first, second), "the teacher's dropout is at work"
    assert not any(module.training for module in network.modules())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("cramped_teacher", [False, True])
@pytest.mark.parametrize(("most", "micro"), [(5, [4]), (3, [4, 2]), (1, [4, 2, 1])])
def test_out_of_memory_accumulates_to_the_same_gradients(
    most: int, micro: list[int], cramped_teacher: bool
) -> None:
    data, training = cases.make_data(fit=22), Training(epochs=2, batch_size=8, optimizer=SGD)
    whole, small, warnings = cases.mlp(), cases.mlp(), list[str]()
    train_(whole, data, training, seed=0, name="t", teacher=teacher())
    if cramped_teacher:
        guide, student = Teacher(Cramped(cases.mlp(1), most), Distill()), small
        train_(
            student,
            data,
            training,
            seed=0,
            name="t",
            teacher=guide,
            controls=Controls(warn=warnings.append),
        )
    else:
        train_(
            Cramped(small, most),
            data,
            training,
            seed=0,
            name="t",
            teacher=teacher(),
            controls=Controls(warn=warnings.append),
        )
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(small.state_dict()[name], weight, atol=1e-6, rtol=1e-5)
    assert [
        int(message.split("micro-batches of ")[1].split(";")[0]) for message in warnings
    ] == micro


@pytest.mark.parametrize(
    "fields",
    [{}, {"precision": "bf16"}, {"optimizer": Optimizer(name="adamw", lr=0.01)}],
    ids=["sgd", "bf16", "adamw"],
)
def test_resuming_inside_a_distilled_training_gives_the_same_bytes(fields: dict[str, Any]) -> None:
    data = cases.make_data(fit=14)
    training = Training(**{"epochs": 2, "batch_size": 4, "optimizer": SGD} | fields)
    model, saver = cases.conv_net(), Memory()
    masks = cases.half_masks(model)
    guide = Teacher(cases.conv_net(1), Distill())
    train_(
        model,
        data,
        training,
        seed=3,
        name="t",
        masks=masks,
        teacher=guide,
        controls=Controls(saver=saver, every_steps=1),
    )
    assert len(saver.saved) == 8
    for state in saver.saved:
        again = cases.conv_net()
        train_(
            again,
            data,
            training,
            seed=3,
            name="t",
            masks=masks,
            teacher=Teacher(cases.conv_net(1), Distill()),
            controls=Controls(saver=Memory(state)),
        )
        assert same(again, model), f"resumed from {state[1]}"
