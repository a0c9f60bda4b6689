"""Shotstack's Edit API: submit an edit, ask how far it is, find the result (Shotstack docs).

A render really is one: sources are fetched, the edit is composed, an MP4 is written. Stages last as long as
their work does. `stage` costs nothing, `v1` a credit a minute, billed once when a render is accepted. There
is no watermark on `stage`. Ids of one environment are unknown in the other.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from dreamcuts.sandbox.render import Rendered, Renderer, RenderFailed
from dreamcuts.sandbox.render_plan import PlanError, settle_times
from dreamcuts.sandbox.shotstack_errors import bad_request, detail, error_details
from dreamcuts.sandbox.shotstack_schema import Edit
from dreamcuts.sandbox.state import SandboxState, base_url

_log = logging.getLogger("dreamcuts.sandbox")

ENVIRONMENTS = ("stage", "v1")
EDIT_LIMITS = {"stage": 150, "v1": 300}
SERVE_LIMITS = {"stage": 300, "v1": 600}
"""Requests a key may make in a window of 60 s (Shotstack docs, Limitations)."""
USD_PER_CREDIT = 0.30
"""A credit is a minute of output, counted by the second, or ten stills; its price depends on the plan."""
RENDERS_AT_ONCE = 2
OWNER = "sandbox00"


@dataclass(slots=True)
class RateWindow:
    """A fixed window of 60 s in which a key may make `limit` requests."""

    limit: int
    clock: Callable[[], float] = time.monotonic
    _began: float = -math.inf
    _count: int = 0

    def admits(self) -> bool:
        """Count a request; False when it is one too many."""
        now = self.clock()
        if now - self._began >= 60:
            self._began, self._count = now, 0
        self._count += 1
        return self._count <= self.limit


@dataclass(slots=True)
class _Render:
    """One accepted render."""

    id: str
    environment: str
    raw: Any
    edit: Edit
    base: str
    status: str = "queued"
    error: str = ""
    result: Rendered | None = None
    created: str = field(default_factory=lambda: _now())
    updated: str = field(default_factory=lambda: _now())
    milliseconds: float = 0.0

    def advance(self, status: str) -> None:
        self.status, self.updated = status, _now()


def routes(state: SandboxState) -> list[BaseRoute]:
    """The routes of the Edit API and of the Serve API's one call that finds a render's file."""
    api = Shotstack(state)
    return [
        Route("/edit/{environment}/render", api.submit, methods=["POST"]),
        Route("/edit/{environment}/render/{id}", api.status, methods=["GET"]),
        Route("/serve/{environment}/assets/render/{id}", api.assets, methods=["GET"]),
    ]


class Shotstack:
    """The renders of one sandbox."""

    def __init__(self, state: SandboxState) -> None:
        self._state = state
        self._renders: dict[str, _Render] = {}
        self._turns = asyncio.Semaphore(RENDERS_AT_ONCE)
        self._renderer = Renderer(state.temp, state.new_file, state.media_slots)
        self._edit_windows = {name: RateWindow(limit) for name, limit in EDIT_LIMITS.items()}
        self._serve_windows = {name: RateWindow(limit) for name, limit in SERVE_LIMITS.items()}

    async def submit(self, request: Request) -> Response:
        """Validate an edit, bill it and start its render."""
        if (refusal := self._refuse(request, self._edit_windows)) is not None:
            return refusal
        body = await request.body()
        try:
            raw = json.loads(body)
        except ValueError as error:
            return JSONResponse(bad_request([detail([], f"is not valid JSON: {error}", "object.base")]), 400)
        try:
            edit = Edit.model_validate(merged(raw))
            seconds = _known_seconds(edit)
        except ValidationError as error:
            return JSONResponse(bad_request(error_details(error)), 400)
        except PlanError as error:
            return JSONResponse(bad_request([detail(["timeline"], str(error), "any.invalid")]), 400)
        environment = request.path_params["environment"]
        render = _Render(str(uuid.uuid4()), environment, raw, edit, base_url(request))
        self._renders[render.id] = render
        self._bill(render, seconds, body)
        self._state.spawn(self._run(render))
        response = {"message": "Render Successfully Queued", "id": render.id}
        return JSONResponse({"success": True, "message": "Created", "response": response}, 201)

    async def status(self, request: Request) -> Response:
        """How far a render is, with the URL of its result once it is done."""
        if (refusal := self._refuse(request, self._edit_windows)) is not None:
            return refusal
        render = self._find(request)
        if render is None:
            return _not_found()
        answer = self._describe(render, base_url(request))
        if request.query_params.get("data", "true") != "false":
            merge = request.query_params.get("merged") == "true"
            answer["data"] = merged(render.raw) if merge else render.raw
        return JSONResponse({"success": True, "message": "OK", "response": answer})

    async def assets(self, request: Request) -> Response:
        """The hosted files of a finished render, as the Serve API lists them."""
        if (refusal := self._refuse(request, self._serve_windows)) is not None:
            return refusal
        render = self._find(request)
        if render is None or render.result is None:
            return _not_found()
        path = render.result.path
        attributes = {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, path.name)),
            "owner": OWNER,
            "region": "au",
            "renderId": render.id,
            "filename": path.name,
            "url": self._state.file_url(base_url(request), path),
            "status": "ready",
            "created": render.created,
            "updated": render.updated,
        }
        return JSONResponse({"data": [{"type": "asset", "attributes": attributes}]})

    def _refuse(self, request: Request, windows: dict[str, RateWindow]) -> Response | None:
        """The answer to a request without the key (or to no environment), or to one too many."""
        environment = request.path_params["environment"]
        key = request.headers.get("x-api-key")
        if environment not in ENVIRONMENTS or key != self._state.keys.shotstack:
            return JSONResponse({"message": "Forbidden"}, 403)
        if windows[environment].admits():
            return None
        text = f"Rate limit of {windows[environment].limit} requests per minute exceeded"
        error = {"type": "rate_limit_error", "message": text}
        return JSONResponse({"success": False, "message": "Too Many Requests", "error": error}, 429)

    def _find(self, request: Request) -> _Render | None:
        render = self._renders.get(request.path_params["id"])
        return render if render and render.environment == request.path_params["environment"] else None

    def _describe(self, render: _Render, base: str) -> dict[str, Any]:
        answer: dict[str, Any] = {
            "id": render.id,
            "owner": OWNER,
            "plan": "sandbox",
            "status": render.status,
            "error": render.error,
            "created": render.created,
            "updated": render.updated,
        }
        if render.status == "done" and render.result is not None:
            result = render.result
            answer |= {
                "duration": result.duration,
                "renderTime": render.milliseconds,
                "url": self._state.file_url(base, result.path),
                "poster": self._state.file_url(base, result.poster) if result.poster else None,
                "thumbnail": self._state.file_url(base, result.thumbnail) if result.thumbnail else None,
            }
        return answer

    def _bill(self, render: _Render, seconds: float, body: bytes) -> None:
        still = render.edit.output.format in ("jpg", "png", "bmp")
        credit = 0.1 if still else math.ceil(seconds) / 60
        self._state.billing.record(
            "shotstack",
            f"edit/{render.environment}/render",
            render.id,
            units=credit,
            unit="credit",
            usd=credit * USD_PER_CREDIT if render.environment == "v1" else 0.0,
            body=body,
        )

    async def _run(self, render: _Render) -> None:
        async def on_stage(stage: str) -> None:
            render.advance(stage)

        began = time.monotonic()
        try:
            async with self._turns:
                began = time.monotonic()
                render.result = await self._renderer.render(render.edit, on_stage)
            render.milliseconds = round((time.monotonic() - began) * 1000, 2)
            render.advance("done")
        except RenderFailed as error:
            render.error = str(error)
            render.advance("failed")
        except Exception:
            _log.exception("The sandbox could not render %s", render.id)
            render.error = "Internal error: the sandbox could not render this edit; its log says why"
            render.advance("failed")
        if render.edit.callback:
            await self._call_back(render, render.edit.callback)

    async def _call_back(self, render: _Render, url: str) -> None:
        """Tell the edit's callback how it ended; twice more when it does not answer 200 to 399."""
        described = self._describe(render, render.base)
        message = {
            "type": "edit",
            "action": "render",
            "id": render.id,
            "owner": OWNER,
            "status": render.status,
            "url": described.get("url"),
            "error": render.error or None,
            "completed": render.updated,
        }
        async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
            for wait in (0.0, 1.0, 4.0):
                await self._state.wait(wait)
                try:
                    if 200 <= (await client.post(url, json=message)).status_code < 400:
                        return
                except httpx.HTTPError:
                    continue


def merged(raw: Any) -> Any:
    """An edit with its merge fields put in: `{{find}}` in every string becomes what replaces it."""
    fields = raw.get("merge") if isinstance(raw, dict) else None
    if not isinstance(fields, list):
        return raw
    values = {
        "{{" + field["find"] + "}}": field["replace"]
        for field in fields
        if isinstance(field, dict) and isinstance(field.get("find"), str) and "replace" in field
    }

    def replace(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: item if key == "merge" else replace(item) for key, item in value.items()}
        if isinstance(value, list):
            return [replace(item) for item in value]
        if not isinstance(value, str) or "{{" not in value:
            return value
        if value in values:
            return values[value]
        for find, put in values.items():
            value = value.replace(find, str(put))
        return value

    return replace(raw)


def _known_seconds(edit: Edit) -> float:
    """The output's length as far as the edit itself tells; a clip of length "auto" counts 3 s."""
    _, total = settle_times(edit, {})
    wanted = edit.output.range
    if wanted is None:
        return total
    rest = max(0.0, total - wanted.start)
    return rest if wanted.length is None else min(rest, wanted.length)


def _not_found() -> Response:
    return JSONResponse(
        {"success": False, "message": "Not Found", "response": {"error": "Render not found"}}, 404
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
