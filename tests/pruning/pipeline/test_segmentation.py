"""Training, measuring and pruning networks that answer for every pixel, against slow loops."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.data.tensors import Data, Split
from pruning.errors import ParameterError
from pruning.library import load_model
from pruning.measurement.guessing import guessing_error
from pruning.measurement.intervals import bounded_mean_interval
from pruning.measurement.iou import (
    compute_constant_errors,
    compute_image_errors,
    compute_whole_ious,
    count_overlaps,
)
from pruning.measurement.measure import Measured, estimate_error, estimate_increase, measure_network
from pruning.measurement.objective import (
    compute_errors,
    compute_losses,
    distillation_loss,
    mean_loss,
    training_loss,
    weigh_batch,
)
from pruning.schemas.recipe import Distill
from pruning.schemas.training import LrSchedule, Optimizer, Training
from pruning.training.loop import Controls, Teacher, train_
from pruning.training.optimizer import learning_rate_factor
from tests.support.segmentation_world import CLASSES, scenes, tiny


def random(n: int = 3, side: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits and masks, a fifth of the pixels ignored."""
    rng = torch.Generator().manual_seed(seed)
    masks = torch.randint(0, CLASSES, (n, side, side + 1), generator=rng)
    masks[torch.rand(masks.shape, generator=rng) < 0.2] = 255
    return torch.randn(n, CLASSES, side, side + 1, generator=rng), masks.to(torch.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return scenes(tmp_path_factory.mktemp("data"))


# loss and error


def slow_losses(logits: Tensor, masks: Tensor) -> list[list[float]]:
    """The losses of the pixels of every image that are not ignored."""
    n, _, height, width = logits.shape
    losses: list[list[float]] = [[] for _ in range(n)]
    for i, y, x in itertools.product(range(n), range(height), range(width)):
        if masks[i, y, x] != 255:
            values = logits[i, :, y, x].double().tolist()
            losses[i].append(math.log(sum(map(math.exp, values))) - values[int(masks[i, y, x])])
    return losses


def test_the_loss_is_the_mean_over_pixels_that_are_not_ignored() -> None:
    logits, masks = random()
    slow = slow_losses(logits, masks)
    pixel_losses = list(itertools.chain.from_iterable(slow))
    assert float(mean_loss(logits, masks)) == pytest.approx(
        sum(pixel_losses) / len(pixel_losses), rel=1e-5
    )
    assert float(mean_loss(logits, masks)) == pytest.approx(
        float(F.cross_entropy(logits, masks.long(), ignore_index=255))
    )
    assert compute_losses(logits, masks).tolist() == pytest.approx(
        [sum(image_losses) / len(image_losses) for image_losses in slow], rel=1e-5
    )
    assert int(weigh_batch(masks)) == len(pixel_losses)
    other, _ = random(seed=1)
    assert float(training_loss((logits, other), masks)) == pytest.approx(
        float(mean_loss(logits, masks) + 0.5 * mean_loss(other, masks))
    )


def test_images_of_nothing_but_ignored_pixels_contribute_nothing() -> None:
    logits, masks = random()
    masks[1] = 255
    logits.requires_grad_()
    loss = mean_loss(logits, masks)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient[1].any()
    assert loss.item() == pytest.approx(mean_loss(logits[[0, 2]], masks[[0, 2]]).item())
    assert compute_losses(logits, masks)[1] == 0
    assert compute_errors(logits, masks)[1] == 0
    logits2 = torch.randn(2, CLASSES, 3, 3, requires_grad=True)
    nothing = mean_loss(logits2, torch.full((2, 3, 3), 255, dtype=torch.uint8))
    assert nothing == 0
    assert not torch.autograd.grad(nothing, logits2)[0].any()


def slow_error(answer: list[int], truth: list[int]) -> float:
    known = [(a, t) for a, t in zip(answer, truth, strict=True) if t != 255]
    present = {a for a, _ in known} | {t for _, t in known}
    shares = [
        sum(a == t == c for a, t in known) / sum(c in (a, t) for a, t in known) for c in present
    ]
    return 1 - sum(shares) / len(shares) if shares else 0.0


def test_the_error_is_one_less_the_mean_iou_of_the_image() -> None:
    logits, masks = random(8)
    masks[3] = 2  # one class alone
    logits[3, 2] = 99
    answers = logits.argmax(1)
    slow = [
        slow_error(a.flatten().tolist(), t.flatten().tolist())
        for a, t in zip(answers, masks, strict=True)
    ]
    errors = compute_errors(logits, masks)
    assert errors.tolist() == pytest.approx(slow)
    assert errors[3] == 0
    assert errors.dtype == torch.float64
    regions = count_overlaps(answers, masks, CLASSES)
    assert compute_image_errors(regions).tolist() == pytest.approx(slow)
    whole, by_class = compute_whole_ious(regions, torch.Generator().manual_seed(0))
    a, t = answers.flatten(), masks.flatten()
    wanted = [
        float(((a == c) & (t == c)).sum() / (((a == c) | (t == c)) & (t != 255)).sum())
        for c in range(CLASSES)
    ]
    assert [iou.value for iou in by_class if iou is not None] == pytest.approx(wanted)
    assert whole.value == pytest.approx(sum(wanted) / CLASSES)
    assert whole.low is not None
    assert whole.high is not None
    assert whole.low <= whole.value <= whole.high


def test_a_constant_answer_is_what_chance_is() -> None:
    _, masks = random(5)
    masks[2] = 255
    errors = compute_constant_errors(masks, CLASSES)
    for label in range(CLASSES):
        logits = F.one_hot(torch.full(masks.shape, label), CLASSES).movedim(-1, 1).float()
        assert float(errors[label]) == pytest.approx(float(compute_errors(logits, masks).mean()))
    assert guessing_error(masks, CLASSES) == float(errors.min())


def test_intervals_of_errors_between_0_and_1_cover() -> None:
    """Student's interval of a mean in [0, 1] covers about as often as it says, for a skewed
    distribution too.
    """
    rng = np.random.default_rng(0)
    covered, many = 0, 2000
    for sample in rng.beta(2, 5, (many, 20)):
        interval = bounded_mean_interval(sample.sum(), (sample**2).sum(), n=20)
        covered += interval.low <= 2 / 7 <= interval.high  # type: ignore[operator]
    assert 0.935 < covered / many < 0.965
    assert bounded_mean_interval(0.2, 0.04, n=1).model_dump(exclude={"unit"}) == {
        "value": 0.2,
        "low": 0.0,
        "high": 1.0,
        "n": 1,
    }
    near = bounded_mean_interval(1.9, 0.9**2 + 1, n=2)
    assert near.high == 1.0
    first, second = torch.tensor([0.5, 0.25, 1.0]), torch.tensor([0.25, 0.0, 0.75])
    gap = estimate_increase(first, second)
    assert (gap.value, gap.low, gap.high) == (0.25, 0.25, 0.25)
    assert estimate_increase(first[:1], second[:1]).low == -1.0
    assert estimate_error(first).value == pytest.approx(1.75 / 3)


def test_a_teacher_is_followed_pixel_by_pixel() -> None:
    logits, masks = random()
    wanted, _ = random(seed=1)
    known = masks != 255
    rows, target = logits.movedim(1, -1)[known], wanted.movedim(1, -1)[known]
    kl = F.kl_div(
        rows.log_softmax(1), target.log_softmax(1), reduction="batchmean", log_target=True
    )
    assert float(distillation_loss(logits, wanted, masks)) == pytest.approx(float(kl), rel=1e-5)
    model = tiny()
    images = torch.rand(3, 3, 6, 7)
    teacher = Teacher(tiny(1), Distill(alpha=0.25, temperature=2.0))
    with torch.no_grad():
        expected = 0.75 * mean_loss(model(images), masks) + 0.25 * 4 * distillation_loss(
            model(images) / 2, teacher.network(images) / 2, masks
        )
        assert float(teacher.loss(model(images), images, masks)) == pytest.approx(
            float(expected), rel=1e-5
        )


# training


def trained(
    data: Data, model: nn.Module | None = None, controls: Controls | None = None, **changes: Any
) -> nn.Module:
    model = model or tiny()
    train_(
        model,
        data,
        Training(**({"epochs": 2, "batch_size": 4, "augment": "crop_flip"} | changes)),
        seed=0,
        name="train",
        controls=controls,
    )
    return model


def test_the_poly_schedule() -> None:
    poly = LrSchedule(name="poly")
    assert [learning_rate_factor(poly, epoch, 45) for epoch in (0, 22.5, 45)] == pytest.approx(
        [1.0, 0.5**0.9, 0.0]
    )
    assert learning_rate_factor(LrSchedule(name="poly", warmup_epochs=2), 1, 10) == pytest.approx(
        0.5 * 0.9**0.9
    )


def test_training_learns_and_is_measured(data: Data) -> None:
    model = trained(
        data, epochs=10, optimizer=Optimizer(lr=0.05), lr_schedule=LrSchedule(name="poly")
    )
    measured = measure_network(model, data)
    answers = []
    for split, expected in ((data.test, measured.wrong), (data.val, measured.val_wrong)):
        slow = []
        for image, mask in zip(split.images, split.labels, strict=True):
            with torch.no_grad():
                logits = model(data.normalize(image[None]))
            slow.append(slow_error(logits.argmax(1).flatten().tolist(), mask.flatten().tolist()))
            answers.append(logits)
        assert expected.tolist() == pytest.approx(slow)
    tests = len(data.test)
    assert measured.losses.tolist() == pytest.approx(
        compute_losses(torch.cat(answers[:tests]), data.test.labels).tolist(), rel=1e-4
    )
    assert measured.overlaps is not None
    assert measured.overlaps.shape == (tests, 2, CLASSES)
    assert float(measured.wrong.mean()) < 0.7 * guessing_error(data.test.labels, CLASSES)
    again = Measured.restore(measured.tensors("x"), "x")
    assert again.document() == measured.document()
    assert torch.equal(again.overlaps, measured.overlaps)  # type: ignore[arg-type]


def test_micro_batches_weigh_by_their_pixels(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without BatchNorm the gradients of parts are those of the whole, however many pixels each
    has.
    """
    from pruning.training import loop as module

    labels = data.fit.labels.clone()
    labels[::3, :20] = 255
    uneven = Data(
        fit=Split(data.fit.images, labels),
        val=data.val,
        test=data.test,
        classes=data.classes,
        mean=data.mean,
        std=data.std,
    )
    ends = []
    for size in (8, 3):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, CLASSES, 1))
        schedule = Training(epochs=1, batch_size=8, augment="none")
        run = module._Run(
            model=model,
            data=uneven,
            training=schedule,
            seed=0,
            name="train",
            masks={},
            exclude=(),
            include=(),
            teacher=None,
            controls=Controls(),
        )
        run.micro_batch = size
        run.train(0, 1)
        ends.append(torch.cat([parameter.flatten() for parameter in model.parameters()]))
    assert torch.allclose(ends[0], ends[1], atol=1e-5)


def test_dropout_follows_the_seed_and_survives_an_interruption(data: Data) -> None:
    class Saver:
        def __init__(self) -> None:
            self.kept: list[Any] = []

        def load(self) -> Any:
            return self.kept[2] if len(self.kept) > 2 else None

        def save(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
            self.kept.append(({key: value.clone() for key, value in tensors.items()}, meta))

    torch.manual_seed(1)
    first = trained(data, tiny(dropout=0.5))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = trained(data, tiny(dropout=0.5))
    assert torch.equal(torch.get_rng_state(), state)
    saver = Saver()
    trained(data, tiny(dropout=0.5), Controls(saver=saver, every_steps=1))
    resumed = trained(data, tiny(7, dropout=0.5), Controls(saver=saver, every_steps=1))
    for other in (second, resumed):
        assert all(
            torch.equal(a, b)
            for a, b in zip(first.state_dict().values(), other.state_dict().values(), strict=True)
        )


def test_one_image_at_a_time_is_refused_where_batchnorm_sees_one_value(data: Data) -> None:
    model = load_model(
        "torchvision_segmentation", name="deeplabv3_mobilenet_v3_large", classes=CLASSES
    )
    with pytest.raises(
        ParameterError, match=r"batch_size: BatchNorm has no variance .* two images or more"
    ):
        trained(data, model, batch_size=1, epochs=1)
    trained(
        data, batch_size=1, epochs=1
    )  # a network without global pooling has many values of every channel


def test_the_auxiliary_head_learns_in_training_alone(data: Data) -> None:
    model = load_model(
        "torchvision_segmentation", name="deeplabv3_mobilenet_v3_large", aux=True, classes=CLASSES
    )
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trained(data, model, epochs=1, batch_size=8)
    moved = [key for key, value in model.named_parameters() if not torch.equal(value, before[key])]
    assert any(key.startswith("aux_classifier") for key in moved)
    assert measure_network(model, data).wrong.shape == (len(data.test),)
