"""One attempt of one job: validate, resolve, run, and turn whatever happens into an outcome.

Nothing that a job does reaches the worker: any exception becomes a failed attempt with its class, a job that
runs too long is stopped, and what the job returns is checked when it is stored.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
import traceback
from collections.abc import Mapping
from typing import Any, Literal
from uuid import UUID

import anyio
from pydantic import ValidationError

from dreamcuts.db.jsontext import Unreadable
from dreamcuts.errors import ConfigError, ErrorClass, InvalidRequest, JobError, LeaseLost, StorageError
from dreamcuts.jobs.base import Job, JobType, Payload, Result
from dreamcuts.jobs.paid import cancel_open_calls
from dreamcuts.jobs.reuse import Reused
from dreamcuts.jobs.templates import needs_templates, resolve_templates
from dreamcuts.log import redacted
from dreamcuts.queue.models import Completed, Failed, HandedBack, Outcome
from dreamcuts.wording import reason
from dreamcuts.worker.context import Context
from dreamcuts.worker.observer import NOBODY, WorkerObserver
from dreamcuts.worker.tools import Tools

log = logging.getLogger(__name__)

StopReason = Literal["handed_back", "taken", "cancelled", "timed_out"]

CANCEL_CALLS_S = 20.0
LONGEST_TRACEBACK = 8000


class Attempt:
    """A claimed job on its way: `run()` inside `scope`, the slot's; then `conclude()` outside of it.

    Two steps, because what is left to do after a job was stopped must not be stopped with it.
    """

    __slots__ = (
        "_context",
        "_hurried",
        "_no_more_waiting",
        "_observer",
        "_scope",
        "_stop_reason",
        "_tools",
        "_type",
        "began",
        "has_run",
        "is_given_up",
        "job",
        "outcome",
        "told_at",
        "worker",
    )

    def __init__(
        self,
        job: Job,
        worker: UUID,
        job_type: JobType,
        tools: Tools,
        observer: WorkerObserver = NOBODY,
        scope: anyio.CancelScope | None = None,
    ) -> None:
        self.job = job
        self.worker = worker
        self.began = time.monotonic()
        self.has_run = False
        self.is_given_up = False
        self.told_at: float | None = None
        """When it was told that its time is up (monotonic seconds)."""
        self.outcome: Outcome | None = None
        """What it came to; None while it runs, and if the job is no longer ours."""
        self._type = job_type
        self._tools = tools
        self._observer = observer
        self._scope = scope
        self._context: Context | None = None
        self._stop_reason: StopReason | None = None
        self._hurried = False
        self._no_more_waiting: anyio.CancelScope | None = None

    def stop(self, reason: StopReason) -> None:
        """Stop the job: it is handed back, was taken from us, was cancelled, or took too long.

        The first reason counts.
        Told again, it no longer waits for the database to take the ticket of what is paid.
        """
        if self._stop_reason is None:
            self._stop_reason = reason
            if self._scope is not None:
                self._scope.cancel()
        elif reason != "timed_out":
            self._hurried = True
            if self._no_more_waiting is not None:
                self._no_more_waiting.cancel()

    def give_up(self) -> Failed:
        """The outcome of a job whose time is over and that goes on all the same. What it returns is void."""
        self.is_given_up = True
        return self._timed_out()

    async def run(self) -> None:
        """Carry out the attempt. Raises nothing but the cancellation of the scope, or of the worker."""
        if log.isEnabledFor(logging.INFO):
            log.info("Processing job %s...", self.job.job_id, extra=self._tags())
        self._context = context = self._make_context()
        try:
            self.outcome = await self._guarded(context)
        finally:
            self.has_run = True

    def is_over_at_once(self, seconds: float) -> bool:
        """Whether it took less than that, and nothing is left to do: `outcome` is all there is."""
        return (
            self.outcome is not None
            and self._stop_reason is None
            and time.monotonic() - self.began < seconds
            and not self._tools.tickets.has(self.job.id)
            and not (self._context is not None and self._context.workspace.is_made)
        )

    def forget(self) -> None:
        """Let go of what it used: the two hold each other, and would wait for the collector."""
        self._context = None

    async def conclude(self) -> Outcome | None:
        """What is left to do, whatever became of the job. Returns the outcome; None if it is not ours."""
        assert self._context is not None
        try:
            if self.outcome is None:
                self.outcome = self._stopped()
            if self.outcome is not None:
                with anyio.CancelScope() as self._no_more_waiting:
                    if self._hurried:
                        self._no_more_waiting.cancel()
                    # Whoever claims the job next must find what is paid.
                    await self._tools.tickets.stored(self.job.id)
            elif self._stop_reason == "cancelled":
                await self._cancel_calls(self._context)
        finally:
            self._context.workspace.remove()
        return self.outcome

    def _stopped(self) -> Outcome | None:
        if self._stop_reason == "handed_back":
            return HandedBack(self.job, "handed back by a worker that stopped")
        return self._timed_out() if self._stop_reason == "timed_out" else None

    def _timed_out(self) -> Failed:
        limit = self._type.time_limit
        return self._failed(ErrorClass.TIMED_OUT, f"The attempt took longer than {limit}")

    def _tags(self) -> dict[str, Any]:
        return {
            "tag": self._type.short_name,
            "job_id": self.job.job_id,
            "manifest_id": self.job.manifest_id,
        }

    async def _guarded(self, context: Context) -> Outcome | None:
        """The outcome of what the job does, whatever that is; None if the job is no longer ours."""
        try:
            return self._completed(await self._carry_out(context))
        except BaseException as error:
            cause = only_cause(error)
            if isinstance(cause, anyio.get_cancelled_exc_class()) and _is_cancelled_from_outside():
                raise
            if isinstance(cause, MemoryError):
                # What the job has piled up hangs on the traceback's frames; without room nothing can be said.
                traceback.clear_frames(cause.__traceback__)
            try:
                return self._outcome_of(cause)
            except BaseException as broken:  # an error that cannot even be read
                context.log.error("Job %s: unreadable error: %s", self.job.job_id, type(broken).__name__)
                return Failed(self.job, ErrorClass.BUG, "The job raised an error that cannot be read")

    def _outcome_of(self, error: BaseException) -> Outcome | None:
        match error:
            case LeaseLost():
                log.warning("Job %s is no longer ours; stopped", self.job.job_id, extra=self._tags())
                return None
            case Reused():
                return self._completed(error.result)
            case JobError():
                return self._failed(
                    error.error_class,
                    _text_of(error),
                    detail=_detail_of(error),
                    retry_after=getattr(error, "retry_after", None),
                )
            case ConfigError():
                return self._failed(ErrorClass.AUTH, _text_of(error))
            case StorageError():
                return self._failed(ErrorClass.TRANSIENT, f"Storage: {_text_of(error)}")
            case _:
                return self._bug(error)

    async def _carry_out(self, context: Context) -> Result:
        payload = self.job.payload
        if isinstance(payload, Unreadable):
            raise InvalidRequest(f"The payload cannot be read: {payload.reason}")
        if payload and needs_templates(payload):
            payload = resolve_templates(
                payload, manifest=await context.manifest(), siblings=await context.sibling_jobs()
            )
        return await self._type.run(context, validated(self._type.payload_model, payload))

    def _make_context(self) -> Context:
        return Context(self.job, self.worker, self._tools, self._observer, self._tags)

    async def _cancel_calls(self, context: Context) -> None:
        """The job was cancelled: see to it that the provider does not go on working for it."""
        with anyio.move_on_after(CANCEL_CALLS_S, shield=True):
            try:
                await cancel_open_calls(context)
            except BaseException as error:
                if isinstance(error, anyio.get_cancelled_exc_class()):
                    raise
                context.log.warning(
                    "Job %s: its call could not be cancelled: %s", self.job.job_id, _text_of(error)
                )

    def _completed(self, result: Any) -> Completed:
        """Raises TypeError if it is no Result, or holds what no Result holds."""
        if not isinstance(result, Result):
            raise self._misfit("", result, "Result")
        if type(result.data) is not dict and not isinstance(result.data, Mapping):
            raise self._misfit("a Result whose data is ", result.data, "dict")
        data = dict(result.data)
        if result.asset is None:
            return Completed(self.job, data)
        if not isinstance(result.asset.url, str):
            raise self._misfit("an asset whose url is ", result.asset.url, "str")
        return Completed(self.job, result.asset.as_result() | data, result.asset.url)

    def _misfit(self, what: str, value: Any, wanted: str) -> TypeError:
        maker = f"{type(self._type).__name__}.run"
        return TypeError(f"{maker} returned {what}{type(value).__name__}, not {wanted}")

    def _failed(
        self,
        error_class: ErrorClass,
        message: str,
        *,
        detail: dict[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> Failed:
        """A plugin's error may hold anything; what goes on from here is what it should be."""
        return Failed(
            self.job,
            _class_of(error_class),
            self._tools.redact(message),
            detail=redacted(detail or {}, self._tools.redact),
            retry_after=_seconds_of(retry_after),
            base_delay=self._tools.retry_delay(self._type),
        )

    def _bug(self, error: BaseException) -> Failed:
        log.error("Job %s: unexpected error", self.job.job_id, exc_info=error, extra=self._tags())
        # Redacted before it is cut: half a key would not be known again.
        text = self._tools.redact("".join(traceback.format_exception(error)))[-LONGEST_TRACEBACK:]
        return self._failed(
            ErrorClass.BUG,
            f"Unexpected {type(error).__name__}: {_text_of(error)}",
            detail={"traceback": text},
        )


def only_cause(error: BaseException) -> BaseException:
    """The error itself, or the only one in a group: a job's own task group wraps what its tasks raise."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def validated(model: type[Payload], payload: Mapping[str, Any]) -> Payload:
    """The payload as its model. Raises InvalidRequest naming each wrong field, its value and the reason."""
    try:
        return model.model_validate(dict(payload))
    except ValidationError as error:
        problems = []
        for issue in error.errors(include_url=False, include_context=False):
            field = ".".join(str(part) for part in issue["loc"]) or "payload"
            given = "" if issue["type"] == "missing" else f" (given: {_short(issue['input'])})"
            problems.append(f"{field}: {reason(issue)}{given}")
        raise InvalidRequest("The payload is not valid: " + "; ".join(problems)) from None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _is_cancelled_from_outside() -> bool:
    """False if nobody cancelled us: the job raised the cancellation itself."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return f"{type(error).__name__}, whose text cannot be read"


def _class_of(value: Any) -> ErrorClass:
    try:
        return ErrorClass(value)
    except Exception:
        log.warning("%s is no error class; bug is taken instead", _short(value))
        return ErrorClass.BUG


def _seconds_of(value: Any) -> float | None:
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _detail_of(error: JobError) -> dict[str, Any]:
    known = {
        name: value
        for name in ("provider", "status", "code", "outcome_unknown")
        if (value := getattr(error, name, None)) not in (None, False)
    }
    detail = getattr(error, "detail", None)
    return known | dict(detail) if isinstance(detail, Mapping) else known
