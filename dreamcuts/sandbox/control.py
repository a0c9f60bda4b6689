"""The sandbox's own endpoints under `/_sandbox`: faults, bills, the request log, options.

GET | POST | DELETE /_sandbox/faults      the rules in force; add one or a list; drop all
GET | DELETE        /_sandbox/billing     bills and totals
GET | DELETE        /_sandbox/requests    the request log; ?provider=fal&method=POST&path=...
GET | POST          /_sandbox/options     speed, fal_queue_seconds, elevenlabs_concurrency, music_concurrency
GET                 /_sandbox/health      {"status": "ok"}
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from dreamcuts.sandbox.faults import Rule
from dreamcuts.sandbox.state import SandboxState

_RULES: TypeAdapter[Rule | list[Rule]] = TypeAdapter(Rule | list[Rule])


def routes(state: SandboxState) -> list[BaseRoute]:
    """The routes below `/_sandbox`."""

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def faults(request: Request) -> Response:
        if request.method == "DELETE":
            state.faults.clear()
        elif request.method == "POST":
            try:
                given = _RULES.validate_json(await request.body())
            except ValidationError as error:
                problems = [
                    {"field": ".".join(map(str, issue["loc"])), "problem": issue["msg"]}
                    for issue in error.errors(include_url=False, include_input=False, include_context=False)
                ]
                return JSONResponse({"error": "The fault rule is not valid.", "problems": problems}, 400)
            for rule in given if isinstance(given, list) else [given]:
                state.faults.add(rule)
        return JSONResponse({"rules": [rule.model_dump() for rule in state.faults.rules()]})

    async def billing(request: Request) -> Response:
        if request.method == "DELETE":
            state.billing.clear()
        return JSONResponse(state.billing.report())

    async def requests(request: Request) -> Response:
        if request.method == "DELETE":
            state.requests.clear()
        query = request.query_params
        found = state.requests.entries(query.get("provider"), query.get("method"), query.get("path", ""))
        return JSONResponse({"requests": [asdict(entry) for entry in found]})

    async def options(request: Request) -> Response:
        if request.method == "POST":
            problem = _change_options(state, await request.json())
            if problem:
                return JSONResponse({"error": problem}, 400)
        return JSONResponse(asdict(state.options))

    return [
        Route("/health", health),
        Route("/faults", faults, methods=["GET", "POST", "DELETE"]),
        Route("/billing", billing, methods=["GET", "DELETE"]),
        Route("/requests", requests, methods=["GET", "DELETE"]),
        Route("/options", options, methods=["GET", "POST"]),
    ]


def _change_options(state: SandboxState, given: Any) -> str:
    """Set the options given; returns what is wrong, or an empty string."""
    known = asdict(state.options)
    if not isinstance(given, dict) or not set(given) <= set(known):
        return f"Send an object with some of {', '.join(known)}."
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            return f"{name} must be a number of at least 0, not {value!r}."
        if name == "speed" and value == 0:
            return "speed must be more than 0."
    for name, value in given.items():
        setattr(state.options, name, type(known[name])(value))
    return ""
