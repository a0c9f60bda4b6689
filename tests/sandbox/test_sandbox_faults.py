"""Every kind of fault, as a client sees it, and what was billed in spite of it."""

from __future__ import annotations

from typing import Any

import anyio
import httpx
import pytest
from elevenlabs.client import AsyncElevenLabs

from dreamcuts.sandbox import Sandbox
from tests.support import until

pytestmark = pytest.mark.anyio
SRPO = "fal-ai/flux/srpo"
SMALL = {"prompt": "hills", "image_size": {"width": 64, "height": 64}}


async def test_status_with_headers_and_body(fal: Any, http: httpx.AsyncClient, sandbox: Sandbox) -> None:
    rule = {
        "provider": "fal",
        "match": f"/{SRPO}",
        "times": 2,
        "fault": {
            "kind": "status",
            "status": 429,
            "headers": {"Retry-After": "3"},
            "body": {"detail": "slow"},
        },
    }
    added = await http.post(f"{sandbox.url}/_sandbox/faults", json=rule)
    assert added.json()["rules"][0]["times"] == 2
    for _ in range(2):
        answer = await http.post(f"{fal.url}/{SRPO}", json=SMALL, headers=fal.headers)
        assert (answer.status_code, answer.headers["retry-after"], answer.json()) == (
            429,
            "3",
            {"detail": "slow"},
        )
    await fal.run(SRPO, SMALL)
    assert [entry.status for entry in sandbox.requests.entries("fal", "POST")] == [429, 429, 200]
    assert len(sandbox.bills()) == 1


async def test_drop_before_does_no_work(fal: Any, sandbox: Sandbox) -> None:
    sandbox.fail("drop_before", provider="fal", method="POST")
    with pytest.raises(httpx.RemoteProtocolError):
        await fal.submit(SRPO, SMALL)
    await fal.run(SRPO, SMALL)
    assert [entry.status for entry in sandbox.requests.entries("fal", "POST")] == [None, 200]
    assert len(sandbox.bills()) == 1


async def test_drop_after_does_the_work_and_bills_it(fal: Any, sandbox: Sandbox) -> None:
    sandbox.fail("drop_after", provider="fal", method="POST")
    with pytest.raises(httpx.RemoteProtocolError):
        await fal.submit(SRPO, SMALL)
    with anyio.fail_after(10):
        while not sandbox.bills("fal"):  # noqa: ASYNC110  (another thread makes it)
            await anyio.sleep(0.02)


async def test_drop_after_of_a_direct_call(voice: AsyncElevenLabs, sandbox: Sandbox) -> None:
    sandbox.fail("drop_after", provider="elevenlabs", match="text-to-speech")
    with pytest.raises(httpx.RemoteProtocolError):
        async for _ in voice.text_to_speech.convert("anna", text="Hello."):
            pass
    assert len(sandbox.bills("elevenlabs")) == 1


async def test_hang(fal: Any, http: httpx.AsyncClient, sandbox: Sandbox) -> None:
    sandbox.fail("hang", provider="fal", method="POST", times=None)
    with pytest.raises(httpx.ReadTimeout):
        await http.post(f"{fal.url}/{SRPO}", json=SMALL, headers=fal.headers, timeout=0.2)
    sandbox.faults.clear()
    sandbox.fail("hang", provider="fal", method="POST", seconds=0.05)
    with pytest.raises(httpx.RemoteProtocolError):
        await fal.submit(SRPO, SMALL)
    assert sandbox.bills() == []


async def test_a_hanging_request_does_not_keep_the_sandbox_from_stopping(http: httpx.AsyncClient) -> None:
    with Sandbox.running() as sandbox:
        sandbox.fail("hang", provider="files")
        async with anyio.create_task_group() as group:
            group.start_soon(_stop_when_seen, sandbox)
            with pytest.raises(httpx.TransportError), anyio.fail_after(15):
                await http.get(f"{sandbox.url}/files/x", timeout=20)


async def _stop_when_seen(sandbox: Sandbox) -> None:
    with anyio.fail_after(10):
        while not sandbox.requests.entries("files"):  # noqa: ASYNC110  (another thread makes it)
            await anyio.sleep(0.02)
    sandbox.stop()


async def test_delay_then_as_usual(fal: Any, sandbox: Sandbox) -> None:
    sandbox.fail("delay", provider="fal", method="POST", seconds=0.05)
    assert (await fal.submit(SRPO, SMALL))["status"] == "IN_QUEUE"


async def test_hold_until_the_rules_are_dropped(fal: Any, http: httpx.AsyncClient, sandbox: Sandbox) -> None:
    sandbox.fail("hold", provider="fal", method="POST")
    answers: list[str] = []

    async def submit() -> None:
        answers.append((await fal.submit(SRPO, SMALL))["status"])

    async with anyio.create_task_group() as group:
        group.start_soon(submit)
        await until(lambda: sandbox.requests.entries("fal", "POST") and not sandbox.faults.rules())
        assert (await http.get(f"{sandbox.url}/_sandbox/health")).status_code == 200
        assert answers == [] and sandbox.bills() == []
        await http.delete(f"{sandbox.url}/_sandbox/faults")
    assert answers == ["IN_QUEUE"]


async def test_outcome_of_a_request(fal: Any, sandbox: Sandbox) -> None:
    body = {"detail": "Runner failed", "error_type": "runner_server_error"}
    sandbox.fail(
        "outcome", provider="fal", match=SRPO, status=500, body=body, headers={"X-Fal-Retryable": "true"}
    )
    result = await fal.wait(await fal.submit(SRPO, SMALL))
    assert (result.status_code, result.json()) == (500, body)
    assert result.headers["x-fal-retryable"] == "true"
    assert sandbox.bills() == []


async def test_rules_match_body_method_and_pattern(
    fal: Any, http: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    async def submit(prompt: str) -> int:
        answer = await http.post(f"{fal.url}/{SRPO}", json={**SMALL, "prompt": prompt}, headers=fal.headers)
        return answer.status_code

    sandbox.fail("status", match="a red fox", status=503)
    sandbox.fail("status", pattern=r"^GET .*/requests/[^/]+$", status=502)
    assert await submit("hills") == 200
    assert await submit("a red fox") == 503
    assert await submit("a red fox") == 200, "a rule acts once unless it says otherwise"
    ticket = await fal.submit(SRPO, SMALL)
    assert (await fal.get(ticket["status_url"])).status_code in (200, 202)
    assert (await fal.get(ticket["response_url"])).status_code == 502


async def test_wrong_rules_are_explained(http: httpx.AsyncClient, sandbox: Sandbox) -> None:
    url = f"{sandbox.url}/_sandbox/faults"
    for rule, word in (
        ({"fault": {"kind": "explode"}}, "kind"),
        ({"falt": {}}, "falt"),
        ({"pattern": "(", "fault": {"kind": "hang"}}, "regular expression"),
        ({"provider": "shotstack", "fault": {"kind": "outcome"}}, "fal"),
    ):
        answer = await http.post(url, json=rule)
        assert answer.status_code == 400 and word in answer.text
    assert sandbox.faults.rules() == []
    two = [{"fault": {"kind": "hang"}}, {"fault": {"kind": "delay"}}]
    assert len((await http.post(url, json=two)).json()["rules"]) == 2
    assert (await http.delete(url)).json()["rules"] == []
