"""The engine for paid calls: nothing is paid twice, whatever stops an attempt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from dreamcuts.errors import ErrorClass, JobError, ProviderError
from dreamcuts.jobs.paid import Collected, Request, Step, cancel_open_calls, run_chain
from dreamcuts.providers.base import Done, Ticket

pytestmark = pytest.mark.anyio

SRPO, NANO = "fal-ai/flux/srpo", "fal-ai/nano-banana"
IMAGE = {"prompt": "A small lighthouse", "model": "flux-srpo", "imageSize": "square"}
SPEECH = {"text": "Hello there.", "voiceId": "v"}
GONE = Ticket("00000000-0000-4000-8000-000000000000")


async def until(condition: Callable[[], Any]) -> None:
    with anyio.fail_after(20):
        while not condition():  # noqa: ASYNC110 - the condition is the sandbox's, in another thread
            await anyio.sleep(0.01)


def posts(studio: Any, path: str = "") -> int:
    return len(studio.sandbox.requests.entries("fal", "POST", path))


async def stop_when(studio: Any, condition: Callable[[], Any], payload: dict[str, Any] = IMAGE) -> None:
    """Run an attempt and cancel it, as a drain does, once the condition holds."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(studio.run, "gen_image_falai", payload)
        await until(condition)
        tasks.cancel_scope.cancel()


async def test_an_open_call_is_picked_up_and_paid_once(studio: Any) -> None:
    studio.sandbox.options.fal_queue_seconds = 0.4
    await stop_when(studio, lambda: studio.calls.rows and studio.calls.rows[0].ticket)
    assert studio.calls.rows[0].status == "open"

    result = await studio.run("gen_image_falai", IMAGE, attempt=2)

    [call] = studio.calls.rows
    assert call.status == "succeeded" and result.data["requestId"] == call.ticket.request_id
    assert posts(studio) == 1
    assert len(studio.sandbox.bills("fal")) == 1


async def test_a_ticket_on_its_way_is_not_lost_to_a_cancellation(studio: Any) -> None:
    studio.sandbox.fail("delay", provider="fal", method="POST", seconds=0.3)
    await stop_when(studio, lambda: posts(studio) == 1)

    [call] = studio.calls.rows
    assert call.status == "open" and call.ticket is not None
    await studio.run("gen_image_falai", IMAGE, attempt=2)
    assert posts(studio) == 1 and len(studio.sandbox.bills("fal")) == 1


async def test_what_is_paid_is_fetched_again_after_a_failed_download(studio: Any) -> None:
    studio.sandbox.fail("status", provider="files", status=503, times=1, headers={"Retry-After": "60"})
    with pytest.raises(JobError) as caught:
        await studio.run("gen_image_falai", IMAGE)
    assert caught.value.error_class is ErrorClass.TRANSIENT
    assert studio.calls.rows[0].status == "open"

    await studio.run("gen_image_falai", IMAGE, attempt=2)

    assert [call.status for call in studio.calls.rows] == ["succeeded"]
    assert posts(studio) == 1 and len(studio.sandbox.bills("fal")) == 1


async def test_a_call_without_a_ticket_is_closed_as_unknown(studio: Any) -> None:
    await studio.calls.begin("fal", SRPO, request={})

    await studio.run("gen_image_falai", IMAGE, attempt=2)

    assert [call.status for call in studio.calls.rows] == ["unknown", "succeeded"]


async def test_an_expired_request_is_submitted_anew(studio: Any) -> None:
    await studio.calls.submitted(await studio.calls.begin("fal", SRPO, request={}), GONE)

    result = await studio.run("gen_image_falai", IMAGE, attempt=2)

    assert [call.status for call in studio.calls.rows] == ["unknown", "succeeded"]
    assert result.data["fallbacks"] == [] and posts(studio) == 1


async def test_a_question_that_fails_is_asked_again(studio: Any) -> None:
    studio.sandbox.fail("status", provider="fal", match="/status", status=502, body="<html>nginx", times=2)
    studio.sandbox.fail("drop_before", provider="fal", match="/status", times=1)

    await studio.run("gen_image_falai", IMAGE)

    assert posts(studio) == 1


async def test_a_provider_that_answers_no_question_leaves_the_call_open(studio: Any) -> None:
    studio.sandbox.fail("status", provider="fal", match="/status", status=502, body="<html>nginx", times=5)

    with pytest.raises(ProviderError) as caught:
        await studio.run("gen_image_falai", IMAGE)
    assert caught.value.outcome_unknown and studio.calls.rows[0].status == "open"

    await studio.run("gen_image_falai", IMAGE, attempt=2)
    assert posts(studio) == 1


async def test_a_lost_answer_is_closed_as_unknown_with_one_post(studio: Any) -> None:
    studio.sandbox.fail("drop_after", provider="fal", method="POST")

    with pytest.raises(ProviderError):
        await studio.run("gen_image_falai", IMAGE)

    assert [call.status for call in studio.calls.rows] == ["unknown"]
    assert posts(studio) == 1


async def test_a_lost_direct_call_is_closed_as_unknown(studio: Any) -> None:
    studio.sandbox.fail("drop_after", provider="elevenlabs")

    with pytest.raises(ProviderError) as caught:
        await studio.run("tts_elevenlabs", SPEECH)

    assert caught.value.error_class is ErrorClass.TRANSIENT
    assert [call.status for call in studio.calls.rows] == ["unknown"]
    assert len(studio.sandbox.bills("elevenlabs")) == 1


async def test_a_refused_direct_call_is_closed_as_failed_with_its_answer(studio: Any) -> None:
    with pytest.raises(ProviderError) as caught:
        await studio.run("tts_elevenlabs", {**SPEECH, "text": "Hello sandbox:quota there."})

    assert caught.value.error_class is ErrorClass.QUOTA
    [call] = studio.calls.rows
    assert call.status == "failed" and "quota_exceeded" in call.detail["body"]


async def test_a_refusal_goes_to_the_next_model_at_once(studio: Any) -> None:
    refusal = {"detail": [{"loc": ["body", "prompt"], "msg": "no", "type": "content_policy_violation"}]}
    studio.sandbox.fail("outcome", provider="fal", match=SRPO, status=422, body=refusal)

    result = await studio.run("gen_image_falai", IMAGE)

    assert result.data["endpoint"] == NANO
    [gave_way] = result.data["fallbacks"]
    assert (gave_way["provider"], gave_way["endpoint"]) == ("fal", SRPO)
    assert "content_policy_violation" in gave_way["reason"]
    assert [(call.step, call.status) for call in studio.calls.rows] == [(0, "failed"), (1, "succeeded")]


async def test_a_black_picture_is_a_refusal(studio: Any) -> None:
    with pytest.raises(JobError) as caught:
        await studio.run(
            "gen_image_falai", {**IMAGE, "prompt": "A cliff sandbox:nsfw", "fallbackProviders": []}
        )

    assert caught.value.error_class is ErrorClass.CONTENT_REJECTED
    assert studio.calls.rows[0].status == "failed"


async def test_a_chain_in_which_all_refuse_gives_every_reason(studio: Any) -> None:
    with pytest.raises(JobError) as caught:
        await studio.run("gen_image_falai", {**IMAGE, "prompt": "A cliff sandbox:content_policy"})

    assert caught.value.error_class is ErrorClass.CONTENT_REJECTED
    text = str(caught.value)
    for endpoint in (SRPO, NANO, "seedream"):
        assert endpoint in text
    assert "professional-photo: skipped: needs a source image (imageUrl), and the job has none" in text
    assert len(caught.value.detail["fallbacks"]) == 4


async def test_passing_trouble_is_retried_before_the_next_model(studio: Any) -> None:
    payload = {**IMAGE, "prompt": "A cliff"}
    trouble = {"detail": "gone", "error_type": "runner_disconnected"}
    studio.sandbox.fail("outcome", provider="fal", match=SRPO, status=503, body=trouble, times=2)
    with pytest.raises(ProviderError) as caught:
        await studio.run("gen_image_falai", payload, attempt=1)
    assert caught.value.error_class is ErrorClass.TRANSIENT
    assert posts(studio, NANO) == 0

    result = await studio.run("gen_image_falai", payload, attempt=2)

    assert result.data["endpoint"] == NANO


async def test_account_trouble_ends_the_chain_and_names_the_provider(studio: Any) -> None:
    locked = {"detail": "User is locked. Reason: Exhausted balance."}
    studio.sandbox.fail("status", provider="fal", method="POST", status=403, body=locked)

    with pytest.raises(ProviderError) as caught:
        await studio.run("gen_image_falai", IMAGE, attempt=2)

    assert (caught.value.error_class, caught.value.provider) == (ErrorClass.QUOTA, "fal")
    assert posts(studio) == 1


async def test_a_resumed_chain_goes_on_where_it_was(studio: Any) -> None:
    refusal = {"detail": [{"msg": "no", "type": "content_policy_violation"}]}
    studio.sandbox.fail("outcome", provider="fal", match=SRPO, status=422, body=refusal)
    studio.sandbox.options.fal_queue_seconds = 0.3
    await stop_when(studio, lambda: len(studio.calls.rows) == 2 and studio.calls.rows[1].ticket)

    result = await studio.run("gen_image_falai", IMAGE, attempt=2)

    assert result.data["endpoint"] == NANO
    assert [entry["endpoint"] for entry in result.data["fallbacks"]] == [SRPO]
    assert (posts(studio, SRPO), posts(studio, NANO)) == (1, 1)


async def test_an_unusable_file_gives_way(studio: Any) -> None:
    page = {"images": [{"url": f"{studio.sandbox.url}/_sandbox/health"}]}
    studio.sandbox.fail("outcome", provider="fal", match=SRPO, status=200, body=page)

    result = await studio.run("gen_image_falai", IMAGE, attempt=2)

    assert result.data["endpoint"] == NANO
    assert "cannot be used" in result.data["fallbacks"][0]["reason"]
    assert studio.calls.rows[0].status == "failed"


async def test_a_request_that_takes_too_long_is_cancelled_and_gives_way(studio: Any) -> None:
    stuck = Step("fal", NANO, "nano-banana", Request({"prompt": "sandbox:stuck"}))
    # Small, so that it is made well within the limit.
    small = {"prompt": "A lighthouse", "image_size": {"width": 64, "height": 64}}
    other = Step("fal", SRPO, "flux-srpo", Request(small))

    async def collect(step: Step, done: Done) -> Collected[str]:
        return Collected(done.output["images"][0]["url"])

    context = studio.context("gen_image_falai", {}, attempt=2)
    outcome = await run_chain(context, [stuck, other], poll_s=0.02, collect=collect, limit_s=3.0)

    assert outcome.step.endpoint == SRPO
    assert [call.status for call in studio.calls.rows] == ["cancelled", "succeeded"]
    assert len(studio.sandbox.requests.entries("fal", "PUT", "/cancel")) == 1
    assert len(studio.sandbox.bills("fal")) == 1


async def test_open_calls_of_a_cancelled_job_are_cancelled(studio: Any) -> None:
    payload = {**IMAGE, "prompt": "sandbox:stuck"}
    await stop_when(studio, lambda: studio.calls.rows and studio.calls.rows[0].ticket, payload)
    await studio.calls.begin("elevenlabs", "music", request={})

    assert await cancel_open_calls(studio.context("gen_image_falai", payload)) == 2

    assert [call.status for call in studio.calls.rows] == ["cancelled", "unknown"]
    assert len(studio.sandbox.requests.entries("fal", "PUT", "/cancel")) == 1


async def test_a_step_over_the_cost_limit_is_skipped(studio: Any) -> None:
    payload = {**IMAGE, "imageSize": {"width": 2048, "height": 2048}, "costLimit": 0.05}

    result = await studio.run("gen_image_falai", payload)

    assert result.data["endpoint"] == NANO
    assert result.data["fallbacks"][0]["reason"] == (
        "skipped: would cost about $0.1250, over the job's costLimit of $0.05"
    )
    assert posts(studio, SRPO) == 0


async def test_a_cost_limit_that_no_step_meets_is_a_spend_limit(studio: Any) -> None:
    for type_, payload in (
        ("gen_image_falai", {**IMAGE, "costLimit": 0.001}),
        ("tts_elevenlabs", {**SPEECH, "costLimit": 0.0001}),
        ("gen_music_elevenlabs", {"mood": "calm", "durationSec": 60, "costLimit": 0.1}),
        ("gen_sound_effects_elevenlabs", {"text": "a door", "costLimit": 0.1}),
    ):
        with pytest.raises(JobError) as caught:
            await studio.run(type_, payload)
        assert caught.value.error_class is ErrorClass.SPEND_LIMIT, type_
    assert studio.sandbox.requests.entries("fal") == studio.sandbox.requests.entries("elevenlabs") == []


async def test_an_open_request_is_never_left_for_the_next_model(studio: Any) -> None:
    trouble = {"detail": "gone", "error_type": "runner_disconnected"}
    studio.sandbox.fail("status", provider="fal", match="/status", status=503, body=trouble, times=5)

    with pytest.raises(ProviderError):
        await studio.run("gen_image_falai", IMAGE, attempt=2)

    assert [call.status for call in studio.calls.rows] == ["open"]
    assert posts(studio, NANO) == 0
    await studio.run("gen_image_falai", IMAGE, attempt=3)
    assert posts(studio) == 1


async def test_passing_trouble_before_skipped_steps_is_no_final_failure(studio: Any) -> None:
    trouble = {"detail": "gone", "error_type": "runner_disconnected"}
    studio.sandbox.fail("outcome", provider="fal", match="veo3", status=503, body=trouble)

    with pytest.raises(JobError, match="wan-i2v: skipped: needs a source image") as caught:
        await studio.run("gen_video_falai", {"prompt": "A loaf of bread", "duration": "4s"}, attempt=2)

    assert caught.value.error_class is ErrorClass.TRANSIENT
