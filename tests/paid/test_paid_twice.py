"""Nothing is paid twice when an outcome, an answer or a storage is lost at the worst moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import anyio
import psycopg
import pytest
from psycopg.types.json import Jsonb

from dreamcuts.config import Settings
from dreamcuts.errors import ErrorClass, StorageError
from dreamcuts.jobs import paid
from dreamcuts.jobs.registry import load_job_types
from dreamcuts.queue.outbox import Outbox
from dreamcuts.queue.store import Store
from dreamcuts.sandbox import Sandbox
from dreamcuts.storage import open_storage
from dreamcuts.storage.base import Asset
from dreamcuts.storage.paths import StorageFailed, unsigned
from dreamcuts.worker import context
from dreamcuts.worker.attempt import Attempt
from dreamcuts.worker.calls import StoredCalls
from dreamcuts.worker.tools import Tools
from dreamcuts.worker.worker import Worker
from tests.money.conftest import Ledger
from tests.money.test_waiting import as_job
from tests.paid.conftest import SRPO, Work, beats, calls_of, completed, image, posts
from tests.support import is_blocked, until

pytestmark = pytest.mark.anyio

# The outcome that was lost after the call succeeded


async def lose_the_outcome(ledger: Ledger, worker: Worker, job: UUID) -> None:
    """Run the job with this worker, up to where it would be written that it is completed."""
    with pytest.MonkeyPatch.context() as patch:
        lost: list[object] = []
        patch.setattr(Outbox, "put", lambda self, worker, outcome: lost.append(outcome))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await until(lambda: lost)
            worker.drain()
    assert [call["status"] for call in calls_of(ledger, job)] == ["succeeded"]
    assert ledger.job(job)["status"] == "pending"


async def run_to_the_end(ledger: Ledger, worker: Worker, job: UUID) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await completed(ledger, job)
        worker.drain()


async def test_a_call_that_succeeded_is_used_when_the_outcome_was_lost(
    ledger: Ledger, sandbox: Sandbox, work: Work
) -> None:
    job = image(ledger, seed=7, numInferenceSteps=20)
    await lose_the_outcome(ledger, work(image=1), job)
    await run_to_the_end(ledger, work(image=1), job)
    [call] = calls_of(ledger, job)
    assert call["status"] == "succeeded" and ledger.job(job)["result"]["requestId"] == call["request_id"]
    assert posts(sandbox) == 1 and len(sandbox.bills("fal")) == 1


async def test_another_request_than_the_one_that_succeeded_is_made(
    ledger: Ledger, sandbox: Sandbox, work: Work
) -> None:
    job = image(ledger)
    await lose_the_outcome(ledger, work(image=1), job)
    ledger.run(
        "update dreamcut_jobs set payload = payload || %s where id = %s", Jsonb({"prompt": "A ship"}), job
    )
    await run_to_the_end(ledger, work(image=1), job)
    assert posts(sandbox) == 2
    assert ledger.job(job)["result"]["requestId"] == calls_of(ledger, job)[1]["request_id"]


async def test_what_succeeded_and_has_expired_is_made_anew(
    ledger: Ledger, sandbox: Sandbox, work: Work
) -> None:
    job = image(ledger)
    await lose_the_outcome(ledger, work(image=1), job)
    gone = str(uuid4())
    ledger.run(
        "update dreamcut_provider_calls"
        " set ticket = replace(ticket::text, request_id, %s)::jsonb, request_id = %s",
        gone, gone,
    )  # fmt: skip
    await run_to_the_end(ledger, work(image=1), job)
    assert posts(sandbox) == 2
    assert [call["status"] for call in calls_of(ledger, job)] == ["succeeded", "succeeded"]


def test_a_new_signature_makes_no_other_request_of_it() -> None:
    """A render's captions are stored anew by each attempt, in a private bucket under a new signature."""
    signed = "https://x.supabase.co/storage/v1/object/sign/production-assets/m/captions.srt?token="
    assert unsigned({"a": [signed + "one", 1]}) == unsigned({"a": (signed + "two", 1)})
    assert unsigned("https://x/captions.srt?token=1") == "https://x/captions.srt?token=1"


# A file that is paid and cannot be stored at once


@pytest.mark.parametrize("plain", [True, False])
async def test_a_paid_file_is_stored_as_soon_as_the_storage_takes_it(
    ledger: Ledger, sandbox: Sandbox, work: Work, monkeypatch: pytest.MonkeyPatch, plain: bool
) -> None:
    monkeypatch.setattr(context, "SAVE_DELAYS_S", (0.01, 0.01, 0.01))
    save, failures = _failing(3, StorageError("full") if plain else StorageFailed("full"))
    monkeypatch.setattr(_storage_of(sandbox), "save", save)
    payload = {"text": "A door closes", "durationSeconds": 1.5}
    job = ledger.add(None, type="gen_sound_effects_elevenlabs", payload=Jsonb(payload))
    await run_to_the_end(ledger, work(sound_effects=1), job)
    assert failures == [] and len(sandbox.requests.entries("elevenlabs", "POST")) == 1
    assert [call["status"] for call in calls_of(ledger, job)] == ["succeeded"]


async def test_a_storage_that_refuses_for_good_is_not_asked_again(
    ledger: Ledger, sandbox: Sandbox, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = StorageFailed("too large", error_class=ErrorClass.INVALID_REQUEST)
    save, failures = _failing(3, error)
    monkeypatch.setattr(_storage_of(sandbox), "save", save)
    job = image(ledger)
    worker = work(image=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await until(lambda: ledger.job(job)["status"] == "failed")
        worker.drain()
    assert len(failures) == 2


def _storage_of(sandbox: Sandbox) -> type[Any]:
    environment = {name.lower(): value for name, value in sandbox.environment().items()}
    return type(open_storage(Settings.load(**environment)))


def _failing(times: int, error: Exception) -> tuple[Any, list[Exception]]:
    """A storage's `save` that fails so often first; the list holds the failures that are left."""
    left = [error] * times

    async def save(self: object, path: str, source: Path, content_type: str) -> Asset:
        if left:
            raise left.pop()
        return Asset(path, "http://127.0.0.1:1/x", content_type, len(path), "00")

    return save, left


# A cancel and a retry while the request is on its way


async def test_a_job_cancelled_and_retried_while_it_submits_pays_once(
    ledger: Ledger, sandbox: Sandbox, work: Work
) -> None:
    sandbox.fail("hold", provider="fal", method="POST")
    job = image(ledger)
    worker = work(image=2)  # the second claim does not wait for the first one's slot
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await until(lambda: posts(sandbox) == 1)
        first = worker._slots.attempts[job]
        ledger.cancel(job)
        await until(lambda: first._stop_reason == "cancelled")
        ledger.retry(job)
        await until(lambda: ledger.job(job)["claims"] == 2)
        await beats(worker, 3)  # time enough to send a request of its own
        sandbox.faults.clear()
        await completed(ledger, job)
        await until(lambda: not worker._slots.attempts)
        worker.drain()
    assert ledger.job(job)["claims"] == 2
    assert [call["status"] for call in calls_of(ledger, job)] == ["succeeded"]
    assert sandbox.requests.entries("fal", "PUT", "/cancel") == []
    assert posts(sandbox) == 1 and len(sandbox.bills("fal")) == 1


async def test_a_cancelled_job_s_worker_leaves_the_calls_of_later_claims(
    ledger: Ledger, tools: Tools
) -> None:
    """Claim 1 comes to its cancelling when claim 2 has been cancelled, too."""
    worker, (held,) = ledger.held(1)
    old = ledger.begin(worker, held)
    ledger.release(held.id)
    again = ledger.claim_one(worker)
    new = ledger.begin(worker, again)
    ledger.cancel(held.id)
    assert again.claims == held.claims + 1
    assert await paid.cancel_open_calls(_context(tools, worker, as_job(held))) == 1
    assert (ledger.call(old)["status"], ledger.call(new)["status"]) == ("unknown", "intent")


async def test_an_answer_is_not_waited_for_when_its_worker_is_gone_or_the_intent_is_old(
    ledger: Ledger, tools: Tools
) -> None:
    worker, (held,) = ledger.held(1)
    call = ledger.begin(worker, held)
    calls = _context(tools, worker, as_job(held)).calls
    [seen] = await calls.open_calls()
    assert 60 < seen.answer_due_s <= 75 and seen.wanted and seen.claim == held.claims
    ledger.later(80)
    assert [call.answer_due_s for call in await calls.open_calls()] == [0]
    ledger.later(-80)
    ledger.expire(worker)
    assert [call.answer_due_s for call in await calls.open_calls()] == [0]
    ledger.close(call, "unknown")


def _context(tools: Tools, worker: UUID, job: Any) -> Any:
    image_job: Any = load_job_types()["gen_image_falai"]
    return Attempt(job, worker, image_job, tools)._make_context()


# Beginning a call whose answer is lost


async def test_a_begin_whose_answer_was_lost_is_the_same_call(
    ledger: Ledger, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.limit(maxConcurrent=1, dailyLimitUsd=1)
    begin = Store.begin_call
    lost: list[UUID] = []

    async def unanswered(self: Store, *arguments: Any, **named: Any) -> UUID:
        call = await begin(self, *arguments, **named)
        if len(lost) < 2:
            lost.append(call)
            raise ConnectionResetError("no answer")
        return call

    monkeypatch.setattr(Store, "begin_call", unanswered)
    worker, (held,) = ledger.held(1, payload=Jsonb({"costLimit": 0.5}))
    call = await StoredCalls(store, worker, as_job(held)).begin("fal", SRPO, request={}, estimate_usd=0.4)
    assert lost == [call, call]
    assert ledger.value("select count(*) from dreamcut_provider_calls") == 1


async def test_two_tries_of_one_begin_at_a_time_are_the_same_call(
    ledger: Ledger, store: Store, database: str
) -> None:
    """The first is still waiting in the server when the second comes, on a new connection."""
    ledger.limit(maxConcurrent=1)
    worker, (held,) = ledger.held(1, payload=Jsonb({"costLimit": 0.5}))
    one = uuid4()
    begun: list[UUID] = []

    async def begin() -> None:
        call = await store.begin_call(
            worker,
            as_job(held),
            provider="fal",
            endpoint=SRPO,
            step=0,
            request={},
            estimate_usd=0.4,
            call=one,
        )
        begun.append(call)

    asking = "select pid from pg_stat_activity where query like '%%begin_call%%' and state = 'active'"
    with psycopg.connect(database) as holder:
        holder.execute("select from dreamcut_providers for update")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(begin)
            tasks.start_soon(begin)
            await until(
                lambda: (
                    sum(
                        is_blocked(ledger.connection, row["pid"])
                        for row in ledger.rows(f"{asking} and pid <> pg_backend_pid()")
                    )
                    == 2
                )
            )
            holder.rollback()
    assert begun == [one, one]
    assert ledger.value("select count(*) from dreamcut_provider_calls") == 1
