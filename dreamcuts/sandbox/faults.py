"""Faults that the sandbox is told to have.

Two ways to ask for one. *Rules* are sent to `POST /_sandbox/faults` and act on the HTTP level:

    {"provider": "fal", "match": "/fal-ai/flux/srpo", "times": 2,
     "fault": {"kind": "status", "status": 429, "headers": {"Retry-After": "3"}, "body": {"detail": "slow"}}}

`match` is a substring of the path (without the provider's prefix) or of the body; `pattern` is a regular
expression searched for in "METHOD /path"; `method` is an HTTP method. All that are given must fit. `times` is
how often the rule acts (default 1, null for ever). The first rule that fits acts. Kinds:

    status        answer with `status`, `headers` and `body` instead of carrying the request out
    hang          accept the request and answer nothing for `seconds` (default: until the client gives up)
    drop_before   close the connection without carrying the request out
    drop_after    carry the request out (and bill it), then close the connection without an answer
    delay         wait `seconds`, then go on as usual
    hold          wait until the rules are dropped (`DELETE /_sandbox/faults`), then go on as usual
    outcome       fal only, for a submit: accept it, and let its result be `status`, `headers` and `body`

*Markers* are words in a prompt or text, handy in a manifest: `sandbox:content_policy` and the others of
`FAL_MARKERS` and `ELEVENLABS_MARKERS`. They act every time.
"""

from __future__ import annotations

import itertools
import re
import threading
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

Kind = Literal["status", "hang", "drop_before", "drop_after", "delay", "hold", "outcome"]
KINDS: tuple[str, ...] = get_args(Kind)


class Fault(BaseModel):
    """What happens to a request that a rule fits."""

    model_config = ConfigDict(extra="forbid")

    kind: Kind
    status: int = Field(500, ge=200, le=599)
    headers: dict[str, str] = Field(default_factory=dict)
    body: Any = None
    seconds: float | None = Field(None, ge=0)


class Rule(BaseModel):
    """Which requests a fault is for, and how often it acts."""

    model_config = ConfigDict(extra="forbid")

    id: int = 0
    provider: str | None = None
    match: str | None = None
    pattern: str | None = None
    method: str | None = None
    times: int | None = Field(1, ge=1)
    fault: Fault

    @model_validator(mode="after")
    def _check(self) -> Rule:
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except re.error as error:
                raise ValueError(f"pattern {self.pattern!r} is no regular expression: {error}") from None
        if self.fault.kind == "outcome" and self.provider != "fal":
            raise ValueError('the kind "outcome" needs "provider": "fal"')
        return self

    def fits(self, provider: str, method: str, path: str, body: bytes) -> bool:
        """Whether the rule is for this request."""
        if self.provider not in (None, provider) or (self.method or method).upper() != method:
            return False
        if self.pattern is not None and not re.search(self.pattern, f"{method} {path}"):
            return False
        return self.match is None or self.match in path or self.match.encode() in body


class Faults:
    """The rules in force. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        self._rules: list[Rule] = []
        self.cleared = 0
        """How often the rules were dropped: what was held when it was less goes on."""

    def add(self, rule: Rule) -> Rule:
        """Put a rule in force behind those that are; returns it with its id."""
        with self._lock:
            numbered = rule.model_copy(update={"id": next(self._ids)})
            self._rules.append(numbered)
            return numbered

    def clear(self) -> None:
        """Drop all rules, and let go what is held."""
        with self._lock:
            self._rules.clear()
            self.cleared += 1

    def rules(self) -> list[Rule]:
        """The rules still in force; `times` is what is left of it."""
        with self._lock:
            return list(self._rules)

    def take(self, provider: str, method: str, path: str, body: bytes) -> Fault | None:
        """The fault for this request, counted as used; None if no rule fits."""
        with self._lock:
            for index, rule in enumerate(self._rules):
                if not rule.fits(provider, method, path, body):
                    continue
                if rule.times is not None:
                    if rule.times == 1:
                        del self._rules[index]
                    else:
                        self._rules[index] = rule.model_copy(update={"times": rule.times - 1})
                return rule.fault
        return None

    def watches(self, provider: str) -> bool:
        """Whether any rule could act on a request to this provider."""
        with self._lock:
            return any(rule.provider in (None, provider) for rule in self._rules)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a marked request ends: an HTTP status, a body and headers."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


def _model_error(kind: str, message: str, *, retryable: bool, status: int = 422) -> Outcome:
    """A model error in fal's form (fal docs, Model Errors)."""
    detail = {
        "loc": ["body", "prompt"],
        "msg": message,
        "type": kind,
        "url": f"https://docs.fal.ai/errors#{kind}",
        "input": None,
    }
    return Outcome(status, {"detail": [detail]}, {"X-Fal-Retryable": str(retryable).lower()})


def _runner_error(kind: str, message: str, status: int) -> Outcome:
    """An infrastructure error in fal's form (fal docs, Request Error Types)."""
    return Outcome(status, {"detail": message, "error_type": kind}, {"X-Fal-Error-Type": kind})


def _elevenlabs_error(status: int, code: str, message: str, **more: Any) -> Outcome:
    return Outcome(
        status, {"detail": {"type": "error", "code": code, "status": code, "message": message, **more}}
    )


FAL_MARKERS: dict[str, Outcome] = {
    "sandbox:content_policy": _model_error(
        "content_policy_violation", "The prompt was flagged by a content checker.", retryable=False
    ),
    "sandbox:no_media": _model_error("no_media_generated", "No media was generated.", retryable=True),
    "sandbox:downstream": _model_error(
        "downstream_service_error", "A downstream service failed.", retryable=True, status=500
    ),
    "sandbox:runner_disconnected": _runner_error("runner_disconnected", "Runner disconnected.", 503),
}
"""Markers in a fal prompt. Besides: `sandbox:nsfw` gives a black picture and has_nsfw_concepts,
`sandbox:stuck` never starts."""

ELEVENLABS_MARKERS: dict[str, Outcome] = {
    "sandbox:busy": _elevenlabs_error(429, "system_busy", "We are experiencing heavy traffic."),
    "sandbox:quota": _elevenlabs_error(401, "quota_exceeded", "This request exceeds your quota."),
    "sandbox:bad_prompt": _elevenlabs_error(
        400,
        "bad_prompt",
        "The prompt names a protected work.",
        data={"prompt_suggestion": "a warm, original instrumental piece"},
    ),
}
"""Markers in a text or prompt sent to ElevenLabs."""


def marked(markers: dict[str, Outcome], text: str) -> Outcome | None:
    """The outcome of the first marker that the text holds."""
    return next((outcome for marker, outcome in markers.items() if marker in text), None)
