"""The routes of the health server.

    GET /health        {"status", "timestamp", "uptime" (ms), "workers", "activeWorkers", "totalActiveJobs"}
    GET /status        {"isRunning", "totalWorkers", "workers": [{"name", "isRunning", "activeJobs",
                        "maxConcurrentJobs", "provider", "features"}]}
    GET /files/PATH    the assets, when they are kept in a local folder

A "worker" here is what serves one job type, as the product's founding document has it. /health answers 503
with status "stopping" once the process claims no more, so that a load balancer lets it go.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from dreamcuts.worker.status import WorkerStatus


class RunningState(Protocol):
    """What the health server asks of its process. Must answer at once, without the database."""

    def is_running(self) -> bool:
        """False once the process claims no more jobs."""
        ...

    def worker_statuses(self) -> Sequence[WorkerStatus]:
        """One entry for each job type that the process serves."""
        ...


def make_app(state: RunningState, files: Path | None = None) -> Starlette:
    """The application; `files` is the folder that /files serves, if any."""
    started = time.monotonic()

    async def health(request: Request) -> Response:
        running, workers = state.is_running(), state.worker_statuses()
        body = {
            "status": "healthy" if running else "stopping",
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "uptime": int((time.monotonic() - started) * 1000),
            "workers": len(workers),
            "activeWorkers": sum(worker.is_running for worker in workers),
            "totalActiveJobs": sum(worker.active_jobs for worker in workers),
        }
        return JSONResponse(body, status_code=200 if running else 503)

    async def status(request: Request) -> Response:
        workers = state.worker_statuses()
        body = {
            "isRunning": state.is_running(),
            "totalWorkers": len(workers),
            "workers": [_as_json(worker) for worker in workers],
        }
        return JSONResponse(body)

    routes: list[BaseRoute] = [Route("/health", health), Route("/status", status)]
    if files is not None:
        routes.append(Mount("/files", AssetFiles(directory=files, check_dir=False)))
    return Starlette(routes=routes, exception_handlers={HTTPException: _explain})


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


async def _explain(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = error.detail
    if error.status_code == 404 and not request.url.path.startswith("/files/"):
        text = f"{request.url.path} does not exist. There are /health and /status."
    return JSONResponse({"error": text}, status_code=error.status_code, headers=error.headers)
