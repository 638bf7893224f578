"""Training and retraining under fixed masks, resumable at any saved step to the same bytes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pruning.data.corrupted import corrupt_epoch
from pruning.data.tensors import Data, Split, augment_split, resolve_augment
from pruning.errors import DivergenceError, OutOfMemoryError, ParameterError
from pruning.masks import apply_masks_, find_prunable
from pruning.measurement.objective import distillation_loss, training_loss, weigh_batch
from pruning.schemas.recipe import Distill
from pruning.schemas.training import LrSchedule, Optimizer, Train, Training
from pruning.seeding import generator, seeded
from pruning.types import Masks

State = dict[str, Tensor]
POLY = 0.9
"""The power of the schedule `poly`."""


class Saver(Protocol):
    """Where the state inside a training is kept."""

    def load(self) -> tuple[State, dict[str, Any]] | None:
        """The newest saved state, if any."""

    def save(self, tensors: State, meta: dict[str, Any]) -> None:
        """Keep a state; it replaces the one before."""


@dataclass(frozen=True, kw_only=True)
class Controls:
    """What surrounds a training: where it saves, how often, and who wants to know."""

    saver: Saver | None = None
    every_steps: int = 200
    every_s: float = 30.0
    """A state is kept after so many steps or seconds, whichever comes first; when does not change
    the result.
    """
    advance: Callable[[int], None] = field(default=lambda images: None)
    """Called with the number of images trained on since the last call."""
    at_epoch: Callable[[int], None] = field(default=lambda epoch: None)
    """Called before the first step of every epoch, with the model at that point."""
    warn: Callable[[str], None] = field(default=lambda message: None)


@dataclass(frozen=True)
class Teacher:
    """The dense network to learn from, in eval mode; it does not change."""

    network: nn.Module
    distill: Distill

    def __post_init__(self) -> None:
        self.network.eval()

    def loss(
        self, outputs: Tensor | tuple[Tensor, Tensor], inputs: Tensor, labels: Tensor
    ) -> Tensor:
        """(1 - alpha) CE(z, y) + alpha T^2 KL(softmax(t / T) || softmax(z / T)), the mean over the
        batch.

        CE is the loss of a training without a teacher; with masks, means are over pixels that are
        not ignored.
        """
        alpha, temperature = self.distill.alpha, self.distill.temperature
        with torch.no_grad():
            wanted = self.network(inputs) / temperature
        logits = outputs[0] if isinstance(outputs, tuple) else outputs
        divergence = distillation_loss(logits / temperature, wanted, labels)
        return (1 - alpha) * training_loss(outputs, labels) + alpha * temperature**2 * divergence


def learning_rate_factor(schedule: LrSchedule, epoch: float, epochs: int) -> float:
    """The factor on the learning rate at `epoch` (fractional) of `epochs`.

    >>> [learning_rate_factor(LrSchedule(name="cosine"), e, 2) for e in (0, 1)]
    [1.0, 0.5]
    """
    warmup = min(1.0, epoch / schedule.warmup_epochs) if schedule.warmup_epochs else 1.0
    progress = epoch / epochs
    if schedule.name == "cosine":
        return warmup * 0.5 * (1 + math.cos(math.pi * progress))
    if schedule.name == "linear":
        return warmup * (1 - progress)
    if schedule.name == "poly":
        return float(warmup * (1 - progress) ** POLY)
    if schedule.name == "step":
        return warmup * schedule.gamma ** sum(
            epoch >= milestone for milestone in schedule.milestones
        )
    return warmup


def train_(
    model: nn.Module,
    data: Data,
    training: Training,
    *,
    seed: int,
    name: str,
    masks: Masks | None = None,
    exclude: Collection[str] = (),
    start_epoch: int = 0,
    stop_epoch: int | None = None,
    teacher: Teacher | None = None,
    controls: Controls | None = None,
) -> None:
    """Train the model in place on `data.fit` from `start_epoch` to `stop_epoch` of the schedule,
    pruned weights at zero.

    Without `stop_epoch` to the schedule's end; the optimiser starts anew. SGD or AdamW on the mean
    cross-entropy (see `pruning.measurement.objective` for masks), or on the teacher's loss; the
    order of the images, their corruption and augmentation, and what the network itself draws
    (dropout), are derived from (seed, name, epoch, step), so the result depends on no global state.
    After every update follow the proximal step of the schedule's `Penalty`, if it has one, on the
    prunable weights but `exclude`, and the masks. With `controls.saver` the state is kept every
    `controls.every_steps` steps and a later call goes on from there, to the same bytes on the same
    device and thread count. Raises `DivergenceError` when the loss is no number, `ParameterError`
    where a batch of one image leaves BatchNorm without a variance.
    """
    _Run(
        model, data, training, seed, name, masks or {}, exclude, teacher, controls or Controls()
    ).go(start_epoch, training.epochs if stop_epoch is None else stop_epoch)


def count_steps_per_epoch(images: int, batch_size: int) -> int:
    """Updates in one epoch; a last batch of a single image is left out (BatchNorm has no variance
    there).
    """
    full, rest = divmod(images, batch_size)
    return max(1, full + (rest > 1))


class _Run:
    """One training: the state that must survive an interruption, and the loop."""

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        training: Training,
        seed: int,
        name: str,
        masks: Masks,
        exclude: Collection[str],
        teacher: Teacher | None,
        controls: Controls,
    ) -> None:
        self.model, self.data, self.training, self.masks, self.controls = (
            model,
            data,
            training,
            masks,
            controls,
        )
        self.teacher = teacher
        self.l1 = training.l1 if isinstance(training, Train) else 0.0
        self.penalised = (
            [weight for name, weight in find_prunable(model).items() if name not in exclude]
            if self.l1
            else []
        )
        self.seed, self.name, self.images = seed, name, data.fit.images
        self.device = next(model.parameters()).device
        self.mode = resolve_augment(training.augment, data.shape)
        self.micro_batch = training.batch_size
        self.steps = count_steps_per_epoch(len(data.fit), training.batch_size)
        self.layout = (
            torch.channels_last
            if any(p.dim() == 4 for p in model.parameters())
            else torch.contiguous_format
        )

    def go(self, start_epoch: int, stop_epoch: int) -> None:
        self.model.to(memory_format=self.layout).train()  # type: ignore[call-overload]
        if self.masks:
            apply_masks_(self.model, self.masks)
        self.optimizer = make_optimizer(self.model, self.training.optimizer)
        epoch, step = self._restore(start_epoch)
        losses = torch.zeros((), device=self.device)
        unsaved, saved_at = 0, time.monotonic()
        while epoch < stop_epoch:
            if step == 0:
                self.controls.at_epoch(epoch)
            self.images = corrupt_epoch(
                self.data.fit.images, self.training.corrupt, self.seed, self.name, epoch
            )
            order = torch.randperm(
                len(self.data.fit), generator=generator(self.seed, self.name, "order", epoch)
            )
            while step < self.steps:
                batch = order[
                    step * self.training.batch_size : (step + 1) * self.training.batch_size
                ]
                losses += self._step(batch, epoch, step)
                self.controls.advance(len(batch))
                step, unsaved = step + 1, unsaved + 1
                due = (
                    unsaved >= self.controls.every_steps
                    or time.monotonic() - saved_at >= self.controls.every_s
                )
                if due and self.controls.saver is not None:
                    self._check(losses, epoch, step)
                    self._save(epoch, step)
                    unsaved, saved_at = 0, time.monotonic()
            self._check(losses, epoch, step)
            epoch, step = epoch + 1, 0
        self._check_weights()
        self.model.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]

    def _step(self, index: Tensor, epoch: int, step: int) -> Tensor:
        factor = learning_rate_factor(
            self.training.lr_schedule, epoch + step / self.steps, self.training.epochs
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self.training.optimizer.lr * factor
        while True:
            try:
                with seeded(
                    generator(self.seed, self.name, "network", epoch, step).initial_seed(),
                    self.device,
                ):
                    loss = self._gradients(
                        index, generator(self.seed, self.name, "augment", epoch, step)
                    )
                break
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                self._shrink(len(index))
            except ValueError as error:
                if "more than 1 value per channel" not in str(error):
                    raise
                raise ParameterError(
                    "batch_size: BatchNorm has no variance over the one value of a channel that "
                    "a batch of "
                    "one image leaves; train on two images or more at a time"
                ) from None
        self.optimizer.step()
        if self.l1:
            spec = self.training.optimizer
            shrink_(self.penalised, self.l1 * spec.lr * factor / (1 - spec.momentum))
        if self.masks:
            apply_masks_(self.model, self.masks)
        return loss

    def _gradients(self, index: Tensor, rng: torch.Generator) -> Tensor:
        index = index.to(self.data.fit.labels.device)
        batch = augment_split(
            Split(self.images[index], self.data.fit.labels[index]), self.mode, rng
        )
        images, labels = batch.images, batch.labels
        self.optimizer.zero_grad(set_to_none=True)
        total, whole = torch.zeros((), device=self.device), weigh_batch(labels).clamp_min(1)
        for start in range(0, len(labels), self.micro_batch):
            part = slice(start, start + self.micro_batch)
            inputs = (
                self.data.normalize(images[part]).to(memory_format=self.layout)
                if images.dim() == 4
                else self.data.normalize(images[part])
            )
            with torch.autocast(
                self.device.type, torch.bfloat16, enabled=self.training.precision == "bf16"
            ):
                outputs = self.model(inputs)
                loss = (
                    training_loss(outputs, labels[part])
                    if self.teacher is None
                    else self.teacher.loss(outputs, inputs, labels[part])
                )
                loss = loss * (weigh_batch(labels[part]) / whole)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def _shrink(self, batch: int) -> None:
        if min(self.micro_batch, batch) <= 1:
            raise OutOfMemoryError("not even one image at a time fits in memory")
        self.micro_batch = max(1, min(self.micro_batch, batch) // 2)
        self.optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self._say_micro_batch()

    def _say_micro_batch(self) -> None:
        self.controls.warn(
            f"out of memory: gradients are accumulated over micro-batches of {self.micro_batch}; "
            "BatchNorm sees these instead of the whole batch"
        )

    def _check(self, losses: Tensor, epoch: int, step: int) -> None:
        if not torch.isfinite(losses):
            raise DivergenceError(
                f"the loss is {float(losses)} in epoch {epoch}, step {step}: the training "
                "diverged; "
                "a smaller learning rate may help"
            )

    def _check_weights(self) -> None:
        """The loss is that before the update: only the weights tell whether the last update was one
        too many.
        """
        for name, value in self.model.state_dict().items():
            if not torch.isfinite(value).all():
                raise DivergenceError(
                    f"{name} is no longer finite after the last step: the training diverged; "
                    "a smaller learning rate may help"
                )

    def _save(self, epoch: int, step: int) -> None:
        assert self.controls.saver is not None
        tensors = {f"model.{key}": value for key, value in self.model.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {
                f"optimizer.{index}.{key}": value
                for key, value in state.items()
                if value is not None
            }
        self.controls.saver.save(
            tensors, {"epoch": epoch, "step": step, "micro_batch": self.micro_batch}
        )

    def _restore(self, start_epoch: int) -> tuple[int, int]:
        saved = self.controls.saver.load() if self.controls.saver is not None else None
        if saved is None:
            return start_epoch, 0
        tensors, meta = saved
        self.model.load_state_dict(
            {
                key.removeprefix("model."): value
                for key, value in tensors.items()
                if key.startswith("model.")
            }
        )
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, part = key.split(".", 2)
                state.setdefault(int(index), {})[part] = value
        self.optimizer.load_state_dict(
            {"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]}
        )
        self.micro_batch = int(meta["micro_batch"])
        if self.micro_batch < self.training.batch_size:
            self._say_micro_batch()
        epoch, step = int(meta["epoch"]), int(meta["step"])
        images, batch = len(self.data.fit), self.training.batch_size
        self.controls.advance(
            (epoch - start_epoch) * min(self.steps * batch, images) + min(step * batch, images)
        )
        return epoch, step


def shrink_(weights: Sequence[Tensor], threshold: float) -> None:
    """The proximal step of threshold times the L1 norm: w <- sign(w) max(|w| - threshold, 0), zeros
    positive.

    >>> weight = torch.tensor([2.0, 0.5, -0.5, -2.0])
    >>> shrink_([weight], 0.5)
    >>> weight
    tensor([ 1.5000,  0.0000,  0.0000, -1.5000])
    """
    with torch.no_grad():
        for weight in weights:
            weight.sub_(weight.clamp(-threshold, threshold))


def make_optimizer(model: nn.Module, spec: Optimizer) -> torch.optim.Optimizer:
    """The optimiser of a training over all parameters that train."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if spec.name == "adamw":
        return torch.optim.AdamW(
            parameters, lr=spec.lr, betas=spec.betas, weight_decay=spec.weight_decay
        )
    return torch.optim.SGD(
        parameters,
        lr=spec.lr,
        momentum=spec.momentum,
        weight_decay=spec.weight_decay,
        nesterov=spec.nesterov,
    )


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(
        error, torch.OutOfMemoryError
    ) or "DefaultCPUAllocator: can't allocate memory" in str(error)
