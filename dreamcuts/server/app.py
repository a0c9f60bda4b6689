"""The routes of the health server.

    GET /health        {"status", "timestamp", "uptime" (ms), "workers", "activeWorkers", "totalActiveJobs"}
    GET /status        {"isRunning", "totalWorkers", "workers": [{"name", "isRunning", "activeJobs",
                        "maxConcurrentJobs", "provider", "features"}]}
    GET /live          200 while the event loop turns: restart the process when it does not
    GET /ready         200 while the process takes work: not draining, the database within reach
    GET /metrics       Prometheus' text format
    GET /files/PATH    the assets, when they are kept in a local folder
    GET /dashboard     the dashboard

A "worker" here is what serves one job type, as the product's founding document has it. /health is "healthy"
with 200; "stopping" with 503 once the process claims no more; "unhealthy" with 503 for a reason of /ready.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Scope

from dreamcuts.server.pulse import Pulse
from dreamcuts.server.state import RunningState
from dreamcuts.worker.status import WorkerStatus

log = logging.getLogger(__name__)

MakeMetrics = Callable[[], Awaitable[tuple[bytes, str]]]
"""Gives the text of /metrics and its content type."""


def make_app(
    state: RunningState,
    files: Path | None = None,
    *,
    pulse: Pulse | None = None,
    metrics: MakeMetrics | None = None,
    dashboard: ASGIApp | None = None,
    lifespan: Callable[[], contextlib.AbstractAsyncContextManager[None]] | None = None,
) -> Starlette:
    """The application. `files` is the folder that /files serves; what is None is not served."""
    started = time.monotonic()

    async def health(request: Request) -> Response:
        workers, trouble = state.worker_statuses(), why_not_ready(state, pulse)
        word = "healthy" if trouble is None else "unhealthy" if state.is_running() else "stopping"
        body = {
            "status": word,
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "uptime": int((time.monotonic() - started) * 1000),
            "workers": len(workers),
            "activeWorkers": sum(worker.is_running for worker in workers),
            "totalActiveJobs": sum(worker.active_jobs for worker in workers),
        }
        return JSONResponse(body, status_code=200 if trouble is None else 503)

    async def status(request: Request) -> Response:
        workers = state.worker_statuses()
        body = {
            "isRunning": state.is_running(),
            "totalWorkers": len(workers),
            "workers": [_as_json(worker) for worker in workers],
        }
        return JSONResponse(body)

    async def live(request: Request) -> Response:
        return _probe("alive", "hung", why_hung(pulse))

    async def ready(request: Request) -> Response:
        return _probe("ready", "not ready", why_not_ready(state, pulse))

    async def expose(request: Request) -> Response:
        assert metrics is not None
        text, content_type = await metrics()
        return Response(text, headers={"Content-Type": content_type})

    routes: list[BaseRoute] = [
        Route("/health", health),
        Route("/status", status),
        Route("/live", live),
        Route("/ready", ready),
    ]
    if metrics is not None:
        routes.append(Route("/metrics", expose))
    if files is not None:
        routes.append(Mount("/files", AssetFiles(directory=files, check_dir=False)))
    if dashboard is not None:
        routes.append(Route("/", lambda request: RedirectResponse("/dashboard")))
        routes.append(Mount("/dashboard", dashboard))
    return Starlette(
        routes=routes,
        exception_handlers={HTTPException: _explainer(routes), Exception: _broken},
        lifespan=_lifespan(lifespan),
    )


def why_hung(pulse: Pulse | None) -> str | None:
    """What is wrong with the event loop, if something is."""
    if pulse is None or not pulse.is_hung():
        return None
    return f"The event loop has not turned for {pulse.silence():.0f} s."


def why_not_ready(state: RunningState, pulse: Pulse | None) -> str | None:
    """Why the process takes no work, if it does not."""
    if hung := why_hung(pulse):
        return hung
    if not state.is_running():
        return "The worker is draining: it claims no more jobs."
    if (silence := state.database_silence()) > state.lease_seconds():
        return f"The database has not answered for {silence:.0f} s, longer than a lease."
    return None


def _probe(well: str, ill: str, trouble: str | None) -> JSONResponse:
    if trouble is None:
        return JSONResponse({"status": well})
    return JSONResponse({"status": ill, "reason": trouble}, status_code=503)


def _lifespan(
    make: Callable[[], contextlib.AbstractAsyncContextManager[None]] | None,
) -> Callable[[Starlette], contextlib.AbstractAsyncContextManager[None]]:
    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            if make is not None:
                await stack.enter_async_context(make())
            yield

    return lifespan


def _as_json(worker: WorkerStatus) -> dict[str, Any]:
    return {
        "name": worker.name,
        "isRunning": worker.is_running,
        "activeJobs": worker.active_jobs,
        "maxConcurrentJobs": worker.max_concurrent_jobs,
        "provider": worker.provider,
        "features": list(worker.features),
    }


class AssetFiles(StaticFiles):
    """Serves assets, with ranges, and lets no browser take one for a page."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Content-Security-Policy"] = "sandbox; default-src 'none'; media-src 'self'"
        return response


def _explainer(routes: Sequence[BaseRoute]) -> Callable[[Request, Exception], Awaitable[Response]]:
    paths = [str(route.path) for route in routes if isinstance(route, Route | Mount) and route.path != "/"]
    known = f"{', '.join(paths[:-1])} and {paths[-1]}"

    async def explain(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        text = error.detail
        if error.status_code == 404 and not request.url.path.startswith("/files/"):
            text = f"{request.url.path} does not exist. There are {known}."
        elif error.status_code == 405:
            text = f"{request.url.path} does not take {request.method}."
        return JSONResponse({"error": text}, status_code=error.status_code, headers=error.headers)

    return explain


async def _broken(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return JSONResponse({"error": "The server failed; its log says how."}, status_code=500)
