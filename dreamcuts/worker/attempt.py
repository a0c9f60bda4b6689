"""One attempt of one job: validate, resolve, run, and turn whatever happens into an outcome.

Nothing that a job does reaches the worker: any exception becomes a failed attempt with its class, a job that
runs too long is stopped, and what the job returns is checked when it is stored.
"""

from __future__ import annotations

import asyncio
import logging
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
from dreamcuts.queue.models import Completed, Failed, HandedBack, Outcome
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
        self._stop_reason: StopReason | None = None
        self._log = logging.LoggerAdapter(
            log, {"tag": job_type.short_name, "job_id": job.job_id, "manifest_id": job.manifest_id}
        )

    def stop(self, reason: StopReason) -> None:
        """Stop the job: it is handed back, was taken from us, or was cancelled. The first reason counts."""
        if self._stop_reason is None:
            self._stop_reason = reason
            self._scope.cancel()

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
        finally:
            context.workspace.remove()
        return outcome

    async def _guarded(self, context: Context) -> Outcome | None:
        limit = self._type.time_limit
        cancelled = anyio.get_cancelled_exc_class()
        try:
            with anyio.move_on_after(limit.total_seconds()) as timer:
                result = await self._carry_out(context)
            if timer.cancelled_caught:
                return self._failed(ErrorClass.TIMED_OUT, f"The attempt took longer than {limit}")
        except LeaseLost:
            self._log.warning("Job %s is no longer ours; stopped", self.job.job_id)
            return None
        except JobError as error:
            return self._failed(
                error.error_class, str(error), detail=_detail_of(error), retry_after=error.retry_after
            )
        except ConfigError as error:
            return self._failed(ErrorClass.AUTH, str(error))
        except StorageError as error:
            return self._failed(ErrorClass.TRANSIENT, f"Storage: {error}")
        except cancelled as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return self._bug(error)  # nobody cancelled us: the job raised it itself
        except BaseException as error:
            return self._bug(error)
        return self._completed(result)

    async def _carry_out(self, context: Context) -> Result:
        payload = self.job.payload
        if isinstance(payload, Unreadable):
            raise InvalidRequest(f"The payload cannot be read: {payload.reason}")
        if needs_templates(payload):
            payload = resolve_templates(
                payload, manifest=await context.manifest(), siblings=await context.sibling_jobs()
            )
        try:
            result = await self._type.run(context, validated(self._type.payload_model, payload))
        except Reused as found:
            result = found.result
        if not isinstance(result, Result):
            raise TypeError(f"{type(self._type).__name__}.run returned {type(result).__name__}, not Result")
        return result

    def _context(self) -> Context:
        tools = self._tools
        return Context(
            job=self.job,
            settings=tools.settings,
            storage=tools.storage,
            http=tools.http,
            calls=StoredCalls(
                tools.store, self.worker, self.job, tools.settings.price_missing, self._observer
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
            except Exception as error:
                self._log.warning("Job %s: its call could not be cancelled: %s", self.job.job_id, error)

    def _completed(self, result: Result) -> Completed:
        data = dict(result.data)
        if result.asset is not None:
            data = result.asset.as_result() | data
        return Completed(self.job, data, result.asset.url if result.asset else None)

    def _failed(
        self,
        error_class: ErrorClass,
        message: str,
        *,
        detail: dict[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> Failed:
        return Failed(
            self.job,
            error_class,
            message,
            detail=detail or {},
            retry_after=retry_after,
            base_delay=self._tools.retry_delay(self._type),
        )

    def _bug(self, error: BaseException) -> Failed:
        self._log.error("Job %s: unexpected error", self.job.job_id, exc_info=error)
        text = "".join(traceback.format_exception(error))[-LONGEST_TRACEBACK:]
        return self._failed(
            ErrorClass.BUG,
            f"Unexpected {type(error).__name__}: {self._tools.redact(str(error))}",
            detail={"traceback": self._tools.redact(text)},
        )


def validated(model: type[Payload], payload: Mapping[str, Any]) -> Payload:
    """The payload as its model. Raises InvalidRequest naming each wrong field, its value and the reason."""
    try:
        return model.model_validate(dict(payload))
    except ValidationError as error:
        problems = []
        for issue in error.errors(include_url=False, include_context=False):
            field = ".".join(str(part) for part in issue["loc"]) or "payload"
            given = "" if issue["type"] == "missing" else f" (given: {_short(issue['input'])})"
            problems.append(f"{field}: {issue['msg']}{given}")
        raise InvalidRequest("The payload is not valid: " + "; ".join(problems)) from None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _detail_of(error: JobError) -> dict[str, Any]:
    known = {
        name: value
        for name in ("provider", "status", "code", "outcome_unknown")
        if (value := getattr(error, name, None)) not in (None, False)
    }
    return known | error.detail
