"""The refusals of the store."""

from __future__ import annotations


class StoreError(Exception):
    """Base of the store's refusals."""


class NotFoundError(StoreError):
    """No such row in this project."""

    def __init__(self, kind: str, id: str) -> None:
        super().__init__(f"no {kind} {id!r}")
        self.kind = kind
        self.id = id


class TransitionError(StoreError):
    """The job cannot go from its status to the one that a client asked for."""

    def __init__(self, job_id: str, status: str, verb: str) -> None:
        super().__init__(f"cannot {verb} job {job_id}: it is {status}")
        self.status = status
        self.verb = verb


class InUseError(StoreError):
    """The row is used by a job that has not ended."""

    def __init__(self, kind: str, id: str, job_id: str) -> None:
        super().__init__(f"{kind} {id} is used by the live job {job_id}")
        self.job_id = job_id


class IdempotencyError(StoreError):
    """The idempotency key was used with another request."""


class CursorError(StoreError):
    """A cursor that this list did not issue."""
