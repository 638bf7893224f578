"""A plugin that fails as planned: `Chaos` copies it into the folder of a test, beside the plan.

Nothing imports it here, for it puts its own function in place of `Stages.save`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pruning.architectures import architectures
from pruning.architectures.mlp import build_dense_net
from pruning.criteria import criteria
from pruning.evidence import Evidence
from pruning.reporting import RENDERERS
from pruning.storage.stages import Stages
from pruning.types import Scores

# The tests do not look at plots: leaving them out saves a second in every process.
RENDERERS["html"] = lambda report: "<!doctype html>"
FOLDER = Path(__file__).parent
save_as_before = Stages.save


def act(how: str | None) -> None:
    """End, stop or break the process as `how` says."""
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "stop":
        (FOLDER / "reached").touch()
        os.kill(os.getpid(), signal.SIGSTOP)
    if how == "gate":
        (FOLDER / "reached").touch()
        while not (FOLDER / "go").exists():
            time.sleep(0.01)
    if how == "exit":
        os._exit(7)
    if how == "abort":
        os.abort()
    if how == "raise":
        raise ValueError("the plugin is broken")
    if how == "garbage":
        os.write(int(sys.argv[2]), b'{"type": "progress", "do')
        os._exit(0)


def save(self: Stages, name: str, tensors: Mapping[str, Tensor], note: Mapping[str, Any]) -> None:
    """Save a stage, and act before and after as planned for this save or this stage."""
    with (FOLDER / "saves").open("a") as log:
        log.write(name + "\n")
    count = str(len((FOLDER / "saves").read_text().splitlines()))
    plan = json.loads((FOLDER / "plan.json").read_text())
    act(plan.get("before " + count))
    save_as_before(self, name, tensors, note)
    act(plan.get(count) or plan.get(name))


Stages.save = save  # type: ignore[method-assign]


@criteria.register("poison")
@dataclass(frozen=True)
class Poison:
    """Ends the process."""

    how: str = "exit"

    def score(self, evidence: Evidence) -> Scores:
        """Act, and return no scores where the process still lives."""
        act(self.how)
        return {}


def end_in_training(module: nn.Module, inputs: object) -> None:
    """End the process if the module is in training mode."""
    if module.training:
        act("exit")


@architectures.register("poison_net")
@dataclass(frozen=True)
class PoisonNet:
    """Ends the process as soon as it is trained."""

    classes: int = 10

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Digits of 8 x 8 pixels."""
        return 1, 8, 8

    @property
    def outputs(self) -> int:
        """The number of classes."""
        return self.classes

    def build(self) -> nn.Module:
        """A small network with the hook that ends the process."""
        net = build_dense_net(64, (4,), self.classes, "relu")
        net.register_forward_pre_hook(end_in_training)
        return net
