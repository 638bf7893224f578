"""Settings of the HTTP side, read from the same `SECATEUR_*` variables."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tasks.settings import Settings


class ApiSettings(Settings):
    """The settings of every process, and how long the API lets its helpers work."""

    helper_timeout_s: Annotated[float, Field(gt=0)] = 120.0
    """Longest time to check an uploaded model or to estimate a job."""
    decode_timeout_s: Annotated[float, Field(gt=0)] = 900.0
    """Longest time to decode an uploaded dataset."""
    helper_wait_s: Annotated[float, Field(gt=0)] = 5.0
    """Longest wait for a free helper; then the answer is 503 `busy`."""
    helpers: Annotated[int, Field(ge=1)] = 2
    """Largest number of helper processes at a time, for each of models, datasets and estimates."""
