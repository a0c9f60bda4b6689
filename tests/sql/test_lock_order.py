"""No deadlocks: a manifest is locked before its jobs, and several manifests in the order of their ids.

Every test holds a manifest, lets two statements queue up for it, and lets go; so what would be a deadlock is
one every time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.sql.interleaving import (
    FIRST_LOCK_AWAY,
    Meanwhile,
    alter,
    end,
    quick_to_see_deadlocks,
    throw_away,
)
from tests.support import Blocked, Held, Queue

pytestmark = pytest.mark.usefixtures("patient")
Another = Callable[[], Queue]

IN_THE_GIVEN_ORDER = """
    create or replace function dreamcut_lock_manifest_rows(p_manifests uuid[]) returns void
    language plpgsql set search_path = public, pg_temp as $$
    declare
        v_manifest uuid;
    begin
        foreach v_manifest in array p_manifests loop
            perform 1 from dreamcut_production_manifest where id = v_manifest for no key update;
        end loop;
    end $$;
"""
IS_FREE = "select from dreamcut_production_manifest where id = %s for no key update skip locked"


def complete_known(queue: Queue, worker: UUID, held: list[Held], manifests: list[UUID]) -> Any:
    """As the worker completes jobs: it knows their manifests from the claim."""
    return queue.value(
        "select dreamcut_complete_jobs(%s, %s, %s, %s, %s::text[], %s::uuid[])",
        worker,
        [job.id for job in held],
        [job.claims for job in held],
        [psycopg.types.json.Jsonb({}) for _ in held],
        [None for _ in held],
        manifests,
    )


def hold(queue: Queue, manifest: UUID) -> None:
    queue.run("select from dreamcut_production_manifest where id = %s for no key update", manifest)


@pytest.mark.parametrize("locked", [True, False], ids=["locked", "without the first lock"])
@pytest.mark.parametrize("how", ["completed", "completed, manifest known", "failed", "cancelled"])
def test_an_ending_and_a_cancelled_dependent_do_not_wait_for_each_other(
    queue: Queue, another: Another, database: str, how: str, locked: bool
) -> None:
    """An ending goes from the manifest to the dependent's row. A cancel that began with that row, and wanted
    the manifest then, would wait for the ending while that waits for it."""
    manifest, jobs = queue.graph({"a": [], "c": ["a"]})
    worker = queue.worker()
    held = queue.claim_one(worker)
    if not locked:
        queue.run(FIRST_LOCK_AWAY)

    def ending(side: Queue) -> None:
        if how == "completed, manifest known":
            complete_known(side, worker, [held], [manifest])
        else:
            end(side, how, worker, held)

    holder = another()
    hold(holder, manifest)
    dsn = quick_to_see_deadlocks(database)
    with Blocked(dsn, ending) as first, Blocked(dsn, lambda side: side.cancel(jobs["c"])) as second:
        holder.connection.rollback()
        errors = []
        for statement in (first, second):
            try:
                statement.result()
            except psycopg.errors.DeadlockDetected as error:
                errors.append(error)
    assert len(errors) == (0 if locked else 1)
    if locked:
        assert queue.states(manifest) == {"a": how.split(",")[0], "c": "cancelled"}
    else:
        throw_away(queue)


@pytest.mark.parametrize("order", ["low first", "high first"])
@pytest.mark.parametrize("known", [False, True], ids=["looked up", "known"])
def test_who_waits_for_one_manifest_holds_none_that_comes_later(
    queue: Queue, another: Another, database: str, order: str, known: bool
) -> None:
    low, high, worker, held, manifests = two_manifests(queue, order)
    holder = another()
    hold(holder, low)

    def batch(side: Queue) -> Any:
        return complete_known(side, worker, held, manifests) if known else side.complete(worker, *held)

    with Blocked(database, batch) as outcomes:
        assert len(queue.rows(IS_FREE, high)) == 1
        holder.connection.rollback()
        assert len(outcomes.result()) == 2


@pytest.mark.parametrize("order", ["low first", "high first"])
def test_an_insert_into_several_manifests_locks_them_in_that_order(
    queue: Queue, another: Another, database: str, order: str
) -> None:
    low, high, _, _, manifests = two_manifests(queue, order)
    holder = another()
    hold(holder, low)
    insert = "insert into dreamcut_jobs (manifest_id, type) select unnest(%s::uuid[]), 'work'"
    with Blocked(database, lambda producer: producer.run(insert, manifests)) as inserted:
        assert len(queue.rows(IS_FREE, high)) == 1
        holder.connection.rollback()
        assert inserted.result() == 2


def test_in_another_order_an_insert_would_hold_the_later_one(
    queue: Queue, another: Another, database: str
) -> None:
    """The companion of the test above."""
    low, high, _, _, _ = two_manifests(queue, "low first")
    alter(queue, "dreamcut_enter_jobs", ("order by manifest.id", "order by manifest.id desc"))
    holder = another()
    hold(holder, low)
    insert = "insert into dreamcut_jobs (manifest_id, type) select unnest(%s::uuid[]), 'work'"
    with Blocked(database, lambda producer: producer.run(insert, [low, high])) as inserted:
        assert queue.rows(IS_FREE, high) == []
        holder.connection.rollback()
        inserted.result()


@pytest.mark.parametrize("ordered", [True, False], ids=["in order", "as given"])
def test_two_batches_over_the_same_manifests_do_not_wait_for_each_other(
    queue: Queue, another: Another, database: str, ordered: bool
) -> None:
    """Locked as they are given, one batch would hold what the other wants next."""
    low, high = sorted(queue.graph({"a": [], "b": []})[0] for _ in range(2))
    worker = queue.worker()
    held = queue.claim(worker, 4)
    one = [job for job in held if job.job_id == "a"]
    two = [job for job in held if job.job_id == "b"]
    if not ordered:
        queue.run(IN_THE_GIVEN_ORDER)
    holder = another()
    hold(holder, low)
    dsn = quick_to_see_deadlocks(database)
    with (
        Blocked(dsn, lambda side: complete_known(side, worker, one, [low, high])) as first,
        Blocked(dsn, lambda side: complete_known(side, worker, two, [high, low])) as second,
    ):
        holder.connection.rollback()
        errors = []
        for statement in (first, second):
            try:
                assert len(statement.result()) == 2
            except psycopg.errors.DeadlockDetected as error:
                errors.append(error)
    assert len(errors) == (0 if ordered else 1)
    if not ordered:
        throw_away(queue)


def test_a_claim_that_starts_a_manifest_waits_for_nobody(
    queue: Queue, another: Another, database: str
) -> None:
    """A claim goes from the job to the manifest, against the order; so it must not wait for the manifest. If
    it did, an ending that holds it and wants the job would wait for the claim."""
    manifest, _ = queue.graph({"a": []})
    worker = queue.worker()
    holder = another()
    hold(holder, manifest)
    with Meanwhile(database, lambda side: side.claim(worker)) as claim:
        assert not claim.waited
        assert len(claim.result()) == 1
    holder.connection.rollback()
    queue.run("update dreamcut_jobs set status = 'pending', worker_id = null")
    starting = "and waiting.status in ('planning', 'ready_to_dispatch')\n            for no key update"
    alter(queue, "dreamcut_claim_jobs", (f"{starting} skip locked", starting))
    hold(holder, manifest)
    with Meanwhile(database, lambda side: side.claim(worker)) as claim:
        assert claim.waited
        holder.connection.rollback()
        claim.result()


def test_a_job_deleted_by_hand_may_meet_an_ending_and_nothing_is_lost(
    queue: Queue, another: Another, database: str
) -> None:
    """The one order that cannot be kept: Postgres locks the deleted row before any trigger can lock its
    manifest. It ends one of the two after a moment. A worker tries its outcome again (dreamcuts/db/pool.py),
    a person the delete."""
    manifest, jobs = queue.graph({"a": [], "c": ["a"], "z": []})
    worker = queue.worker()
    held = queue.claim_one(worker)
    holder = another()
    hold(holder, manifest)
    dsn = quick_to_see_deadlocks(database)

    def delete(side: Queue) -> None:
        side.run("delete from dreamcut_jobs where id = %s", jobs["c"])

    with Blocked(dsn, lambda side: side.complete(worker, held)) as first, Blocked(dsn, delete) as second:
        holder.connection.rollback()
        errors = []
        for statement, again in (
            (first, lambda: queue.complete(worker, held)),
            (second, lambda: delete(queue)),
        ):
            try:
                statement.result()
            except psycopg.errors.DeadlockDetected as error:
                errors.append(error)
                retry = again
    assert len(errors) == 1
    retry()
    assert queue.states(manifest) == {"a": "completed", "z": "ready"}
    assert queue.of_manifest(manifest)["open_jobs"] == 1


def two_manifests(queue: Queue, order: str) -> tuple[UUID, UUID, UUID, list[Held], list[UUID]]:
    """Two manifests by id, and a running job of each, in that order or the other."""
    low, high = sorted(queue.graph({"a": []})[0] for _ in range(2))
    worker = queue.worker()
    held = sorted(queue.claim(worker, 2), key=lambda job: queue.job(job.id)["manifest_id"])
    manifests = [low, high]
    if order == "high first":
        held.reverse()
        manifests.reverse()
    return low, high, worker, held, manifests
