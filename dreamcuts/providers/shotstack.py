"""Shotstack: the final render, through its Edit API (submit, poll).

There is no SDK worth having for two calls: plain httpx. The endpoint of a request is the API's environment,
`stage` or `v1`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self
from uuid import uuid4

import httpx

from dreamcuts.config import Settings
from dreamcuts.errors import ErrorClass, InvalidRequest, ProviderError
from dreamcuts.providers.base import Done, Pending, Ticket
from dreamcuts.providers.rules import (
    REQUEST_GONE,
    Answer,
    Rule,
    decide,
    provider_error,
    transport_error,
)

ENVIRONMENTS = ("stage", "v1")
RATE_WINDOW_S = 60.0
"""Shotstack docs, "Limitations": limits are per key and per fixed window of a minute."""
TIMEOUT_S = 60.0
TIMEOUT = httpx.Timeout(TIMEOUT_S, connect=10.0)

RULES: tuple[Rule, ...] = (
    # Shotstack docs, "Limitations" and "General FAQ", and its OpenAPI definition. First match wins.
    Rule(ErrorClass.QUOTA, (402,)),
    Rule(ErrorClass.QUOTA, (403,), text=("credit", "subscription", "plan limit")),
    Rule(ErrorClass.AUTH, (401, 403)),
    Rule(ErrorClass.RATE_LIMITED, (429,)),
    Rule(ErrorClass.TRANSIENT, (408, 409, 425)),
    Rule(ErrorClass.INVALID_REQUEST, (400, 404, 405, 413, 415, 422)),
    Rule(ErrorClass.TRANSIENT, (500, 502, 503, 504)),
)

RENDER_RULES: tuple[Rule, ...] = (
    # A render that ended as `failed`, by its error text. The first words are those of Shotstack's own CLI.
    Rule(
        ErrorClass.TRANSIENT,
        text=(
            "temporar",
            "try again",
            "timed out",
            "time out",
            "timeout",
            "too many requests",
            "unavailable",
            "throttl",
        ),
    ),
    # An asset's URL may have expired: the next attempt writes them anew.
    Rule(ErrorClass.TRANSIENT, text=("could not fetch", "could not be fetched", "download", "fetch")),
    Rule(ErrorClass.INVALID_REQUEST, text=("invalid asset", "unsupported", "validation", "invalid")),
)


class ShotstackProvider:
    """Shotstack's Edit API. `submit`, `poll` and `cancel` are those of QueuedProvider."""

    name: ClassVar[str] = "shotstack"
    settings_needed: ClassVar[tuple[str, ...]] = ("SHOTSTACK_API_KEY",)
    cancels: ClassVar[bool] = False
    answers_within_s: ClassVar[float] = TIMEOUT_S

    def __init__(self, http: httpx.AsyncClient, *, secrets: tuple[str, ...]) -> None:
        self._http = http
        self._secrets = secrets

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Make the provider for SHOTSTACK_BASE_URL, with SHOTSTACK_API_KEY."""
        key = settings.secret("SHOTSTACK_API_KEY")
        http = httpx.AsyncClient(
            base_url=settings.shotstack_base_url.rstrip("/") + "/",
            headers={"x-api-key": key, "Accept": "application/json"},
            timeout=TIMEOUT,
        )
        return cls(http, secrets=(key,))

    async def aclose(self) -> None:
        """Close the provider's connections."""
        await self._http.aclose()

    async def submit(self, endpoint: str, request: dict[str, Any]) -> Ticket:
        """Send an edit to render, once. The error has `outcome_unknown` if it may have arrived."""
        label = "Shotstack render"
        response = await self._send("POST", f"edit/{_environment(endpoint)}/render", label, json=request)
        if response.status_code >= 300:
            raise self._from_answer(label, response)
        request_id = _inner(response).get("id")
        if not isinstance(request_id, str) or not request_id:
            raise transport_error(self.name, label, ValueError("the answer has no id"), sent=True)
        return Ticket(request_id)

    async def poll(self, endpoint: str, ticket: Ticket) -> Pending | Done:
        """Ask once how the render stands. An error with `outcome_unknown` means that asking failed."""
        label = f"Shotstack render {ticket.request_id}"
        path = f"edit/{_environment(endpoint)}/render/{ticket.request_id}"
        response = await self._send("GET", path, label, params={"data": "false"})
        if response.status_code >= 300:
            raise self._from_answer(label, response, asking=True)
        render = _inner(response)
        status = render.get("status")
        if status == "done":
            return Done(render)
        if status != "failed":
            return Pending(str(status or "queued"))
        message = str(render.get("error") or "no reason given")
        rule = decide(RENDER_RULES, status=None, code=None, message=message)
        raise provider_error(
            self.name, label, Answer(None, {}, "failed", message, render), rule, secrets=self._secrets
        )

    async def cancel(self, endpoint: str, ticket: Ticket) -> None:
        """Shotstack has no call to cancel a render: it runs to its end."""

    async def check(self) -> str:
        """Ask for a render that does not exist: says which environments take the key, and costs nothing."""
        accepted: list[str] = []
        refusal: ProviderError | None = None
        for environment in ENVIRONMENTS:
            label = f"Shotstack {environment}"
            response = await self._send("GET", f"edit/{environment}/render/{uuid4()}", label)
            if response.status_code in (200, 404):
                accepted.append(environment)
            else:
                refusal = self._from_answer(label, response)
        if not accepted and refusal is not None:
            raise refusal
        return f"the key is accepted for {' and '.join(accepted)}"

    async def _send(self, method: str, path: str, label: str, **arguments: Any) -> httpx.Response:
        try:
            return await self._http.request(method, path, **arguments)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            asking = method == "GET"
            raise transport_error(self.name, label, error, sent=asking, secrets=self._secrets) from None
        except httpx.HTTPError as error:
            raise transport_error(self.name, label, error, sent=True, secrets=self._secrets) from None

    def _from_answer(self, label: str, response: httpx.Response, *, asking: bool = False) -> ProviderError:
        body = _json(response)
        gone = asking and response.status_code == 404
        message, code = parse_error(body)
        rule = decide(RULES, status=response.status_code, code=code, message=message)
        return provider_error(
            self.name,
            label,
            Answer(response.status_code, response.headers, REQUEST_GONE if gone else code, message, body),
            Rule(ErrorClass.TRANSIENT) if gone else rule,
            secrets=self._secrets,
            default_retry_after=RATE_WINDOW_S if response.status_code == 429 else None,
            outcome_unknown=asking and not gone,
        )


def parse_error(body: Any) -> tuple[str, str | None]:
    """`(message, code)` of an error body; a validation error's message names each field."""
    if not isinstance(body, dict):
        return str(body), None
    inner = body.get("response")
    details = inner.get("details") if isinstance(inner, dict) else None
    if isinstance(details, list) and details:
        messages = [
            str(issue.get("message", issue)) if isinstance(issue, dict) else str(issue) for issue in details
        ]
        return "; ".join(messages), str(inner.get("error") or "ValidationError") if isinstance(
            inner, dict
        ) else None
    error = body.get("error")
    code = body.get("code") or body.get("type") or (error.get("type") if isinstance(error, dict) else None)
    text = (
        error if isinstance(error, str) else body.get("message") or (inner if isinstance(inner, str) else "")
    )
    if isinstance(error, dict):
        text = error.get("message") or text
    return str(text or body), str(code) if code else None


def _environment(endpoint: str) -> str:
    if endpoint not in ENVIRONMENTS:
        raise InvalidRequest(
            f"Shotstack has no environment {endpoint!r}; there are: {', '.join(ENVIRONMENTS)}."
        )
    return endpoint


def _inner(response: httpx.Response) -> dict[str, Any]:
    body = _json(response)
    inner = body.get("response") if isinstance(body, dict) else None
    return inner if isinstance(inner, dict) else {}


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return response.text
