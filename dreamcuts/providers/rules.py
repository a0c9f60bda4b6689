"""From a provider's answer to an ErrorClass: tables that a reader can check, and what all providers share.

Each provider module has a table of rules; the first that matches an answer decides. An answer that no rule
knows is transient, with its body kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from dreamcuts.errors import ErrorClass, ProviderError
from dreamcuts.providers.redaction import kept_body, redact

REQUEST_GONE = "request_gone"
"""`ProviderError.code` of a poll for a request that the provider no longer knows: submit it anew."""

MAX_RETRY_AFTER_S = 3_600.0
_MESSAGE_CHARS = 300


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of a table. Matches when the status is listed (none listed: any) and the code is (likewise).

    `text` further asks that the answer's message contains one of these words (lower case).
    """

    error_class: ErrorClass
    status: tuple[int, ...] = ()
    code: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    try_next: bool = False

    def matches(self, status: int | None, code: str | None, message: str) -> bool:
        """Whether this row decides an answer."""
        return (
            (not self.status or status in self.status)
            and (not self.code or code in self.code)
            and (not self.text or any(word in message.lower() for word in self.text))
        )


UNKNOWN = Rule(ErrorClass.TRANSIENT)


def decide(rules: Sequence[Rule], *, status: int | None, code: str | None, message: str) -> Rule:
    """The first rule that matches; UNKNOWN if none does."""
    return next((rule for rule in rules if rule.matches(status, code, message)), UNKNOWN)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The answer's Retry-After in seconds (RFC 9110, 10.2.3: seconds or a date), at most an hour, or None.

    A date is one of the server's clock, and counts from the answer's own Date: our clock may be wrong.
    """
    known = {name.lower(): text.strip() for name, text in headers.items()}
    value = known.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        until, sent = _timestamp(value), _timestamp(known.get("date", ""))
        if until is None or sent is None:
            return None
        seconds = until - sent
    if seconds != seconds:  # NaN
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)


def _timestamp(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None


@dataclass(frozen=True, slots=True)
class Answer:
    """An error answer of a provider, taken apart: what the tables look at, and what is kept."""

    status: int | None
    headers: Mapping[str, str]
    code: str | None
    message: str
    body: Any


def provider_error(
    provider: str,
    label: str,
    answer: Answer,
    rule: Rule,
    *,
    secrets: Iterable[str] = (),
    default_retry_after: float | None = None,
    outcome_unknown: bool = False,
    extra: Mapping[str, Any] | None = None,
) -> ProviderError:
    """The ProviderError for an answer. `label` names provider and call for people, e.g. "fal flux"."""
    secrets = tuple(secrets)
    wait = retry_after(answer.headers)
    message = redact(answer.message.strip() or "no message", secrets)
    if len(message) > _MESSAGE_CHARS:
        message = message[: _MESSAGE_CHARS - 1] + "…"
    where = f"HTTP {answer.status}" if answer.status else "an error"
    code = f" {answer.code}" if answer.code else ""
    return ProviderError(
        f"{label} answered {where}{code}: {message}",
        provider=provider,
        error_class=rule.error_class,
        status=answer.status,
        code=answer.code,
        retry_after=default_retry_after if wait is None else wait,
        try_next=rule.try_next,
        outcome_unknown=outcome_unknown,
        detail={"body": kept_body(answer.body, secrets), **(extra or {})},
    )


def transport_error(
    provider: str, label: str, error: Exception, *, sent: bool, secrets: Iterable[str] = ()
) -> ProviderError:
    """The ProviderError for a request without an answer. `sent`: it may have reached the provider."""
    text = redact(str(error), secrets)
    what = type(error).__name__ + (f": {text}" if text else "")
    state = "gave no answer; the request may have been carried out" if sent else "could not be reached"
    return ProviderError(
        f"{label} {state} ({what})",
        provider=provider,
        error_class=ErrorClass.TRANSIENT,
        outcome_unknown=sent,
    )
