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
    UnreadableFolder,
    WaitTimeout,
)
from secateur.flow import Policy
from secateur.forecasts import FittedLaw, JobEstimate, Prediction, Predictions, Validation
from secateur.version import VERSION
from secateur.wire import (
    CheckpointResult,
    Dataset,
    Event,
    FamilyGate,
    FamilyMember,
    FamilyRecommendation,
    Gate,
    Job,
    JobError,
    JointStatement,
    Model,
    Progress,
    Recommendation,
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
    "FamilyGate",
    "FamilyMember",
    "FamilyRecommendation",
    "FieldError",
    "FittedLaw",
    "Gate",
    "InvalidIdentifier",
    "Job",
    "JobCancelled",
    "JobError",
    "JobEstimate",
    "JobFailed",
    "JointStatement",
    "Model",
    "Policy",
    "Prediction",
    "Predictions",
    "Progress",
    "Recommendation",
    "Results",
    "SecateurError",
    "UnreadableFolder",
    "Validation",
    "WaitTimeout",
    "__version__",
]
