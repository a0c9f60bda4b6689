"""Shotstack: the error tables row by row, the render's states, no retries."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dreamcuts.errors import ErrorClass as E
from dreamcuts.errors import InvalidRequest, ProviderError
from dreamcuts.providers.base import Done, Pending, Ticket
from dreamcuts.providers.rules import REQUEST_GONE, decide
from dreamcuts.providers.shotstack import RATE_WINDOW_S, RULES, ShotstackProvider, parse_error
from dreamcuts.sandbox import Sandbox

pytestmark = pytest.mark.anyio

EDIT = {"timeline": {"tracks": []}, "output": {"format": "mp4", "resolution": "hd"}}
INVALID = {
    "success": False,
    "message": "Bad Request",
    "response": {
        "error": "ValidationError",
        "details": [{"message": '"timeline" is required', "path": ["timeline"], "type": "any.required"}],
    },
}
ROWS: list[tuple[int, Any, E]] = [
    (402, {"error": "Insufficient generation credits.", "available": 1.5}, E.QUOTA),
    (403, {"message": "No credits left in your subscription"}, E.QUOTA),
    (401, {"message": "Unauthorized"}, E.AUTH),
    (403, {"message": "Forbidden"}, E.AUTH),
    (429, {"error": {"type": "rate_limit_error", "message": "slow down"}}, E.RATE_LIMITED),
    (408, "", E.TRANSIENT),
    (400, INVALID, E.INVALID_REQUEST),
    (500, {"message": "Internal Server Error"}, E.TRANSIENT),
    (503, "<html></html>", E.TRANSIENT),
    (418, {"message": "never heard of"}, E.TRANSIENT),
]
FAILURES = [
    ("The service is temporarily unavailable", E.TRANSIENT),
    ("Request timed out", E.TRANSIENT),
    ("Too many requests", E.TRANSIENT),
    ("could not fetch asset https://x/y.mp4", E.TRANSIENT),
    ("unsupported codec", E.INVALID_REQUEST),
    ("something odd", E.TRANSIENT),
]


@pytest.mark.parametrize(("status", "body", "expected"), ROWS)
async def test_error_table(
    box: Sandbox, shotstack: ShotstackProvider, status: int, body: Any, expected: E
) -> None:
    box.fail("status", provider="shotstack", status=status, body=body, times=None)

    with pytest.raises(ProviderError) as caught:
        await shotstack.submit("stage", EDIT)

    assert caught.value.error_class is expected
    assert len(box.requests.entries("shotstack")) == 1
    assert caught.value.retry_after == (RATE_WINDOW_S if status == 429 else None)


def test_every_row_of_the_table_is_tested() -> None:
    hit = set()
    for status, body, _ in ROWS:
        message, code = parse_error(body)
        hit.add(decide(RULES, status=status, code=code, message=message))
    assert set(RULES) <= hit, set(RULES) - hit


async def test_a_validation_error_names_the_field(box: Sandbox, shotstack: ShotstackProvider) -> None:
    with pytest.raises(ProviderError, match="timeline"):
        await shotstack.submit("stage", {"output": {"format": "mp4"}})


@pytest.mark.parametrize(("text", "expected"), FAILURES)
async def test_a_render_that_failed(
    box: Sandbox, shotstack: ShotstackProvider, text: str, expected: E
) -> None:
    render = {"success": True, "message": "OK", "response": {"id": "r", "status": "failed", "error": text}}
    box.fail("status", provider="shotstack", status=200, body=render)

    with pytest.raises(ProviderError, match=text.split()[-1]) as caught:
        await shotstack.poll("stage", Ticket("r"))

    assert caught.value.error_class is expected and not caught.value.outcome_unknown


async def test_states_of_a_render(box: Sandbox, shotstack: ShotstackProvider) -> None:
    for status in ("queued", "rendering", "done"):
        render = {"response": {"id": "r", "status": status, "url": "https://x/y.mp4"}}
        box.fail("status", provider="shotstack", status=200, body=render)
    answers = [await shotstack.poll("v1", Ticket("r")) for _ in range(3)]

    assert answers[:2] == [Pending("queued"), Pending("rendering")]
    assert isinstance(answers[2], Done) and answers[2].output["url"] == "https://x/y.mp4"
    assert all(entry.key for entry in box.requests.entries("shotstack"))


async def test_an_unknown_render_is_gone(box: Sandbox, shotstack: ShotstackProvider) -> None:
    with pytest.raises(ProviderError) as caught:
        await shotstack.poll("stage", Ticket("00000000-0000-4000-8000-000000000000"))

    assert caught.value.code == REQUEST_GONE


async def test_a_failed_question_leaves_the_render_open(box: Sandbox, shotstack: ShotstackProvider) -> None:
    box.fail("status", provider="shotstack", status=503)
    box.fail("drop_before", provider="shotstack")
    for _ in range(2):
        with pytest.raises(ProviderError) as caught:
            await shotstack.poll("stage", Ticket("r"))
        assert caught.value.outcome_unknown


@pytest.mark.parametrize("kind", ["drop_after", "drop_before"])
async def test_a_lost_answer_is_of_unknown_outcome(
    box: Sandbox, shotstack: ShotstackProvider, kind: str
) -> None:
    box.fail(kind, provider="shotstack", times=1)

    with pytest.raises(ProviderError) as caught:
        await shotstack.submit("stage", EDIT)

    assert caught.value.outcome_unknown
    assert len(box.requests.entries("shotstack", "POST")) == 1


async def test_an_unknown_environment_is_refused_before_any_call(
    box: Sandbox, shotstack: ShotstackProvider
) -> None:
    with pytest.raises(InvalidRequest, match=r"'\.\./admin'; there are: stage, v1"):
        await shotstack.submit("../admin", EDIT)

    assert box.requests.entries("shotstack") == []


async def test_the_key_never_shows(box: Sandbox, shotstack: ShotstackProvider) -> None:
    key = box.environment()["SHOTSTACK_API_KEY"]
    box.fail("status", provider="shotstack", status=500, body={"message": f"x-api-key: {key} / {key}"})

    with pytest.raises(ProviderError) as caught:
        await shotstack.submit("stage", EDIT)

    assert key not in str(caught.value) + json.dumps(caught.value.detail)
