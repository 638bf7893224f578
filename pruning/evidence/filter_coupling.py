"""Whether filters leave the network together with all that is coupled to them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

Coupling = Annotated[
    Literal["network", "layer"],
    Field(
        description="network: channels that can only be removed together leave the network, which "
        "becomes smaller; layer: each layer loses its own filters or input channels, as in the "
        "code of Lost in Pruning"
    ),
]
GRANULARITIES = {"network": "channel", "layer": "filter"}
"""The granularity of each coupling."""
