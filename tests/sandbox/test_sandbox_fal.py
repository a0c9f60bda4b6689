"""fal's queue API: its protocol over HTTP and through fal's own client, its refusals and its bills."""

from __future__ import annotations

from typing import Any

import fal_client
import httpx
import pytest
from fal_client import client as fal_module

from dreamcuts.sandbox import Sandbox

pytestmark = pytest.mark.anyio
SRPO = "fal-ai/flux/srpo"
FACE = {"video_url": "http://x", "audio_url": "http://x"}
SMALL = {"prompt": "hills at dawn", "image_size": {"width": 64, "height": 64}}


async def test_submit_status_result(fal: Any, http: httpx.AsyncClient, sandbox: Sandbox) -> None:
    waiting = await fal.submit(SRPO, {**SMALL, "prompt": "sandbox:stuck"})
    assert waiting["status"] == "IN_QUEUE"
    early = await fal.get(waiting["status_url"])
    assert (early.status_code, early.json()["status"]) == (202, "IN_QUEUE")
    assert early.json()["queue_position"] == 0
    not_yet = await fal.get(waiting["response_url"])
    assert (not_yet.status_code, not_yet.json()["detail"]) == (400, "Request is still in progress")
    ticket = await fal.submit(SRPO, SMALL)
    root = f"{sandbox.url}/fal/fal-ai/flux/requests/{ticket['request_id']}"
    assert (ticket["response_url"], ticket["status_url"]) == (root, f"{root}/status")
    result = await fal.wait(ticket)
    status = (await fal.get(ticket["status_url"])).json()
    assert status["status"] == "COMPLETED" and status["metrics"]["inference_time"] >= 0
    assert result.headers["x-fal-request-id"] == ticket["request_id"]
    assert float(result.headers["x-fal-billable-units"]) == pytest.approx(64 * 64 / 1e6, rel=0.01)


async def test_through_fal_client(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = sandbox.environment()
    monkeypatch.setattr(fal_module, "QUEUE_URL_FORMAT", environment["FAL_QUEUE_URL"] + "/")
    client = fal_client.AsyncClient(key=environment["FAL_KEY"])
    waiting = await client.submit(SRPO, arguments={**SMALL, "prompt": "sandbox:stuck"})
    assert isinstance(await waiting.status(), fal_client.Queued)
    handle = await client.submit(SRPO, arguments=SMALL)
    output = await handle.get(interval=0.05)
    assert output["images"][0]["content_type"] == "image/jpeg"
    assert isinstance(await handle.status(), fal_client.Completed)
    resumed = await client.get_handle(SRPO, handle.request_id)
    assert (await resumed.get(interval=0.05))["seed"] == output["seed"]
    assert len(sandbox.requests.entries("fal", "POST")) == 2
    await (await client._client).aclose()


async def test_long_endpoint_ids_answer_under_their_first_two_parts(fal: Any) -> None:
    ticket = await fal.submit(
        "fal-ai/bytedance/seedream/v4/text-to-image", {"prompt": "p", "image_size": "square"}
    )
    assert "/fal/fal-ai/bytedance/requests/" in ticket["status_url"]
    wrong = ticket["status_url"].replace("fal-ai/bytedance", "fal-ai/flux")
    assert (await fal.get(wrong)).status_code == 404
    assert (await fal.wait(ticket)).json()["images"][0]["width"] == 512


async def test_wrong_key_unknown_endpoint_and_unknown_request(fal: Any, http: httpx.AsyncClient) -> None:
    assert (await http.post(f"{fal.url}/{SRPO}", json=SMALL)).status_code == 401
    bad = await http.post(f"{fal.url}/{SRPO}", json=SMALL, headers={"authorization": "Key a:b"})
    assert (bad.status_code, bad.json()["detail"]) == (401, "Invalid key.")
    gone = await http.post(f"{fal.url}/fal-ai/veo2", json=SMALL, headers=fal.headers)
    assert (gone.status_code, "not found" in gone.json()["detail"]) == (404, True)
    assert (await fal.get(f"{fal.url}/fal-ai/flux/requests/none/status")).status_code == 404
    broken = await http.post(f"{fal.url}/{SRPO}", content=b"{", headers=fal.headers)
    assert broken.status_code == 400


@pytest.mark.parametrize(
    ("endpoint", "arguments", "field", "kind"),
    [
        (SRPO, {}, "prompt", "missing"),
        (SRPO, {"prompt": "p", "image_size": "huge"}, "image_size", "literal_error"),
        (SRPO, {"prompt": "p", "num_inference_steps": 99}, "num_inference_steps", "less_than_equal"),
        ("fal-ai/nano-banana", {"prompt": "p", "aspect_ratio": "7:1"}, "aspect_ratio", "literal_error"),
        ("fal-ai/image-editing/professional-photo", {}, "image_url", "missing"),
        ("fal-ai/veo3/fast", {"prompt": "p", "duration": "5s"}, "duration", "literal_error"),
        ("fal-ai/wan-i2v", {"prompt": "p"}, "image_url", "missing"),
        ("fal-ai/wan-effects", {"image_url": "http://127.0.0.1/x"}, "subject", "missing"),
        ("fal-ai/infinitalk", {"prompt": "p", "image_url": "http://x"}, "audio_url", "missing"),
        ("veed/fabric-1.0", {"image_url": "http://x", "audio_url": "http://x"}, "resolution", "missing"),
        ("veed/lipsync", {"video_url": "http://x"}, "audio_url", "missing"),
        ("creatify/lipsync", {"audio_url": "http://x"}, "video_url", "missing"),
        ("fal-ai/sync-lipsync/v2", {**FACE, "sync_mode": "no"}, "sync_mode", "literal_error"),
    ],
)  # fmt: skip
async def test_bad_input_is_accepted_and_refused_with_the_result(
    fal: Any, sandbox: Sandbox, endpoint: str, arguments: dict[str, Any], field: str, kind: str
) -> None:
    result = await fal.wait(await fal.submit(endpoint, arguments))
    assert result.status_code == 422
    issues = {(issue["loc"][1], issue["type"]) for issue in result.json()["detail"]}
    assert (field, kind) in issues
    assert sandbox.bills() == []


@pytest.mark.parametrize("given", ["nothing", "text"])
async def test_inputs_are_really_fetched(fal: Any, sandbox: Sandbox, given: str) -> None:
    (sandbox.state.files / "text.jpg").write_text("no picture")
    url = f"{sandbox.url}/files/{given}.jpg"
    result = await fal.wait(await fal.submit("fal-ai/wan-i2v", {"prompt": "p", "image_url": url}))
    [issue] = result.json()["detail"]
    assert issue["loc"] == ["body", "image_url"]
    assert issue["type"] == ("file_download_error" if given == "nothing" else "image_load_error")


@pytest.mark.parametrize(
    ("marker", "status", "kind"),
    [
        ("sandbox:content_policy", 422, "content_policy_violation"),
        ("sandbox:no_media", 422, "no_media_generated"),
        ("sandbox:downstream", 500, "downstream_service_error"),
        ("sandbox:runner_disconnected", 503, "runner_disconnected"),
    ],
)
async def test_markers(fal: Any, sandbox: Sandbox, marker: str, status: int, kind: str) -> None:
    ticket = await fal.submit(SRPO, {**SMALL, "prompt": f"a cat {marker}"})
    result = await fal.wait(ticket)
    body = result.json()
    assert result.status_code == status
    assert (body.get("error_type") or body["detail"][0]["type"]) == kind
    assert (await fal.get(ticket["status_url"])).json()["error"]
    assert sandbox.bills() == []


async def test_flagged_picture_is_black(fal: Any, look: Any) -> None:
    output = await fal.run(SRPO, {**SMALL, "prompt": "sandbox:nsfw"})
    assert output["has_nsfw_concepts"] == [True]
    path, _ = await look(output["images"][0]["url"])
    from PIL import Image

    with Image.open(path) as picture:
        assert max(high for _, high in picture.convert("RGB").getextrema()) == 0


async def test_cancel(fal: Any, http: httpx.AsyncClient, sandbox: Sandbox) -> None:
    async def cancel(ticket: dict[str, Any]) -> httpx.Response:
        return await http.put(ticket["cancel_url"], headers=fal.headers)

    waiting = await fal.submit(SRPO, {**SMALL, "prompt": "sandbox:stuck"})
    answer = await cancel(waiting)
    assert (answer.status_code, answer.json()["status"]) == (202, "CANCELLATION_REQUESTED")
    assert (await fal.wait(waiting)).json()["error_type"] == "client_cancelled"
    assert sandbox.bills() == [], "a cancelled request costs nothing"
    finished = await fal.submit(SRPO, SMALL)
    await fal.wait(finished)
    answer = await cancel(finished)
    assert (answer.status_code, answer.json()["status"]) == (400, "ALREADY_COMPLETED")


async def test_start_timeout(fal: Any) -> None:
    arguments = {**SMALL, "prompt": "sandbox:stuck"}
    result = await fal.wait(await fal.submit(SRPO, arguments, **{"x-fal-request-timeout": "0.1"}))
    assert (result.status_code, result.json()["error_type"]) == (504, "request_timeout")
    assert result.headers["x-fal-request-timeout-type"] == "user"


async def test_the_same_request_twice_is_two_bills_with_one_mark(fal: Any, sandbox: Sandbox) -> None:
    await fal.run(SRPO, SMALL)
    await fal.run(SRPO, {**SMALL, "seed": 5})
    assert sandbox.billing.report()["paid_twice"] == []
    await fal.run(SRPO, SMALL)
    first, _, third = sandbox.bills("fal", SRPO)
    assert first.mark == third.mark and first.request_id != third.request_id
    assert sandbox.billing.report()["paid_twice"] == [first.mark]
