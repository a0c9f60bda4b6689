"""fal: images, video and lip sync through its queue API (submit, poll, fetch the result).

Uses the official SDK (`fal_client.AsyncClient`) on a transport of our own, for two reasons. The SDK sends a
POST again by itself when an answer is lost, and pays twice; and it knows no base URL. Our transport answers
for both: it raises errors that the SDK does not retry, so that at most one POST ever leaves for a submit, and
it sends to FAL_QUEUE_URL.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Self
from uuid import uuid4

import httpx

from dreamcuts.config import Settings
from dreamcuts.errors import ErrorClass, ProviderError
from dreamcuts.providers.base import Done, Pending, Ticket
from dreamcuts.providers.fal_transport import TIMEOUT_S, Answered, FalClient, NoAnswer
from dreamcuts.providers.redaction import redact
from dreamcuts.providers.rules import (
    REQUEST_GONE,
    Answer,
    Rule,
    decide,
    provider_error,
    transport_error,
)

RATE_LIMIT_WAIT_S = 5.0
"""fal promises no Retry-After with a 429."""

REFUSALS = ("content_policy_violation",)
MODEL_TROUBLE = (
    "no_media_generated",  # often at random: the same model is tried once more before the next
    "internal_server_error",
    "generation_timeout",
    "downstream_service_error",
    "downstream_service_unavailable",
)
RUNNER_TROUBLE = (
    "request_timeout",
    "startup_timeout",
    "runner_scheduling_failure",
    "runner_connection_timeout",
    "runner_disconnected",
    "runner_connection_refused",
    "runner_connection_error",
    "runner_incomplete_response",
    "runner_server_error",
    "internal_error",
)
OUR_URLS = ("file_download_error", "image_load_error")
MODEL_LIMITS = (
    "image_too_small",
    "image_too_large",
    "file_too_large",
    "unsupported_image_format",
    "unsupported_audio_format",
    "unsupported_video_format",
    "video_duration_too_long",
    "video_duration_too_short",
    "audio_duration_too_long",
    "audio_duration_too_short",
    "face_detection_error",
    "feature_not_supported",
)
BAD_INPUT = (
    "missing",
    "greater_than",
    "greater_than_equal",
    "less_than",
    "less_than_equal",
    "multiple_of",
    "sequence_too_short",
    "sequence_too_long",
    "one_of",
    "value_error",
    "literal_error",
)

RULES: tuple[Rule, ...] = (
    # fal docs, "Model Errors", "Request Error Types", "Queue". First match wins.
    Rule(ErrorClass.CONTENT_REJECTED, (), REFUSALS, try_next=True),
    Rule(ErrorClass.TRANSIENT, (), MODEL_TROUBLE, try_next=True),
    Rule(ErrorClass.TRANSIENT, (), RUNNER_TROUBLE, try_next=True),
    Rule(ErrorClass.TRANSIENT, (499,), ("client_cancelled", "client_disconnected")),
    Rule(ErrorClass.TRANSIENT, (499,)),
    Rule(ErrorClass.TRANSIENT, (), OUR_URLS),
    Rule(ErrorClass.INVALID_REQUEST, (), MODEL_LIMITS, try_next=True),
    Rule(ErrorClass.INVALID_REQUEST, (), BAD_INPUT, try_next=True),
    Rule(ErrorClass.INVALID_REQUEST, (400,), ("bad_request",)),
    Rule(ErrorClass.QUOTA, (402,)),
    Rule(ErrorClass.QUOTA, (403,), text=("exhausted", "balance", "top up", "billing", "locked")),
    Rule(ErrorClass.AUTH, (401, 403)),
    Rule(ErrorClass.RATE_LIMITED, (429,)),
    Rule(ErrorClass.INVALID_REQUEST, (404, 405, 410), try_next=True),  # the endpoint is gone
    Rule(ErrorClass.INVALID_REQUEST, (422,), try_next=True),
    Rule(ErrorClass.TRANSIENT, (408, 409, 425)),
    Rule(ErrorClass.INVALID_REQUEST, (400, 413, 415)),
    Rule(ErrorClass.TRANSIENT, (500, 502, 503, 504)),
)


class FalProvider:
    """fal's queue. `submit`, `poll` and `cancel` are those of QueuedProvider."""

    name: ClassVar[str] = "fal"
    settings_needed: ClassVar[tuple[str, ...]] = ("FAL_KEY",)
    answers_within_s: ClassVar[float] = TIMEOUT_S

    def __init__(self, client: FalClient, *, secrets: tuple[str, ...]) -> None:
        self._client = client
        self._secrets = secrets

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Make the provider for FAL_QUEUE_URL, with FAL_KEY."""
        key = settings.secret("FAL_KEY")
        return cls(FalClient(key, settings.fal_queue_url), secrets=(key,))

    async def aclose(self) -> None:
        """Close the provider's connections."""
        await self._client.aclose()

    async def submit(self, endpoint: str, request: dict[str, Any]) -> Ticket:
        """Send the request, once. Raises ProviderError, with `outcome_unknown` if it may have arrived."""
        label = f"fal {endpoint}"
        async with self._errors(label):
            handle = await self._client.submit(endpoint, request)
            urls = {
                "statusUrl": handle.status_url,
                "responseUrl": handle.response_url,
                "cancelUrl": handle.cancel_url,
            }
            return Ticket(handle.request_id, urls)
        raise AssertionError("unreachable")

    async def poll(self, endpoint: str, ticket: Ticket) -> Pending | Done:
        """Ask once how the request stands. An error with `outcome_unknown` means that asking failed."""
        from fal_client import Completed, Queued

        label = f"fal {endpoint}"
        async with self._errors(label, asking=True):
            handle = await self._client.handle(endpoint, ticket)
            status = await handle.status(with_logs=False)
            if isinstance(status, Queued):
                return Pending(f"queue position {status.position}")
            if not isinstance(status, Completed):
                return Pending("in progress")
        try:
            response = await self._client.result(handle)
        except Answered as answer:
            if _not_ready(answer):
                return Pending("in progress")
            raise self._from_result(label, answer) from None
        except NoAnswer as error:
            raise self._unanswered(label, error) from None
        except Exception as error:
            raise self._unexpected(label, error) from error
        output = _json(response)
        if not isinstance(output, dict):
            raise self._unexpected(label, ValueError("the result is no JSON object"))
        return Done(output, _units(response.headers))

    async def cancel(self, endpoint: str, ticket: Ticket) -> None:
        """Ask fal to drop the request. Never raises: it may have been finished or forgotten already."""
        try:
            handle = await self._client.handle(endpoint, ticket)
            await handle.cancel()
        except Exception:
            return

    async def check(self) -> str:
        """Ask for a request that does not exist: says whether the key is accepted, and costs nothing."""
        try:
            await self.poll("fal-ai/flux", Ticket(str(uuid4())))
        except ProviderError as error:
            if error.code != REQUEST_GONE:
                raise
        return "the key is accepted"

    @asynccontextmanager
    async def _errors(self, label: str, *, asking: bool = False) -> AsyncIterator[None]:
        try:
            yield
        except Answered as answer:
            raise self._from_answer(label, answer, asking=asking, submitting=not asking) from None
        except NoAnswer as error:
            raise self._unanswered(label, error, asking=asking) from None
        except Exception as error:
            raise self._unexpected(label, error) from error

    def _from_result(self, label: str, answer: Answered) -> ProviderError:
        """An error answer to the result GET: the request failed, unless only the asking did."""
        code, _ = parse_error(answer)
        asking = answer.status in (401, 403, 404, 408, 425, 429) or (
            answer.status >= 500 and code is None and "x-fal-request-id" not in answer.headers
        )
        return self._from_answer(label, answer, asking=asking)

    def _from_answer(
        self, label: str, answer: Answered, *, asking: bool, submitting: bool = False
    ) -> ProviderError:
        code, message = parse_error(answer)
        gone = asking and answer.status == 404
        rule = decide(RULES, status=answer.status, code=code, message=message)
        retryable = answer.headers.get("x-fal-retryable", "").lower()
        if gone:
            rule = Rule(ErrorClass.TRANSIENT)
        elif retryable == "true" and rule.error_class is ErrorClass.INVALID_REQUEST:
            rule = Rule(ErrorClass.TRANSIENT, try_next=True)
        elif retryable == "false" and rule.error_class is ErrorClass.TRANSIENT:
            rule = Rule(ErrorClass.INVALID_REQUEST, try_next=True)
        return provider_error(
            self.name,
            label,
            Answer(answer.status, answer.headers, REQUEST_GONE if gone else code, message, answer.body),
            rule,
            secrets=self._secrets,
            default_retry_after=RATE_LIMIT_WAIT_S if answer.status == 429 else None,
            # A gateway's 5xx to a submit does not say whether the request was queued.
            outcome_unknown=not gone and (asking or (submitting and answer.status >= 500)),
        )

    def _unanswered(self, label: str, error: NoAnswer, *, asking: bool = True) -> ProviderError:
        return transport_error(
            self.name, label, error.cause, sent=asking or error.sent, secrets=self._secrets
        )

    def _unexpected(self, label: str, error: Exception) -> ProviderError:
        """An answer that the SDK could not read: what it stands for is not known."""
        text = redact(str(error), self._secrets)
        return ProviderError(
            f"{label} could not be read ({type(error).__name__}: {text})",
            provider=self.name,
            error_class=ErrorClass.TRANSIENT,
            outcome_unknown=True,
        )


def parse_error(answer: Answered) -> tuple[str | None, str]:
    """`(code, message)` of an error answer: the first model error's type, or the infrastructure's error type.

    fal docs: match the type, never the message.
    """
    body = answer.body
    detail = body.get("detail", body) if isinstance(body, dict) else body
    code = body.get("error_type") if isinstance(body, dict) else None
    code = code or answer.headers.get("x-fal-error-type") or None
    if isinstance(detail, list):
        issues = [issue for issue in detail if isinstance(issue, dict)]
        messages = []
        for issue in issues:
            where = ".".join(str(part) for part in issue.get("loc", ()))
            messages.append(f"{where}: {issue.get('msg', '')}" if where else str(issue.get("msg", "")))
        if issues and issues[0].get("type"):
            code = str(issues[0]["type"])
        return code, "; ".join(messages)
    return code, detail if isinstance(detail, str) else str(detail)


def _not_ready(answer: Answered) -> bool:
    return answer.status == 400 and "still in progress" in str(answer.body).lower()


def _units(headers: Mapping[str, str]) -> float | None:
    try:
        units = float(headers.get("x-fal-billable-units", ""))
    except ValueError:
        return None
    return units if 0 <= units < float("inf") else None


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None
