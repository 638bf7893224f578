"""Settings of the HTTP side, read from the same `SECATEUR_*` variables."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tasks.settings import Settings


class ApiSettings(Settings):
    """What every process knows, and how long the API lets its helper work."""

    helper_timeout_s: Annotated[float, Field(gt=0)] = 120.0
    """Longest check of an uploaded model or estimate of a job."""
    decode_timeout_s: Annotated[float, Field(gt=0)] = 900.0
    """Longest decoding of an uploaded dataset."""
    helper_wait_s: Annotated[float, Field(gt=0)] = 5.0
    """Longest wait for a free helper; then the answer is 503 `busy`."""
    helpers: Annotated[int, Field(ge=1)] = 2
    """Helper processes of a kind (models, datasets, estimates) at a time."""
