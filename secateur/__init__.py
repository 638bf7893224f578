"""Secateur: the client of the pruning service, synchronous and asynchronous, and the `secateur`
command.
"""

from __future__ import annotations

from secateur.client import AsyncClient, Client
from secateur.errors import (
    ApiError,
    AuthError,
    ChecksumMismatch,
    ConnectionFailed,
    FieldError,
    InvalidIdentifier,
    JobCancelled,
    JobFailed,
    SecateurError,
    WaitTimeout,
)
from secateur.flow import Policy
from secateur.version import VERSION
from secateur.wire import (
    CheckpointResult,
    Dataset,
    Event,
    FamilyMember,
    Job,
    JobError,
    Model,
    Progress,
    Results,
)

__version__ = VERSION

__all__ = [
    "ApiError",
    "AsyncClient",
    "AuthError",
    "CheckpointResult",
    "ChecksumMismatch",
    "Client",
    "ConnectionFailed",
    "Dataset",
    "Event",
    "FamilyMember",
    "FieldError",
    "InvalidIdentifier",
    "Job",
    "JobCancelled",
    "JobError",
    "JobFailed",
    "Model",
    "Policy",
    "Progress",
    "Results",
    "SecateurError",
    "WaitTimeout",
    "__version__",
]
