"""Limits, pauses and spend limits as a job meets them: real workers, real SDKs, the sandbox."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest
from psycopg.types.json import Jsonb

from dreamcuts.sandbox import Sandbox
from dreamcuts.worker.worker import Worker
from tests.money.conftest import Ledger, manifest_with, until
from tests.support import DEADLINE_S

pytestmark = pytest.mark.anyio

IMAGE = {"prompt": "A small lighthouse", "model": "flux-srpo", "imageSize": "square"}
SPEECH = {"text": "Hello there.", "voiceId": "v"}
Work = Callable[..., Worker]


def image(ledger: Ledger, payload: dict[str, Any] | None = None, **columns: Any) -> Any:
    columns.setdefault("manifest", None)
    return ledger.add(type="gen_image_falai", payload=Jsonb({**IMAGE, **(payload or {})}), **columns)


async def run(worker: Worker) -> None:
    with anyio.fail_after(DEADLINE_S):
        await worker.run()


async def test_a_bad_key_pauses_the_provider_and_harms_no_job(
    ledger: Ledger, sandbox: Sandbox, work: Work
) -> None:
    sandbox.state.keys = type(sandbox.state.keys)(fal="another:key-0123456789")
    jobs = [image(ledger) for _ in range(3)]
    worker = work(image=1, until_idle=False)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, worker)
        await until(lambda: ledger.rows("select 1 from dreamcut_providers where paused_until > now()"))
        await until(lambda: ledger.job(jobs[0])["status"] == "pending")
        worker.drain()

    row = ledger.provider()
    assert (row["state"], row["pause_class"], row["paused_by"]) == ("paused", "auth", "breaker")
    assert "HTTP 401" in row["pause_reason"] and "sandbox-fal" not in row["pause_reason"]
    states = [(job["status"], job["attempts"]) for job in map(ledger.job, jobs)]
    assert states == [("pending", 0)] * 3
    assert len(sandbox.requests.entries("fal", "POST")) == 1, "the others were not even tried"


async def test_a_mended_key_and_a_resume_bring_them_through(
    ledger: Ledger, sandbox: Sandbox, work: Work
) -> None:
    good = sandbox.state.keys
    sandbox.state.keys = type(good)(fal="another:key-0123456789")
    job = image(ledger)
    worker = work(image=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, worker)
        await until(lambda: ledger.rows("select 1 from dreamcut_jobs where error_class = 'auth'"))
        sandbox.state.keys = good
        ledger.run("select dreamcut_resume_provider('fal')")
        await until(lambda: ledger.job(job)["status"] == "completed")
        worker.drain()
    assert ledger.job(job)["attempts"] == 1


async def test_a_job_that_meets_a_pause_goes_back_until_it_is_over(ledger: Ledger, work: Work) -> None:
    job = image(ledger)
    # Paused right after the claim: the job runs already when its call is refused.
    ledger.run("select dreamcut_pause_provider('fal', now() + interval '20 minutes', 'invoice', 'ada')")
    ledger.claim_regardless()
    worker = work(image=1, until_idle=False)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, worker)
        await until(lambda: ledger.job(job)["error_class"])
        worker.drain()

    row = ledger.job(job)
    assert (row["status"], row["attempts"], row["error_class"]) == ("pending", 0, "paused")
    assert row["error_message"].startswith("fal is paused until ") and "invoice" in row["error_message"]
    wait = ledger.value("select extract(epoch from next_retry_at - now()) from dreamcut_jobs")
    assert 1150 < wait < 1260
    [attempt] = ledger.history(job)
    assert attempt["detail"]["provider"] == "fal" and attempt["outcome"] == "retried"
    assert ledger.rows("select 1 from dreamcut_provider_calls") == []


async def test_calls_wait_for_a_limit_inside_the_attempt(
    ledger: Ledger, sandbox: Sandbox, work: Work
) -> None:
    ledger.limit("fal", maxConcurrent=1)
    jobs = [image(ledger) for _ in range(4)]
    ledger.claim_regardless()

    await run(work(image=4))

    assert [ledger.job(job)["status"] for job in jobs] == ["completed"] * 4
    assert [ledger.job(job)["claims"] for job in jobs] == [1] * 4
    overlapping = ledger.value(
        "select count(*) from dreamcut_provider_calls one join dreamcut_provider_calls two"
        " on one.id < two.id"
        " and tstzrange(one.created_at, one.finished_at) && tstzrange(two.created_at, two.finished_at)"
    )
    assert overlapping == 0


async def test_a_spend_limit_ends_the_job_with_the_numbers(
    ledger: Ledger, sandbox: Sandbox, work: Work
) -> None:
    manifest = manifest_with(ledger, {"maxTotalCost": 0.03})
    first = image(ledger, manifest=manifest)
    await run(work(image=1))
    assert ledger.job(first)["status"] == "completed"
    second = image(ledger, manifest=manifest)

    await run(work(image=1))

    row = ledger.job(second)
    assert (row["status"], row["error_class"]) == ("failed", "spend_limit")
    assert "maxTotalCost of $0.03: $0.006554 spent and reserved, $0.025 more needed" in row["error_message"]
    assert len(sandbox.bills("fal")) == 1


async def test_a_dearer_step_gives_way_to_one_within_the_limit(
    ledger: Ledger, sandbox: Sandbox, work: Work
) -> None:
    manifest = manifest_with(ledger, {"maxTotalCost": 0.05})
    job = image(ledger, {"imageSize": {"width": 2048, "height": 2048}}, manifest=manifest)

    await run(work(image=1))

    row = ledger.job(job)
    assert row["status"] == "completed" and row["result"]["endpoint"] == "fal-ai/nano-banana"
    assert "maxTotalCost of $0.05" in row["result"]["fallbacks"][0]["reason"]


async def test_parallel_jobs_of_a_manifest_stay_within_its_limit(
    ledger: Ledger, sandbox: Sandbox, work: Work
) -> None:
    manifest = manifest_with(ledger, {"maxTotalCost": 0.06})
    entry = [{"provider": "flux-srpo"}]
    megapixel = {"fallbackProviders": entry, "imageSize": {"width": 1000, "height": 1000}}
    jobs = [image(ledger, megapixel, manifest=manifest) for _ in range(6)]

    await run(work(image=6))

    classes = sorted(str(ledger.job(job)["error_class"]) for job in jobs)
    assert classes == ["None"] * 2 + ["spend_limit"] * 4
    assert [bill.usd for bill in sandbox.bills("fal")] == [0.025, 0.025]


async def test_an_answer_429_slows_the_lane_down(ledger: Ledger, sandbox: Sandbox, work: Work) -> None:
    busy = {"detail": {"code": "rate_limit_exceeded", "message": "slow down"}}
    sandbox.fail("status", provider="elevenlabs", status=429, body=busy, headers={"Retry-After": "0"})
    jobs = [ledger.add(None, type="tts_elevenlabs", payload=Jsonb(SPEECH)) for _ in range(3)]

    await run(work(tts=3))

    assert [ledger.job(job)["status"] for job in jobs] == ["completed"] * 3
    assert {ledger.job(job)["attempts"] for job in jobs} == {1}, "a 429 uses up no attempt"
    assert ledger.provider("elevenlabs")["name"] == "elevenlabs"
    failed = ledger.rows("select * from dreamcut_provider_calls where status = 'failed'")
    assert [call["detail"]["class"] for call in failed] == ["rate_limited"]


async def test_an_echoed_key_is_kept_out_of_the_rows(ledger: Ledger, sandbox: Sandbox, work: Work) -> None:
    key = sandbox.state.keys.fal
    sandbox.fail(
        "status", provider="fal", status=400, body={"detail": f"bad key {key} in Key {key}"}, times=None
    )
    job = image(ledger, {"fallbackProviders": []})

    await run(work(image=1))

    assert ledger.job(job)["status"] == "failed"
    kept = ledger.value(
        "select concat(whole::text, attempt::text, call::text) from dreamcut_jobs whole"
        " left join dreamcut_job_attempts attempt on attempt.job = whole.id"
        " left join dreamcut_provider_calls call on call.job = whole.id"
    )
    assert "[hidden]" in kept and key.split(":")[1] not in kept and key not in kept
