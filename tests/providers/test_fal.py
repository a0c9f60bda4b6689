"""fal through its real SDK: the error table row by row, one POST for a submit, tickets, cancelling."""

from __future__ import annotations

import os
from typing import Any

import anyio
import fal_client.client
import pytest

from dreamcuts.config import Settings
from dreamcuts.errors import ErrorClass as E
from dreamcuts.errors import ProviderError
from dreamcuts.providers import fal as module
from dreamcuts.providers.base import Done, Pending, Ticket
from dreamcuts.providers.fal import FalProvider
from dreamcuts.providers.rules import REQUEST_GONE, Rule, decide
from dreamcuts.sandbox import Sandbox

pytestmark = pytest.mark.anyio

ENDPOINT = "fal-ai/flux/srpo"
REQUEST = {"prompt": "a small lighthouse", "image_size": "square"}


def model_error(kind: str) -> dict[str, Any]:
    return {"detail": [{"loc": ["body", "prompt"], "msg": "why", "type": kind, "input": None}]}


def infrastructure(kind: str) -> dict[str, Any]:
    return {"detail": "why", "error_type": kind}


LOCKED = {
    "detail": "User is locked. Reason: Exhausted balance. Top up your balance at fal.ai/dashboard/billing"
}

RESULT_ROWS: list[tuple[int, dict[str, Any], E, bool]] = [
    *[(422, model_error(kind), E.CONTENT_REJECTED, True) for kind in module.REFUSALS],
    *[(422, model_error(kind), E.TRANSIENT, True) for kind in module.MODEL_TROUBLE],
    *[(503, infrastructure(kind), E.TRANSIENT, True) for kind in module.RUNNER_TROUBLE],
    (499, infrastructure("client_cancelled"), E.TRANSIENT, False),
    (499, infrastructure("never_heard_of"), E.TRANSIENT, False),
    *[(422, model_error(kind), E.TRANSIENT, False) for kind in module.OUR_URLS],
    *[(422, model_error(kind), E.INVALID_REQUEST, True) for kind in module.MODEL_LIMITS],
    *[(422, model_error(kind), E.INVALID_REQUEST, True) for kind in module.BAD_INPUT],
    (400, infrastructure("bad_request"), E.INVALID_REQUEST, False),
    (422, model_error("never_heard_of"), E.INVALID_REQUEST, True),
]

SUBMIT_ROWS: list[tuple[int, Any, E, bool]] = [
    (402, {"detail": "pay"}, E.QUOTA, False),
    (403, LOCKED, E.QUOTA, False),
    (401, {"detail": "Invalid key."}, E.AUTH, False),
    (403, {"detail": "Forbidden"}, E.AUTH, False),
    (429, {"detail": "Too many requests"}, E.RATE_LIMITED, False),
    (404, {"detail": "Application not found"}, E.INVALID_REQUEST, True),
    (405, {"detail": "Method not allowed"}, E.INVALID_REQUEST, True),
    (410, {"detail": "Gone"}, E.INVALID_REQUEST, True),
    (408, {"detail": "slow"}, E.TRANSIENT, False),
    (409, {"detail": "conflict"}, E.TRANSIENT, False),
    (413, {"detail": "too large"}, E.INVALID_REQUEST, False),
    (500, {"detail": "oops"}, E.TRANSIENT, False),
    (502, "<html>nginx</html>", E.TRANSIENT, False),
    (503, "<html>nginx</html>", E.TRANSIENT, False),
    (504, "<html>nginx</html>", E.TRANSIENT, False),
    (418, {"detail": "never heard of"}, E.TRANSIENT, False),
]


async def wait(provider: FalProvider, endpoint: str, ticket: Ticket) -> Done:
    with anyio.fail_after(30):
        while True:
            answer = await provider.poll(endpoint, ticket)
            if isinstance(answer, Done):
                return answer
            assert isinstance(answer, Pending)
            await anyio.sleep(0.02)


@pytest.mark.parametrize(("status", "body", "expected", "try_next"), RESULT_ROWS)
async def test_error_table_at_the_result(
    box: Sandbox, fal: FalProvider, status: int, body: Any, expected: E, try_next: bool
) -> None:
    box.fail("outcome", provider="fal", status=status, body=body)
    ticket = await fal.submit(ENDPOINT, REQUEST)

    with pytest.raises(ProviderError) as caught:
        await wait(fal, ENDPOINT, ticket)

    assert (caught.value.error_class, caught.value.try_next) == (expected, try_next)
    assert not caught.value.outcome_unknown, "the request itself failed"


@pytest.mark.parametrize(("status", "body", "expected", "try_next"), SUBMIT_ROWS)
async def test_error_table_at_the_submit(
    box: Sandbox, fal: FalProvider, status: int, body: Any, expected: E, try_next: bool
) -> None:
    box.fail("status", provider="fal", status=status, body=body, times=None)

    with pytest.raises(ProviderError) as caught:
        await fal.submit(ENDPOINT, REQUEST)

    assert (caught.value.error_class, caught.value.try_next) == (expected, try_next)
    assert len(box.requests.entries("fal")) == 1, "the SDK must not retry"


def test_every_row_of_the_table_is_tested() -> None:
    hit: set[Rule] = set()
    for status, body, _, _ in [*RESULT_ROWS, *SUBMIT_ROWS]:
        detail = body.get("detail") if isinstance(body, dict) else body
        code = detail[0]["type"] if isinstance(detail, list) else None
        code = code or (body.get("error_type") if isinstance(body, dict) else None)
        hit.add(decide(module.RULES, status=status, code=code, message=str(detail)))
    assert set(module.RULES) <= hit, set(module.RULES) - hit


@pytest.mark.parametrize(
    ("header", "kind", "expected"),
    [("true", "face_detection_error", E.TRANSIENT), ("false", "downstream_service_error", E.INVALID_REQUEST)],
)
async def test_the_header_on_retrying_wins(
    box: Sandbox, fal: FalProvider, header: str, kind: str, expected: E
) -> None:
    headers = {"X-Fal-Retryable": header}
    box.fail("outcome", provider="fal", status=422, body=model_error(kind), headers=headers)
    ticket = await fal.submit(ENDPOINT, REQUEST)

    with pytest.raises(ProviderError) as caught:
        await wait(fal, ENDPOINT, ticket)

    assert caught.value.error_class is expected and caught.value.try_next


@pytest.mark.parametrize(("kind", "bills"), [("drop_after", 1), ("drop_before", 0)])
async def test_a_dropped_connection_sends_no_second_post(
    box: Sandbox, fal: FalProvider, kind: str, bills: int
) -> None:
    box.fail(kind, provider="fal", method="POST", times=1)

    with pytest.raises(ProviderError) as caught:
        await fal.submit(ENDPOINT, REQUEST)

    assert caught.value.outcome_unknown and caught.value.error_class is E.TRANSIENT
    assert len(box.requests.entries("fal", "POST")) == 1
    with anyio.fail_after(20):
        while len(box.bills("fal")) < bills:  # noqa: ASYNC110 - billed in another thread
            await anyio.sleep(0.02)
    assert len(box.bills("fal")) == bills
    assert fal_client.client.MAX_ATTEMPTS == 10, "no global of the SDK is changed"


async def test_nobody_there_is_no_unknown_outcome(settings: Settings) -> None:
    provider = FalProvider.from_settings(
        settings.model_copy(update={"fal_queue_url": "http://127.0.0.1:9/fal"})
    )
    with pytest.raises(ProviderError) as caught:
        await provider.submit(ENDPOINT, REQUEST)
    await provider.aclose()

    assert not caught.value.outcome_unknown
    assert "could not be reached" in str(caught.value)


async def test_a_ticket_can_be_picked_up_by_another_worker(
    box: Sandbox, fal: FalProvider, settings: Settings
) -> None:
    ticket = await fal.submit(ENDPOINT, REQUEST)
    other = FalProvider.from_settings(settings)
    done = await wait(other, ENDPOINT, Ticket(ticket.request_id))  # even without the stored URLs
    await other.aclose()

    assert done.output["images"][0]["url"].startswith(box.url)
    assert done.units is not None and done.units > 0
    assert len(box.requests.entries("fal", "POST")) == 1


@pytest.mark.parametrize("where", ["/status", ""])
async def test_a_failed_question_leaves_the_request_open(box: Sandbox, fal: FalProvider, where: str) -> None:
    ticket = await fal.submit(ENDPOINT, REQUEST)
    await wait(fal, ENDPOINT, ticket)
    pattern = rf"GET .*/requests/[^/]+{where}$"
    box.fail("status", provider="fal", pattern=pattern, status=502, body="<html>nginx</html>")
    box.fail("drop_before", provider="fal", pattern=pattern)
    for _ in range(2):
        with pytest.raises(ProviderError) as caught:
            await fal.poll(ENDPOINT, ticket)
        assert caught.value.outcome_unknown and caught.value.error_class is E.TRANSIENT

    assert isinstance(await fal.poll(ENDPOINT, ticket), Done)


async def test_an_expired_request_is_gone(box: Sandbox, fal: FalProvider) -> None:
    with pytest.raises(ProviderError) as caught:
        await fal.poll(ENDPOINT, Ticket("00000000-0000-4000-8000-000000000000"))

    assert caught.value.code == REQUEST_GONE and not caught.value.outcome_unknown


async def test_rate_limit_waits(box: Sandbox, fal: FalProvider) -> None:
    box.fail("status", provider="fal", status=429)
    box.fail("status", provider="fal", status=429, headers={"Retry-After": "9"})
    waits = []
    for _ in range(2):
        with pytest.raises(ProviderError) as caught:
            await fal.submit(ENDPOINT, REQUEST)
        waits.append(caught.value.retry_after)

    assert waits == [module.RATE_LIMIT_WAIT_S, 9]


async def test_cancel_is_sent_and_never_raises(box: Sandbox, fal: FalProvider) -> None:
    ticket = await fal.submit(ENDPOINT, {**REQUEST, "prompt": "sandbox:stuck"})
    await fal.cancel(ENDPOINT, ticket)
    await fal.cancel(ENDPOINT, Ticket("unknown"))

    assert len(box.requests.entries("fal", "PUT", f"{ticket.request_id}/cancel")) == 1
    assert box.bills("fal") == []


async def test_the_key_goes_to_the_configured_queue_only(box: Sandbox, fal: FalProvider) -> None:
    stored = Ticket("id", {"statusUrl": f"{box.url}/files/elsewhere"})

    with pytest.raises(ProviderError, match="not the configured queue"):
        await fal.poll(ENDPOINT, stored)

    assert "FAL_KEY" not in os.environ


async def test_the_key_never_shows(box: Sandbox, fal: FalProvider) -> None:
    key = box.environment()["FAL_KEY"]
    box.fail("status", provider="fal", status=500, body={"detail": f"Authorization: Key {key} broke {key}"})

    with pytest.raises(ProviderError) as caught:
        await fal.submit(ENDPOINT, REQUEST)

    for part in (key, *key.split(":")):
        assert part not in str(caught.value) and part not in str(caught.value.detail)
