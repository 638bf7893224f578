"""Training and retraining under fixed masks, resumable at any saved step to the same bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pruning.data.tensors import Data
from pruning.errors import DivergenceError, OutOfMemoryError, ParameterError
from pruning.masks import apply_masks_, find_prunable
from pruning.measurement.objective import distillation_loss, training_loss, weigh_batch
from pruning.networks.loading import load_weights_
from pruning.schemas.layer_patterns import LayerPattern
from pruning.schemas.recipe import Distill
from pruning.schemas.training import Train, Training
from pruning.seeding import generator, seeded
from pruning.training.best_epoch import BestEpoch
from pruning.training.epoch_images import EpochImages, TrainingImages
from pruning.training.layout import choose_layout
from pruning.training.optimizer import learning_rate_factor, make_optimizer, shrink_
from pruning.types import Masks

State = dict[str, Tensor]


class Saver(Protocol):
    """A store for the state inside a training."""

    def load(self) -> tuple[State, dict[str, Any]] | None:
        """The newest saved state, if any."""

    def save(self, tensors: State, meta: dict[str, Any]) -> None:
        """Keep a state instead of the one before."""


@dataclass(frozen=True, kw_only=True)
class Controls:
    """The surroundings of a training: where and how often it saves, and whom it notifies."""

    saver: Saver | None = None
    every_steps: int = 200
    """A state is kept after this number of steps, or after `every_s`, whichever comes first; the
    result does not depend on when.
    """
    every_s: float = 30.0
    advance: Callable[[int], None] = field(default=lambda images: None)
    """Called with the number of images trained on since the last call."""
    look: Callable[[int], None] = field(default=lambda images: None)
    """Called with the number of images looked at, without training on them."""
    at_epoch: Callable[[int], None] = field(default=lambda epoch: None)
    """Called before the first step of every epoch, with the model at that point."""
    warn: Callable[[str], None] = field(default=lambda message: None)
    """Called with what the user should know."""


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
            target = self.network(inputs) / temperature
        logits = outputs[0] if isinstance(outputs, tuple) else outputs
        divergence = distillation_loss(logits / temperature, target, labels)
        return (1 - alpha) * training_loss(outputs, labels) + alpha * temperature**2 * divergence


def train_(  # noqa: PLR0913 (all but model, data and schedule are by keyword)
    model: nn.Module,
    data: Data,
    training: Training,
    *,
    seed: int,
    name: str,
    masks: Masks | None = None,
    exclude: Collection[LayerPattern] = (),
    include: Collection[LayerPattern] = (),
    start_epoch: int = 0,
    stop_epoch: int | None = None,
    teacher: Teacher | None = None,
    controls: Controls | None = None,
) -> None:
    """Train the model in place on `data.fit` from `start_epoch` to `stop_epoch` of the schedule,
    pruned weights at zero.

    Without `stop_epoch` the model is trained to the schedule's end; the optimiser starts from
    scratch. SGD or AdamW minimise the mean cross-entropy (see `pruning.measurement.objective` for
    masks), or the teacher's loss. The order of the images, their corruption and augmentation, and
    what the network itself draws (dropout), are derived from (seed, name, epoch, step), so the
    result depends on no global state. After every update, the proximal step of the schedule's
    `Penalty`, if it has one, is taken on the prunable weights that `include` and `exclude` leave,
    and the masks are applied. With `keep` of `best` the weights are those of the epoch, among the
    ones trained here, with the least error on `data.val`. With `controls.saver` the state is kept
    every `controls.every_steps` steps and a later call goes on from there, to the same bytes on the
    same device and thread count. Raises `DivergenceError` when the loss is not a finite number,
    `ParameterError` where a batch of one image leaves BatchNorm without a variance.
    """
    run = _Run(
        model=model,
        data=data,
        training=training,
        seed=seed,
        name=name,
        masks=masks or {},
        exclude=exclude,
        include=include,
        teacher=teacher,
        controls=controls or Controls(),
    )
    run.train(start_epoch, training.epochs if stop_epoch is None else stop_epoch)


def count_steps_per_epoch(images: int, batch_size: int) -> int:
    """Updates in one epoch, without a last batch of one image, where BatchNorm has no variance."""
    full, rest = divmod(images, batch_size)
    return max(1, full + (rest > 1))


class _Run:
    """A training: the state that must survive an interruption, and the loop."""

    def __init__(  # noqa: PLR0913 (the arguments of `train_`, by name)
        self,
        *,
        model: nn.Module,
        data: Data,
        training: Training,
        seed: int,
        name: str,
        masks: Masks,
        exclude: Collection[LayerPattern],
        include: Collection[LayerPattern],
        teacher: Teacher | None,
        controls: Controls,
    ) -> None:
        self.model = model
        self.data = data
        self.training = training
        self.seed = seed
        self.name = name
        self.masks = masks
        self.teacher = teacher
        self.controls = controls
        self.l1 = training.l1 if isinstance(training, Train) else 0.0
        self.penalised: list[Tensor] = []
        if self.l1:
            self.penalised = list(find_prunable(model, exclude, include).values())
        self.images = TrainingImages(data, training, seed, name)
        self.device = next(model.parameters()).device
        self.micro_batch = training.batch_size
        self.steps = count_steps_per_epoch(len(data.fit), training.batch_size)
        self.layout = choose_layout(model)
        self.optimizer = make_optimizer(model, training.optimizer)
        self.best = BestEpoch(data) if training.keep == "best" else None
        self.unsaved_steps = 0
        self.saved_at = 0.0

    def train(self, start_epoch: int, stop_epoch: int) -> None:
        self.model.to(memory_format=self.layout).train()  # type: ignore[call-overload]
        if self.masks:
            apply_masks_(self.model, self.masks)
        epoch, step = self._restore(start_epoch)
        self.saved_at = time.monotonic()
        # Their sum is finite only if all are: checking it now and then spares waiting at each step.
        losses = torch.zeros((), device=self.device)
        while epoch < stop_epoch:
            if step == 0:
                self.controls.at_epoch(epoch)
            losses = self._train_epoch(epoch, step, losses)
            self._check_losses(losses, epoch, self.steps)
            if self.best is not None:
                self.controls.look(self.best.look(self.model))
            epoch, step = epoch + 1, 0
        if self.best is not None:
            self.best.restore_(self.model)
        self._check_weights()
        self.model.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]

    def _train_epoch(self, epoch: int, first_step: int, losses: Tensor) -> Tensor:
        """Take the steps of an epoch from `first_step`; the sum of losses goes on from `losses`."""
        shuffling = generator(self.seed, self.name, "order", epoch)
        order = torch.randperm(len(self.data.fit), generator=shuffling)
        batches = torch.split(order, self.training.batch_size)[first_step : self.steps]
        with self.images.start_epoch(epoch, batches) as images:
            for step, batch in enumerate(batches, first_step):
                losses += self._take_step(images, batch, epoch, step)
                self.controls.advance(len(batch))
                self.unsaved_steps += 1
                if self.controls.saver is not None and self._is_save_due():
                    self._check_losses(losses, epoch, step + 1)
                    self._save(self.controls.saver, epoch, step + 1)
                    self.unsaved_steps = 0
                    self.saved_at = time.monotonic()
        return losses

    def _is_save_due(self) -> bool:
        if self.unsaved_steps >= self.controls.every_steps:
            return True
        return time.monotonic() - self.saved_at >= self.controls.every_s

    def _take_step(self, images: EpochImages, index: Tensor, epoch: int, step: int) -> Tensor:
        """Update the weights once by the images at these indices, and return their mean loss."""
        factor = learning_rate_factor(
            self.training.lr_schedule, epoch + step / self.steps, self.training.epochs
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self.training.optimizer.lr * factor
        loss = self._compute_gradients_in_memory(images, index, epoch, step)
        self.optimizer.step()
        if self.l1:
            spec = self.training.optimizer
            # Momentum lengthens the steps by 1 / (1 - momentum); so is the penalty's step.
            shrink_(self.penalised, self.l1 * spec.lr * factor / (1 - spec.momentum))
        if self.masks:
            apply_masks_(self.model, self.masks)
        return loss

    def _compute_gradients_in_memory(
        self, images: EpochImages, index: Tensor, epoch: int, step: int
    ) -> Tensor:
        """The gradients of a batch, in micro-batches as small as the memory demands."""
        while True:
            # Each attempt draws the same: the seeds belong to the step.
            network_seed = generator(self.seed, self.name, "network", epoch, step).initial_seed()
            augmenting = generator(self.seed, self.name, "augment", epoch, step)
            try:
                with seeded(network_seed, self.device):
                    return self._compute_gradients(*images.draw_batch(index, augmenting))
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                self._halve_micro_batch(len(index))
            except ValueError as error:
                if "more than 1 value per channel" not in str(error):
                    raise
                raise ParameterError(
                    "batch_size: BatchNorm has no variance over the one value of a channel that a "
                    "batch of one image leaves; train on two images or more at a time"
                ) from None

    def _compute_gradients(self, images: Tensor, labels: Tensor) -> Tensor:
        """The gradients of the mean loss over a batch, into the parameters; returns the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        whole_weight = weigh_batch(labels).clamp_min(1)
        for start in range(0, len(labels), self.micro_batch):
            part = slice(start, start + self.micro_batch)
            inputs = self.data.normalize(images[part])
            if images.dim() == 4:
                inputs = inputs.to(memory_format=self.layout)
            with torch.autocast(
                self.device.type, torch.bfloat16, enabled=self.training.precision == "bf16"
            ):
                outputs = self.model(inputs)
                if self.teacher is None:
                    loss = training_loss(outputs, labels[part])
                else:
                    loss = self.teacher.loss(outputs, inputs, labels[part])
                loss = loss * (weigh_batch(labels[part]) / whole_weight)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def _halve_micro_batch(self, batch_size: int) -> None:
        """Halve the micro-batch, free what the failed attempt held, and warn."""
        if min(self.micro_batch, batch_size) <= 1:
            raise OutOfMemoryError("not even one image at a time fits in memory")
        self.micro_batch = max(1, min(self.micro_batch, batch_size) // 2)
        self.optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self._warn_of_micro_batch()

    def _warn_of_micro_batch(self) -> None:
        self.controls.warn(
            f"out of memory: gradients are accumulated over micro-batches of {self.micro_batch}; "
            "BatchNorm sees these instead of the whole batch"
        )

    def _check_losses(self, losses: Tensor, epoch: int, step: int) -> None:
        if not torch.isfinite(losses):
            raise DivergenceError(
                f"the loss is {float(losses)} in epoch {epoch}, step {step}: the training "
                "diverged; a smaller learning rate may help"
            )

    def _check_weights(self) -> None:
        """Raise `DivergenceError` where the last update made a weight infinite: each loss is that
        before the update.
        """
        for name, value in self.model.state_dict().items():
            if not torch.isfinite(value).all():
                raise DivergenceError(
                    f"{name} is no longer finite after the last step: the training diverged; "
                    "a smaller learning rate may help"
                )

    def _save(self, saver: Saver, epoch: int, step: int) -> None:
        """Keep the weights and the optimiser's state, of which `step` is the next step."""
        tensors = {f"model.{key}": value for key, value in self.model.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            for key, value in state.items():
                if value is not None:
                    tensors[f"optimizer.{index}.{key}"] = value
        meta: dict[str, Any] = {"epoch": epoch, "step": step, "micro_batch": self.micro_batch}
        if self.best is not None:
            tensors |= self.best.tensors()
            meta["best_error"] = self.best.error
        saver.save(tensors, meta)

    def _restore(self, start_epoch: int) -> tuple[int, int]:
        """Load the newest saved state, if any, and return the epoch and step to go on with."""
        saved = self.controls.saver.load() if self.controls.saver is not None else None
        if saved is None:
            return start_epoch, 0
        tensors, meta = saved
        weights: State = {}
        state: dict[int, State] = {}
        for key, value in tensors.items():
            if key.startswith("model."):
                weights[key.removeprefix("model.")] = value
            elif key.startswith("optimizer."):
                _, index, part = key.split(".", 2)
                state.setdefault(int(index), {})[part] = value
        load_weights_(self.model, weights)
        if self.best is not None:
            self.best.load(tensors, meta.get("best_error"))
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.micro_batch = int(meta["micro_batch"])
        if self.micro_batch < self.training.batch_size:
            self._warn_of_micro_batch()
        epoch, step = int(meta["epoch"]), int(meta["step"])
        images, batch_size = len(self.data.fit), self.training.batch_size
        # A last batch of a single image is left out, a smaller last batch is not: hence the minima.
        epoch_images = min(self.steps * batch_size, images)
        self.controls.advance((epoch - start_epoch) * epoch_images + min(step * batch_size, images))
        if self.best is not None:
            self.controls.look((epoch - start_epoch) * len(self.data.val))
        return epoch, step


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return "DefaultCPUAllocator: can't allocate memory" in str(error)
