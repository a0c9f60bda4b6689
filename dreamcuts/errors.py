"""Exceptions, and the classes that decide what happens to a job after one.

    DreamCutsError
      · ConfigError          a setting is missing or wrong                      (exit code 2)
      · DatabaseError        Postgres cannot be reached, or its schema does not fit
      · ManifestInvalid      a manifest with all its problems
      · NotFound             no job, manifest or file of that name
      · StorageError         an asset could not be written or read
      · LeaseLost            this worker no longer owns the job
      · CallRefused          a call to a provider may not begin now (the job sees a JobError)
      · JobError             a job's attempt failed; carries an ErrorClass
          - ProviderError    the provider answered with an error

An error that a job raises and that is no JobError counts as `bug`: retried, with its traceback kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any


class ErrorClass(StrEnum):
    """Why an attempt failed. sql/functions/retry.sql holds what follows from each class."""

    TRANSIENT = "transient"
    RATE_LIMITED = "rate_limited"
    PAUSED = "paused"
    OVERLOADED = "overloaded"
    AUTH = "auth"
    QUOTA = "quota"
    CONTENT_REJECTED = "content_rejected"
    INVALID_REQUEST = "invalid_request"
    STALLED = "stalled"
    TIMED_OUT = "timed_out"
    DEPENDENCY_FAILED = "dependency_failed"
    CANCELLED = "cancelled"
    SPEND_LIMIT = "spend_limit"
    BUG = "bug"


class DreamCutsError(Exception):
    """Base of every error that DreamCuts raises on purpose. Its text is meant for people."""


class ConfigError(DreamCutsError):
    """A setting is missing or wrong; the text names it and the way out."""


class DatabaseError(DreamCutsError):
    """Postgres cannot be reached, or its schema does not fit this version of the code."""


class ManifestInvalid(DreamCutsError):
    """A manifest that cannot be produced; `problems` lists everything wrong with it at once."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        count = len(self.problems)
        super().__init__(
            f"The manifest has {count} problem{'s' if count != 1 else ''}:\n"
            + "\n".join(f"  - {problem}" for problem in self.problems)
        )


class NotFound(DreamCutsError):
    """Nothing of that name exists."""


class StorageError(DreamCutsError):
    """An asset could not be written or read."""


class LeaseLost(DreamCutsError):
    """This worker no longer owns the job: stop working on it and write nothing."""


class CallRefused(DreamCutsError):
    """The database does not let a call to a provider begin: a limit, a spend limit, or a pause.

    `kind` is the SQLSTATE (DC002 limit, DC003 spend limit, DC004 paused), `info` what
    sql/functions/55_providers.sql says about it.
    """

    def __init__(self, message: str, kind: str, info: dict[str, Any]) -> None:
        super().__init__(message)
        self.kind = kind
        self.info = info


class JobError(DreamCutsError):
    """An attempt failed in a way whose class is known.

    `retry_after` is in seconds and, where a provider gave it, wins over the backoff. `try_next` says
    that another step of a fallback chain may well succeed with the same job. `detail` is kept with the
    attempt; it must be JSON-serialisable and free of secrets.
    """

    error_class: ErrorClass = ErrorClass.TRANSIENT

    def __init__(
        self,
        message: str,
        *,
        error_class: ErrorClass | None = None,
        retry_after: float | None = None,
        try_next: bool = False,
        detail: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        if error_class is not None:
            self.error_class = error_class
        self.retry_after = retry_after
        self.try_next = try_next or self.error_class is ErrorClass.CONTENT_REJECTED
        self.detail = detail or {}


class InvalidRequest(JobError):
    """The payload cannot be carried out as it stands; retrying would not help."""

    error_class = ErrorClass.INVALID_REQUEST


class ProviderError(JobError):
    """A provider answered with an error, or did not answer.

    `status` is the HTTP status (None for a transport error), `code` the provider's own error code.
    `outcome_unknown` is true when the request may have been carried out, and billed, all the same.
    """

    def __init__(
        self,
        message: str,
        *,
        provider: str,
        error_class: ErrorClass,
        status: int | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        try_next: bool = False,
        outcome_unknown: bool = False,
        detail: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            message, error_class=error_class, retry_after=retry_after, try_next=try_next, detail=detail
        )
        self.provider = provider
        self.status = status
        self.code = code
        self.outcome_unknown = outcome_unknown
