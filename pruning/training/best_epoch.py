"""The epoch of a training with the least validation error, and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from pruning.data.tensors import Data
from pruning.measurement.measure import measure_errors
from pruning.networks.loading import load_weights_

PREFIX = "best."
"""The beginning of the names of the best weights in a saved state."""


@dataclass
class BestEpoch:
    """The weights of the best of the epochs looked at so far, the first of equal ones."""

    data: Data
    error: float | None = None
    weights: dict[str, Tensor] = field(default_factory=dict)

    def look(self, model: nn.Module) -> int:
        """Measure the error on the validation images, and keep the weights where it is the least;
        return the number of images.

        The network is in training mode before and after.
        """
        error = float(measure_errors(model.eval(), self.data, self.data.val).double().mean())
        model.train()
        if self.error is None or error < self.error:
            self.error = error
            self.weights = {
                name: value.detach().clone() for name, value in model.state_dict().items()
            }
        return len(self.data.val)

    def restore_(self, model: nn.Module) -> None:
        """Put the best weights into the model, where an epoch was looked at."""
        if self.error is not None:
            load_weights_(model, self.weights)

    def tensors(self) -> dict[str, Tensor]:
        """The best weights, for a saved state."""
        return {PREFIX + name: value for name, value in self.weights.items()}

    def load(self, tensors: Mapping[str, Tensor], error: float | None) -> None:
        """Take over what `tensors` gave to a saved state, and its error."""
        self.error = error
        self.weights = {
            name.removeprefix(PREFIX): value
            for name, value in tensors.items()
            if name.startswith(PREFIX)
        }
