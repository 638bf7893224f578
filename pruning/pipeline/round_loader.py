"""The masks, networks and losses of a finished round, loaded from its stage file on use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from pruning.pipeline.stage_files import RoundStage, Weights
from pruning.types import Masks


@dataclass(frozen=True, kw_only=True)
class RoundLoader:
    """Loads what a finished round left; a `pruning.analysis.job_record.StoredRound`."""

    stage: RoundStage
    build: Callable[[Weights], nn.Module]
    """Builds the network with these weights, in the shape of the dense network."""
    compact: Callable[[nn.Module, Masks], nn.Module]
    """Returns the network as it is shipped: where the round compacts, without removed channels."""

    def masks(self) -> Masks:
        """Load the masks after the round."""
        return dict(self.stage.masks.items())

    def network(self) -> nn.Module:
        """Load the network as it was measured last."""
        return self.compact(self.full_size(), self.masks())

    def full_size(self) -> nn.Module:
        """Load the same network in the shape of the dense network."""
        return self.build(self.stage.model)

    def unretrained(self) -> nn.Module | None:
        """Load the network right after pruning; None where it was not kept."""
        weights = self.stage.unretrained
        return None if weights is None else self.build(weights)

    def losses(self) -> tuple[Tensor, Tensor]:
        """The losses right before and right after the round's pruning, float32 (n,) both.

        Raises `EvidenceError` where the job did not measure them.
        """
        return self.stage.read_losses()
