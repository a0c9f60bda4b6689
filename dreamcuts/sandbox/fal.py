"""fal's queue API: submit, status, result, cancel (fal docs, Queue API).

A request waits, runs and is completed by itself; the answers say how far it is. Submit uses the whole
endpoint id, the other calls only its first two parts. A failed request is COMPLETED; its result is the error.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from dreamcuts.sandbox.fal_makers import Made, MakeFault, make
from dreamcuts.sandbox.fal_models import MODELS, Model
from dreamcuts.sandbox.faults import FAL_MARKERS, Outcome, marked
from dreamcuts.sandbox.gate import OUTCOME
from dreamcuts.sandbox.state import SandboxState, base_url

_log = logging.getLogger("dreamcuts.sandbox")
STUCK = "sandbox:stuck"


@dataclass(slots=True)
class _Job:
    """One accepted request."""

    id: str
    app: str
    base: str
    model: Model
    raw: bytes
    arguments: Any
    start_timeout: float | None
    forced: Outcome | None = None
    status: str = "IN_QUEUE"
    result: Outcome | None = None
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    began: float = 0.0
    seconds: float = 0.0

    @property
    def url(self) -> str:
        return f"{self.base}/fal/{self.app}/requests/{self.id}"

    def urls(self) -> dict[str, str]:
        return {
            "request_id": self.id,
            "response_url": self.url,
            "status_url": f"{self.url}/status",
            "cancel_url": f"{self.url}/cancel",
        }


def routes(state: SandboxState) -> list[BaseRoute]:
    """The routes below `/fal`."""
    queue = _Queue(state)

    def route(path: str, handler: Callable[[Request], Awaitable[Response]], method: str) -> Route:
        async def endpoint(request: Request) -> Response:
            given = request.headers.get("authorization", "")
            if given != f"Key {state.keys.fal}":
                # fal names no form for this; a string in `detail` is what its clients expect.
                problem = (
                    "Invalid key." if given else "Authentication is required to access this application."
                )
                return JSONResponse({"detail": problem}, 401)
            return await handler(request)

        return Route(path, endpoint, methods=[method])

    one = "/{owner}/{app}/requests/{id}"
    return [
        route(f"{one}/status", queue.status, "GET"),
        route(f"{one}/cancel", queue.cancel, "PUT"),
        route(one, queue.result, "GET"),
        route("/{endpoint:path}", queue.submit, "POST"),
    ]


class _Queue:
    def __init__(self, state: SandboxState) -> None:
        self.state = state
        self.jobs: dict[str, _Job] = {}

    async def submit(self, request: Request) -> Response:
        endpoint = request.path_params["endpoint"]
        model = MODELS.get(endpoint)
        if model is None:
            name = endpoint.partition("/")[2] or endpoint
            return JSONResponse({"detail": f"Application '{name}' not found"}, 404)
        raw = await request.body()
        try:
            arguments = json.loads(raw)
        except ValueError:
            return JSONResponse(
                {"detail": "Request body is not valid JSON", "error_type": "bad_request"}, 400
            )
        timeout = request.headers.get("x-fal-request-timeout")
        job = _Job(
            id=str(uuid.uuid4()),
            app="/".join(endpoint.split("/")[:2]),
            base=base_url(request),
            model=model,
            raw=raw,
            arguments=arguments,
            start_timeout=float(timeout) if timeout else None,
        )
        fault = request.scope.get(OUTCOME)
        if fault is not None:
            job.forced = Outcome(fault.status, fault.body, fault.headers)
        self.jobs[job.id] = job
        self.state.spawn(self._run(job))
        answer: dict[str, Any] = {
            "status": "IN_QUEUE",
            **job.urls(),
            "queue_position": self._position(job),
            "logs": None,
            "metrics": {},
        }
        return JSONResponse(answer, headers={"x-fal-request-id": job.id})

    def _position(self, job: _Job) -> int:
        waiting = [other.id for other in self.jobs.values() if other.status == "IN_QUEUE"]
        return waiting.index(job.id) if job.id in waiting else 0

    def _find(self, request: Request) -> _Job | None:
        job = self.jobs.get(request.path_params["id"])
        if job is None or job.app != f"{request.path_params['owner']}/{request.path_params['app']}":
            return None
        return job

    async def status(self, request: Request) -> Response:
        job = self._find(request)
        if job is None:
            return JSONResponse({"detail": "Request not found"}, 404)
        headers = {"x-fal-request-id": job.id}
        answer: dict[str, Any] = {"status": job.status, **job.urls()}
        if job.status == "IN_QUEUE":
            return JSONResponse({**answer, "queue_position": self._position(job)}, 202, headers)
        answer["logs"] = self._logs(job) if request.query_params.get("logs") in ("1", "true") else None
        if job.status == "IN_PROGRESS":
            return JSONResponse(answer, 202, headers)
        answer["metrics"] = {"inference_time": round(job.seconds, 3)}
        if job.result is not None and job.result.status >= 400:
            detail = job.result.body.get("detail") if isinstance(job.result.body, dict) else None
            answer["error"] = detail if isinstance(detail, str) else "The request failed; see the response."
            answer["error_type"] = (
                job.result.body.get("error_type") if isinstance(job.result.body, dict) else None
            )
        return JSONResponse(answer, 200, headers)

    def _logs(self, job: _Job) -> list[dict[str, str]]:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S.000000+00:00", time.gmtime(job.began))
        return [
            {
                "timestamp": moment,
                "level": "INFO",
                "source": "USER",
                "message": f"running {job.model.endpoint}",
            }
        ]

    async def result(self, request: Request) -> Response:
        job = self._find(request)
        if job is None:
            return JSONResponse({"detail": "Request not found"}, 404)
        if job.result is None:
            return JSONResponse({"detail": "Request is still in progress"}, 400)
        headers = {"x-fal-request-id": job.id, **job.result.headers}
        return JSONResponse(job.result.body, job.result.status, headers)

    async def cancel(self, request: Request) -> Response:
        job = self._find(request)
        if job is None:
            return JSONResponse({"status": "NOT_FOUND"}, 404)
        if job.status == "COMPLETED":
            return JSONResponse({"status": "ALREADY_COMPLETED"}, 400)
        # A request that has begun runs to its end, and is billed (fal docs: cancelling before processing).
        job.cancelled.set()
        return JSONResponse({"status": "CANCELLATION_REQUESTED"}, 202)

    async def _run(self, job: _Job) -> None:
        """Wait in the queue, make the media, keep the result."""
        try:
            early = await self._wait_in_queue(job)
            if early is not None:
                job.result = early
                return
            job.status, job.began = "IN_PROGRESS", time.time()
            job.result = await self._make(job)
            job.seconds = time.time() - job.began
        except Exception:
            _log.exception("%s failed in the sandbox", job.model.endpoint)
            body = {"detail": "Internal error", "error_type": "internal_error"}
            job.result = Outcome(500, body, {"x-fal-error-type": "internal_error"})
        finally:
            job.status = "COMPLETED"

    async def _wait_in_queue(self, job: _Job) -> Outcome | None:
        """Returns an outcome if the request never starts: cancelled, or not started in time."""
        wait = self.state.options.fal_queue_seconds / self.state.options.speed
        stuck = STUCK in job.raw.decode("utf-8", "replace")
        limit = job.start_timeout if job.start_timeout is not None else math.inf
        starts = math.inf if stuck else wait
        until = min(starts, limit)
        try:
            await asyncio.wait_for(job.cancelled.wait(), None if until == math.inf else until)
        except TimeoutError:
            if starts <= limit:
                return None
            headers = {"x-fal-request-timeout-type": "user", "x-fal-error-type": "request_timeout"}
            return Outcome(504, {"detail": "Request timed out", "error_type": "request_timeout"}, headers)
        return Outcome(499, {"detail": "Request was cancelled", "error_type": "client_cancelled"})

    async def _make(self, job: _Job) -> Outcome:
        if job.forced is not None:
            return job.forced
        try:
            given = job.model.input.model_validate(job.arguments)
        except ValidationError as error:
            return Outcome(422, {"detail": _issues(error)}, {"x-fal-retryable": "false"})
        outcome = marked(FAL_MARKERS, _words(given))
        if outcome is not None:
            return outcome
        try:
            made = await make(self.state, job.model, given, job.base)
        except MakeFault as fault:
            return Outcome(fault.status, {"detail": [fault.detail]}, {"x-fal-retryable": "false"})
        self._bill(job, given, made)
        return Outcome(200, made.output, {"x-fal-billable-units": f"{made.units:g}"})

    def _bill(self, job: _Job, given: BaseModel, made: Made) -> None:
        self.state.billing.record(
            "fal",
            job.model.endpoint,
            job.id,
            units=made.units,
            unit=job.model.unit,
            usd=job.model.price(given, made.units),
            body=job.raw,
        )


def _words(given: BaseModel) -> str:
    return " ".join(str(getattr(given, name, "")) for name in ("prompt", "subject"))


def _issues(error: ValidationError) -> list[dict[str, Any]]:
    """pydantic's errors as fal answers them."""
    return [
        {
            "loc": ["body", *issue["loc"]],
            "msg": issue["msg"],
            "type": issue["type"],
            "url": f"https://docs.fal.ai/errors#{issue['type']}",
            "input": issue.get("input"),
        }
        for issue in error.errors(include_url=False, include_context=False)
    ]
