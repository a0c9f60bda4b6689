"""A worker that slept past its lease sends nothing that is paid; an answer that takes long is waited for."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

import anyio
import pytest
from psycopg.types.json import Jsonb

from dreamcuts.errors import ErrorClass
from dreamcuts.jobs import queued
from dreamcuts.providers.fal import FalProvider
from dreamcuts.sandbox import Sandbox
from dreamcuts.worker.calls import StoredCalls
from dreamcuts.worker.tools import Tools
from tests.money.conftest import Ledger
from tests.money.test_waiting import as_job
from tests.paid.conftest import Work, beats, calls_of, completed, image, posts
from tests.support import until

pytestmark = pytest.mark.anyio

LEASE_S = 3.0
SPEECH = {"text": "A door closes", "durationSeconds": 1.5}


def sleep_after_the_intent(monkeypatch: pytest.MonkeyPatch) -> list[UUID]:
    """Let the first call's process sleep past its lease, between its intent and its request."""
    begin = StoredCalls.begin
    slept: list[UUID] = []

    async def begin_and_sleep(self: StoredCalls, *arguments: Any, **named: Any) -> UUID:
        call = await begin(self, *arguments, **named)
        if not slept:
            slept.append(call)
            time.sleep(LEASE_S + 0.3)  # noqa: ASYNC251  (nothing of the process runs meanwhile)
        return call

    monkeypatch.setattr(StoredCalls, "begin", begin_and_sleep)
    return slept


@pytest.mark.parametrize("kind", ["queued", "direct"])
async def test_a_worker_that_slept_past_its_lease_does_not_send(
    ledger: Ledger, sandbox: Sandbox, work: Work, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    slept = sleep_after_the_intent(monkeypatch)
    if kind == "queued":
        job, worker, provider = image(ledger), work(image=1, lease=LEASE_S), "fal"
    else:
        job = ledger.add(None, type="gen_sound_effects_elevenlabs", payload=Jsonb(SPEECH))
        worker, provider = work(sound_effects=1, lease=LEASE_S), "elevenlabs"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await completed(ledger, job)
        worker.drain()
    first, *others = calls_of(ledger, job)
    assert (first["id"], first["status"]) == (slept[0], "cancelled")
    ends = [call["status"] for call in others]
    assert ends[-1] == "succeeded"
    # One, unless the machine slept once more.
    assert len(sandbox.requests.entries(provider, "POST")) == len(ends) - ends.count("cancelled")
    assert ledger.job(job)["claims"] >= 2


async def test_a_call_goes_on_when_a_heartbeat_says_that_the_lease_holds(
    ledger: Ledger, tools: Tools
) -> None:
    worker, (held,) = ledger.held(1)
    left = -0.1
    calls = StoredCalls(tools.store, worker, as_job(held), lease_left=lambda: left)
    call = ledger.begin(worker, held)
    sent = anyio.Event()

    async def send() -> None:
        await calls.may_send(call)
        sent.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send)
        with anyio.move_on_after(0.3):
            await sent.wait()
        assert not sent.is_set()
        left = 20.0
        await sent.wait()


async def test_an_answer_that_comes_after_the_job_s_patience_is_used_by_its_next_claim(
    ledger: Ledger, sandbox: Sandbox, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fal takes long to accept, the job is cancelled and retried: the request is one."""
    monkeypatch.setattr(queued, "SUBMIT_GRACE_S", 0.0)
    sandbox.fail("hold", provider="fal", method="POST")
    job = image(ledger)
    worker = work(image=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await until(lambda: posts(sandbox) == 1)
        first = worker._slots.attempts[job]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("dreamcuts.worker.attempt.cancel_open_calls", _nothing)  # the retry is faster
            ledger.cancel(job)
            ledger.retry(job)
            await until(lambda: worker._slots.attempts.get(job) is not first)
        await until(lambda: ledger.job(job)["claims"] == 2)
        await beats(worker, 3)  # time enough to send a request of its own
        sandbox.faults.clear()
        await completed(ledger, job)
        worker.drain()
    assert ledger.job(job)["claims"] == 2
    assert [call["status"] for call in calls_of(ledger, job)] == ["succeeded"]
    assert posts(sandbox) == 1 and len(sandbox.bills("fal")) == 1


async def _nothing(*_: Any) -> int:
    return 0


async def test_a_direct_call_that_was_cut_is_not_waited_for(ledger: Ledger, tools: Tools) -> None:
    """ElevenLabs hands nothing over later: there is no ticket that could still come."""
    worker, (held,) = ledger.held(1)
    calls = StoredCalls(tools.store, worker, as_job(held))
    due = {}
    for provider in ("elevenlabs", "fal", "shotstack", "unknown"):
        ledger.begin(worker, held, provider=provider)
    for call in await calls.open_calls():
        due[call.provider] = call.answer_due_s
    assert due["elevenlabs"] == due["unknown"] == 0
    assert 60 < due["fal"] <= 75 and 60 < due["shotstack"] <= 75


async def test_a_submit_that_breaks_leaves_nothing_to_wait_for(
    ledger: Ledger, sandbox: Sandbox, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a provider raises: the next attempt finds no call that might still be answered."""

    async def broken(*_: Any) -> None:
        raise ZeroDivisionError("a fault of the provider's code")

    job = image(ledger, fallbackProviders=[])
    worker = work(image=1)
    with monkeypatch.context() as patch:
        patch.setattr(FalProvider, "submit", broken)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await until(lambda: ledger.job(job)["error_class"] == ErrorClass.BUG)
            worker.drain()
    assert {call["status"] for call in calls_of(ledger, job)} == {"unknown"}
