"""One attempt of one job: validate, resolve, run, and turn whatever happens into an outcome.

Nothing that a job does reaches the worker: any exception becomes a failed attempt with its class, a job that
runs too long is stopped, and what the job returns is checked when it is stored.
"""

from __future__ import annotations

import asyncio
import logging
import math
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
from dreamcuts.worker.calls import StoredCalls
from dreamcuts.worker.context import Context, Workspace
from dreamcuts.worker.observer import NOBODY, WorkerObserver
from dreamcuts.worker.tools import Tools

log = logging.getLogger(__name__)

StopReason = Literal["handed_back", "taken", "cancelled"]

CANCEL_CALLS_S = 20.0
LONGEST_TRACEBACK = 8000


class Attempt:
    """A claimed job on its way. `run()` returns its outcome, or None if the job is no longer ours."""

    def __init__(
        self, job: Job, worker: UUID, job_type: JobType, tools: Tools, observer: WorkerObserver = NOBODY
    ) -> None:
        self.job = job
        self.worker = worker
        self._type = job_type
        self._tools = tools
        self._observer = observer
        self._scope = anyio.CancelScope()
        self._no_more_waiting = anyio.CancelScope()
        self._stop_reason: StopReason | None = None
        self._log = logging.LoggerAdapter(
            log, {"tag": job_type.short_name, "job_id": job.job_id, "manifest_id": job.manifest_id}
        )

    def stop(self, reason: StopReason) -> None:
        """Stop the job: it is handed back, was taken from us, or was cancelled. The first reason counts.

        Told again, it no longer waits for the database to take the ticket of what is paid.
        """
        if self._stop_reason is None:
            self._stop_reason = reason
            self._scope.cancel()
        else:
            self._no_more_waiting.cancel()

    async def run(self) -> Outcome | None:
        """Carry out the attempt. Raises nothing but the cancellation of the worker itself."""
        self._log.info("Processing job %s...", self.job.job_id)
        context = self._context()
        outcome: Outcome | None = None
        try:
            with self._scope:
                outcome = await self._guarded(context)
            if outcome is None and self._stop_reason == "handed_back":
                outcome = HandedBack(self.job, "handed back by a worker that stopped")
            elif outcome is None and self._stop_reason == "cancelled":
                await self._cancel_calls(context)
            if outcome is not None:
                with self._no_more_waiting:
                    # Whoever claims the job next must find what is paid.
                    await self._tools.tickets.stored(self.job.id)
        finally:
            context.workspace.remove()
        return outcome

    async def _guarded(self, context: Context) -> Outcome | None:
        """The outcome of what the job does, whatever that is; None if the job is no longer ours."""
        try:
            return await self._timed(context)
        except BaseException as error:
            cause = only_cause(error)
            if isinstance(cause, anyio.get_cancelled_exc_class()) and _is_cancelled_from_outside():
                raise
            try:
                return self._outcome_of(cause)
            except BaseException as broken:  # an error that cannot even be read
                self._log.error("Job %s: unreadable error: %s", self.job.job_id, type(broken).__name__)
                return Failed(self.job, ErrorClass.BUG, "The job raised an error that cannot be read")

    async def _timed(self, context: Context) -> Outcome:
        limit = self._type.time_limit
        with anyio.move_on_after(limit.total_seconds()):
            return self._completed(await self._carry_out(context))
        return self._failed(ErrorClass.TIMED_OUT, f"The attempt took longer than {limit}")

    def _outcome_of(self, error: BaseException) -> Outcome | None:
        match error:
            case LeaseLost():
                self._log.warning("Job %s is no longer ours; stopped", self.job.job_id)
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
        if needs_templates(payload):
            payload = resolve_templates(
                payload, manifest=await context.manifest(), siblings=await context.sibling_jobs()
            )
        return await self._type.run(context, validated(self._type.payload_model, payload))

    def _context(self) -> Context:
        tools = self._tools
        return Context(
            job=self.job,
            settings=tools.settings,
            storage=tools.storage,
            http=tools.http,
            calls=StoredCalls(
                tools.store,
                self.worker,
                self.job,
                tools.settings.price_missing,
                self._observer,
                tools.tickets,
                tools.redact,
                tools.lease_left,
            ),
            log=self._log,
            workspace=Workspace(),
            store=tools.store,
            providers=tools.providers,
        )

    async def _cancel_calls(self, context: Context) -> None:
        """The job was cancelled: see to it that the provider does not go on working for it."""
        with anyio.move_on_after(CANCEL_CALLS_S, shield=True):
            try:
                await cancel_open_calls(context)
            except BaseException as error:
                if isinstance(error, anyio.get_cancelled_exc_class()):
                    raise
                self._log.warning(
                    "Job %s: its call could not be cancelled: %s", self.job.job_id, _text_of(error)
                )

    def _completed(self, result: Result) -> Completed:
        """Raises TypeError if it is no Result, or holds what no Result holds."""
        maker = f"{type(self._type).__name__}.run"
        if not isinstance(result, Result):
            raise TypeError(f"{maker} returned {type(result).__name__}, not Result")
        if not isinstance(result.data, Mapping):
            raise TypeError(f"{maker} returned a Result whose data is {type(result.data).__name__}, not dict")
        data = dict(result.data)
        if result.asset is None:
            return Completed(self.job, data)
        if not isinstance(result.asset.url, str):
            raise TypeError(
                f"{maker} returned an asset whose url is {type(result.asset.url).__name__}, not str"
            )
        return Completed(self.job, result.asset.as_result() | data, result.asset.url)

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
        self._log.error("Job %s: unexpected error", self.job.job_id, exc_info=error)
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
