"""Errors a caller can act on.

Each carries a stable `code`; a job that meets an error fails with its code.
"""

from __future__ import annotations


class SecateurError(Exception):
    """The base of every error raised for callers."""

    code = "internal"
    retryable = False

    def __init__(self, message: str, *, pointer: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.pointer = pointer


class UnknownNameError(SecateurError):
    """A name that no registry holds."""

    code = "unknown_name"


class ParameterError(SecateurError):
    """A parameter of a method or architecture that does not validate."""

    code = "invalid_parameter"


class BudgetError(SecateurError):
    """A budget that cannot be spent."""

    code = "impossible_budget"


class ScoreError(SecateurError):
    """Scores that cannot be ranked: NaN, infinite, or of a shape that does not broadcast to the
    weight.
    """

    code = "invalid_scores"


class EvidenceError(SecateurError):
    """A criterion asked for evidence that was not supplied."""

    code = "missing_evidence"


class ModelError(SecateurError):
    """A state dict that does not fit its architecture."""

    code = "invalid_model"


class StructureError(SecateurError):
    """A network whose channels cannot be distinguished, so that none of them can be removed."""

    code = "unsupported_structure"


class DataError(SecateurError):
    """Data that cannot be read or do not fit the model."""

    code = "invalid_dataset"


class MissingPackageError(SecateurError):
    """A package of an extra that is not installed where it is needed; the message says which."""

    code = "missing_package"


class UnsafeFormatError(SecateurError):
    """A file that could run code when read."""

    code = "unsafe_format"


class CheckpointError(SecateurError):
    """A checkpoint file that is damaged or of another format."""

    code = "invalid_checkpoint"


PRUNING_ERRORS = (BudgetError, ScoreError, EvidenceError, StructureError, ParameterError)
"""The errors that one criterion may raise where another does not."""


class BaselineMismatchError(SecateurError):
    """A dense network that does no better than chance on the data."""

    code = "baseline_mismatch"


class NonFiniteError(SecateurError):
    """A dense network whose outputs are NaN or infinite, so that it cannot be measured."""

    code = "non_finite_outputs"


class DeviceError(SecateurError):
    """A device that this machine does not have."""

    code = "device_unavailable"


class DivergenceError(SecateurError):
    """A training whose loss became NaN or infinite."""

    code = "training_diverged"


class OutOfMemoryError(SecateurError):
    """A computation does not fit in memory, not even for one image at a time."""

    code = "out_of_memory"


class CurveError(SecateurError):
    """Measured errors that no scaling law can be fitted to: not finite, out of range, or without a
    rise.
    """

    code = "invalid_curve"


class InsufficientPointsError(SecateurError):
    """Too few measured errors for the question; the message says how many more are enough."""

    code = "insufficient_points"


class UnreachableError(SecateurError):
    """An error that no density reaches; the message names the closest."""

    code = "unreachable"
