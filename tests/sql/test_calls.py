"""Rows of paid calls: begun only by who holds the job, not lost once there is a request id, closed once."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID, uuid4

import psycopg
import pytest

from dreamcuts.db.sql import query
from tests.support import LEASE_LOST, Blocked, Held, Queue

BEGIN = "select dreamcut_begin_call(%s, %s, %s, 'fal', 'fal-ai/flux', 0, '{\"prompt\": \"x\"}', 0.25)"


def begin(queue: Queue, worker: UUID, held: Held) -> UUID:
    call: UUID = queue.value(BEGIN, worker, held.id, held.claims)
    return call


def status_of(queue: Queue, call: UUID) -> str:
    return str(queue.value("select status from dreamcut_provider_calls where id = %s", call))


def test_a_call_goes_from_intent_to_its_end(queue: Queue) -> None:
    manifest, _ = queue.graph({"a": []})
    worker = queue.worker()
    held = queue.claim_one(worker)
    call = begin(queue, worker, held)
    row = queue.row("select * from dreamcut_provider_calls where id = %s", call)
    assert (row["status"], row["manifest_id"], row["job_id"], row["claim"]) == ("intent", manifest, "a", 1)
    queue.value("select dreamcut_submitted_call(%s, 'req-1', '{\"url\": \"u\"}')", call)
    assert status_of(queue, call) == "submitted"
    queue.value("select dreamcut_finish_call(%s, 'succeeded', 0.3, null, null)", call)
    row = queue.row("select * from dreamcut_provider_calls where id = %s", call)
    assert (row["status"], row["request_id"], float(row["cost_usd"])) == ("succeeded", "req-1", 0.3)
    assert row["created_at"] <= row["submitted_at"] <= row["finished_at"]


@pytest.mark.parametrize("how", ["cancelled", "released", "claimed again", "done", "other worker", "deleted"])
def test_who_no_longer_holds_the_job_cannot_begin_a_call(queue: Queue, how: str) -> None:
    job = queue.add(None)
    worker = queue.worker()
    held = queue.claim_one(worker)
    if how == "cancelled":
        queue.cancel(job)
    elif how in ("released", "claimed again"):
        queue.release(job)
        if how == "claimed again":
            queue.claim_one(worker)
    elif how == "done":
        queue.complete(worker, held)
    elif how == "deleted":
        queue.run("delete from dreamcut_jobs where id = %s", job)
    with pytest.raises(psycopg.Error) as raised:
        begin(queue, uuid4() if how == "other worker" else worker, held)
    assert raised.value.sqlstate == LEASE_LOST
    assert queue.value("select count(*) from dreamcut_provider_calls") == 0


def test_a_rescue_under_way_makes_the_call_wait_and_refuses_it(
    queue: Queue, another: Callable[[], Queue], database: str
) -> None:
    queue.add(None)
    worker = queue.worker()
    held = queue.claim_one(worker)
    queue.expire(worker)
    rescuing = another()
    rescuing.rescue()
    with Blocked(database, lambda other: begin(other, worker, held)) as call:
        rescuing.connection.commit()
        with pytest.raises(psycopg.Error) as raised:
            call.result()
    assert raised.value.sqlstate == LEASE_LOST


def test_a_request_id_is_stored_even_for_a_lost_job(queue: Queue) -> None:
    job = queue.add(None)
    worker = queue.worker()
    held = queue.claim_one(worker)
    call = begin(queue, worker, held)
    queue.expire(worker)
    queue.rescue()
    queue.value("select dreamcut_submitted_call(%s, 'req-1', '{}')", call)
    assert status_of(queue, call) == "submitted"
    open_calls = queue.connection.execute(query("open_calls").psycopg_text, {"job": job}).fetchall()
    assert len(open_calls) == 1


def test_a_closed_call_stays_as_it_is(queue: Queue) -> None:
    queue.add(None)
    worker = queue.worker()
    call = begin(queue, worker, queue.claim_one(worker))
    queue.value("select dreamcut_finish_call(%s, 'unknown', null, 'no answer', null)", call)
    queue.value("select dreamcut_finish_call(%s, 'succeeded', 9, null, null)", call)
    queue.value("select dreamcut_submitted_call(%s, 'late', '{}')", call)
    row = queue.row("select * from dreamcut_provider_calls where id = %s", call)
    assert (row["status"], row["cost_usd"], row["error"]) == ("unknown", None, "no answer")
    assert row["request_id"] == "late"  # what is known about a paid request is kept all the same


def test_open_calls_come_oldest_first_and_without_the_closed(queue: Queue) -> None:
    job = queue.add(None)
    worker = queue.worker()
    held = queue.claim_one(worker)
    calls = [begin(queue, worker, held) for _ in range(3)]
    queue.value("select dreamcut_finish_call(%s, 'failed', 0, 'x', null)", calls[1])
    rows = queue.connection.execute(query("open_calls").psycopg_text, {"job": job}).fetchall()
    assert [row[0] for row in rows] == [calls[0], calls[2]]


def test_the_costs_of_a_manifest(queue: Queue) -> None:
    manifest, _ = queue.graph({"a": []})
    worker = queue.worker()
    held = queue.claim_one(worker)
    for status, cost in [("succeeded", 0.5), ("failed", 0.25), ("unknown", None), (None, None)]:
        call = begin(queue, worker, held)
        if status:
            queue.value("select dreamcut_finish_call(%s, %s, %s::numeric, null, null)", call, status, cost)
    row = queue.row("select * from dreamcut_spend_by_manifest where manifest_id = %s", manifest)
    assert (row["calls"], float(row["spent_usd"]), row["open_calls"], row["unknown_calls"]) == (4, 0.75, 1, 1)
