"""Outcomes and inserts at once, in two transactions. No race is left to chance: one waits, as Postgres itself
says, for the other.

Each test is run again with the locks taken away, where that shows what they are for; where it says nothing
new, the test says why. What operators do at the same time is in test_races_operator.py, deadlocks in
test_lock_order.py.
"""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from tests.sql.interleaving import (
    FIRST_LOCK_AWAY,
    TAKE_THE_LOCKS_AWAY,
    Steps,
    alter,
    end,
    race,
    race_in,
    throw_away,
)
from tests.support import Blocked, Queue

pytestmark = pytest.mark.usefixtures("patient")
Another = Callable[[], Queue]

OPEN_NOW = """
    (select count(*) from dreamcut_jobs job where job.manifest_id = manifest.id and job.completed_at is null)
"""
WAITS_NOW = "(select count(*) from dreamcut_job_dependencies wait where wait.job = job.id)"


def without_the_locks(queue: Queue, locked: bool, sql: str = TAKE_THE_LOCKS_AWAY) -> None:
    if not locked:
        queue.run(sql)


both_ways = pytest.mark.parametrize("locked", [True, False], ids=["locked", "without the locks"])


# Endings


@pytest.mark.parametrize("counting", [False, True], ids=["subtracting", "counting"])
@both_ways
def test_two_last_dependencies_that_complete_at_once_free_the_dependent_once(
    queue: Queue, another: Another, database: str, locked: bool, counting: bool
) -> None:
    """Two things see to it: the manifest's lock, and that a met wait is subtracted in the dependent's own
    row. Each alone is enough. Without both (the waits counted again, which cannot see the other's) the
    dependent hangs."""
    manifest, jobs = queue.graph({"a": [], "b": [], "c": ["a", "b"]})
    without_the_locks(queue, locked)
    if counting:
        alter(queue, "dreamcut_meet_waits", ("job.unmet_dependencies - fewer.waits", WAITS_NOW))
    worker = queue.worker()
    a, b = queue.claim(worker, 2)
    first = another()
    first.complete(worker, a)
    assert race(database, first, lambda second: second.complete(worker, b)) == (True, [jobs["b"]])
    if locked or not counting:
        assert queue.states(manifest)["c"] == "ready"
        assert queue.job(jobs["c"])["unmet_dependencies"] == 0
    else:
        assert queue.job(jobs["c"])["unmet_dependencies"] == 1, (
            "for ever: no wait is left that somebody could meet"
        )
        assert queue.rows("select 1 from dreamcut_job_dependencies") == []
    if not locked:
        throw_away(queue)


@pytest.mark.parametrize("order", ["failed first", "completed first"])
def test_a_failure_and_a_completion_at_once(
    queue: Queue, another: Another, database: str, order: str
) -> None:
    """No companion: without the manifest's lock the dependent's own row makes one wait for the other, and
    both statements check it again (`pending`, the count) when they get it."""
    manifest, _ = queue.graph({"a": [], "b": [], "c": ["a", "b"], "d": ["c"]})
    worker = queue.worker()
    a, b = queue.claim(worker, 2)
    ends = [("failed", a), ("completed", b)]
    if order == "completed first":
        ends.reverse()
    first = another()
    end(first, ends[0][0], worker, ends[0][1])
    waited, _ = race(database, first, lambda second: end(second, ends[1][0], worker, ends[1][1]))
    assert waited
    assert queue.states(manifest) == {"a": "failed", "b": "completed", "c": "cancelled", "d": "cancelled"}
    assert queue.of_manifest(manifest)["status"] == "failed"


@pytest.mark.parametrize("counting", [False, True], ids=["subtracting", "counting"])
@both_ways
def test_the_last_two_jobs_of_a_manifest_end_at_once_and_it_ends_once(
    queue: Queue, another: Another, database: str, locked: bool, counting: bool
) -> None:
    """As with the dependents: the first lock, and that the count is subtracted in the manifest's own row."""
    manifest, _ = queue.graph({"a": [], "b": []})
    without_the_locks(queue, locked, FIRST_LOCK_AWAY)
    if counting:
        alter(queue, "dreamcut_settle", ("greatest(manifest.open_jobs - ended.jobs, 0)", OPEN_NOW))
    worker = queue.worker()
    a, b = queue.claim(worker, 2)
    first = another()
    first.complete(worker, a)
    waited, _ = race(database, first, lambda second: second.complete(worker, b))
    assert waited
    if locked or not counting:
        assert queue.of_manifest(manifest)["status"] == "done"
    else:
        assert queue.of_manifest(manifest)["status"] == "rendering", "and nobody ends another job of it"
        throw_away(queue)


def test_a_rolled_back_completion_frees_nobody(queue: Queue, another: Another) -> None:
    manifest, _ = queue.graph({"a": [], "b": ["a"]})
    worker = queue.worker()
    held = queue.claim_one(worker)
    other = another()
    other.complete(worker, held)
    other.connection.rollback()
    assert queue.states(manifest) == {"a": "processing", "b": "blocked"}
    queue.complete(worker, held)
    assert queue.states(manifest) == {"a": "completed", "b": "ready"}


# Inserts


@pytest.mark.parametrize("how", ["completed", "failed", "cancelled"])
@both_ways
def test_a_dependency_ends_while_its_dependent_is_being_inserted(
    queue: Queue, another: Another, database: str, how: str, locked: bool
) -> None:
    """Without the locks the ending cannot see the dependent, whose insert is not committed: it waits for
    ever."""
    manifest, _ = queue.graph({"a": []})
    without_the_locks(queue, locked)
    worker = queue.worker()
    held = queue.claim_one(worker)
    producer = another()
    producer.add(manifest, "b", ["a"])
    producer.add(manifest, "c", ["b"])
    waited, _ = race(database, producer, lambda other: end(other, how, worker, held))
    assert waited == locked
    assert_freed_or_gone(queue, manifest, how, locked)


@pytest.mark.parametrize("how", ["completed", "failed", "cancelled"])
@both_ways
def test_a_dependent_is_inserted_while_its_dependency_ends(
    queue: Queue, another: Another, database: str, how: str, locked: bool
) -> None:
    """Without the locks the insert cannot see the ending, which is not committed: the dependent waits for
    ever."""
    manifest, _ = queue.graph({"a": []})
    without_the_locks(queue, locked)
    worker = queue.worker()
    held = queue.claim_one(worker)
    ending = another()
    end(ending, how, worker, held)

    def insert(producer: Queue) -> None:
        with producer.connection.transaction():
            producer.add(manifest, "b", ["a"])
            producer.add(manifest, "c", ["b"])

    waited, _ = race(database, ending, insert)
    assert waited == locked
    assert_freed_or_gone(queue, manifest, how, locked)


def assert_freed_or_gone(queue: Queue, manifest: object, how: str, locked: bool) -> None:
    """What a dependent b of the ended a, and c behind it, must be; or are without the locks, until
    reconciled."""
    right = ("ready", "blocked") if how == "completed" else ("cancelled", "cancelled")
    states = queue.states(manifest)
    if locked:
        assert states == {"a": how, "b": right[0], "c": right[1]}
        return
    assert states == {"a": how, "b": "blocked", "c": "blocked"}
    assert queue.reconcile() > 0
    assert queue.states(manifest) == {"a": how, "b": right[0], "c": right[1]}
    throw_away(queue)


@pytest.mark.parametrize("order", ["dependency first", "dependent first"])
def test_both_are_inserted_in_two_open_transactions(
    queue: Queue, another: Another, database: str, order: str
) -> None:
    """No companion: the dependency has not ended yet, and whoever ends it sees the dependent. The next test
    has one."""
    manifest = queue.manifest()
    one: tuple[str, list[str]] = ("a", [])
    two: tuple[str, list[str]] = ("b", ["a"])
    if order == "dependent first":
        one, two = two, one
    first = another()
    first.add(manifest, *one)
    with Blocked(database, lambda second: second.add(manifest, *two)) as insert:
        first.connection.commit()
        insert.result()
    assert queue.states(manifest) == {"a": "ready", "b": "blocked"}
    queue.finish("a")
    assert queue.states(manifest)["b"] == "ready"


@pytest.mark.parametrize("status", ["completed", "failed"])
@pytest.mark.parametrize("order", ["dependency first", "dependent first"])
@both_ways
def test_a_job_is_inserted_as_ended_while_its_dependent_is(
    queue: Queue, another: Another, database: str, order: str, status: str, locked: bool
) -> None:
    """Without the locks neither insert sees the other, and the dependent waits for ever."""
    manifest = queue.manifest()
    queue.add(manifest, "z")
    without_the_locks(queue, locked)
    steps: Steps = {
        "dependency first": lambda side: side.add(manifest, "a", status=status),
        "dependent first": lambda side: side.add(manifest, "b", ["a"]),
    }
    waited, _ = race_in(order, steps, database, another())
    assert waited == locked
    right = "ready" if status == "completed" else "cancelled"
    assert queue.states(manifest)["b"] == (right if locked else "blocked")
    if not locked:
        throw_away(queue)


@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_the_same_job_is_inserted_twice_at_once(
    queue: Queue, another: Another, database: str, ending: str
) -> None:
    """No companion: a unique index waits by itself."""
    manifest = queue.manifest()
    first = another()
    first.add(manifest, "a")
    with Blocked(database, lambda second: second.add(manifest, "a")) as insert:
        getattr(first.connection, ending)()
        if ending == "commit":
            with pytest.raises(psycopg.errors.UniqueViolation):
                insert.result()
        else:
            insert.result()
    row = queue.of_manifest(manifest)
    assert (row["open_jobs"], row["total_jobs"]) == (1, 1)


def test_an_error_in_the_producers_transaction_leaves_nothing(queue: Queue, another: Another) -> None:
    manifest, _ = queue.graph({"a": []})
    producer = another()
    producer.add(manifest, "b", ["a"])
    with pytest.raises(psycopg.errors.UniqueViolation):
        producer.add(manifest, "a")
    producer.connection.rollback()
    assert queue.of_manifest(manifest)["open_jobs"] == 1
    assert queue.value("select count(*) from dreamcut_job_dependencies") == 0


# Cycles


def stuck(queue: Queue) -> dict[str, str]:
    return {row["job_id"]: row["code"] for row in queue.rows("select job_id, code from dreamcut_stuck_jobs")}


@pytest.mark.parametrize("how", ["completed", "failed", "cancelled"])
@pytest.mark.parametrize("order", ["ending first", "insert first"])
def test_a_cycle_is_closed_by_an_insert_while_a_dependency_of_it_ends(
    queue: Queue, another: Another, database: str, order: str, how: str
) -> None:
    """b waits for a, and for c; c comes now, and waits for b. The completed a frees neither; with a failed or
    cancelled one both go, and neither is left behind."""
    manifest, jobs = queue.graph({"a": [], "b": ["a", "c"], "after": ["c"]})
    worker = queue.worker()
    held = queue.claim_one(worker)
    steps: Steps = {
        "ending first": lambda side: end(side, how, worker, held),
        "insert first": lambda side: side.add(manifest, "c", ["b"]),
    }
    waited, _ = race_in(order, steps, database, another())
    assert waited
    if how != "completed":
        assert queue.states(manifest) == {"a": how, "b": "cancelled", "c": "cancelled", "after": "cancelled"}
        assert queue.of_manifest(manifest)["status"] == "failed"
        return
    assert queue.states(manifest) == {"a": "completed", "b": "blocked", "c": "blocked", "after": "blocked"}
    assert stuck(queue) == {"b": "dependency_cycle", "c": "dependency_cycle", "after": "behind"}
    assert queue.value("select dreamcut_drop_dependency(%s, 'c')", jobs["b"])
    for name in ("b", "c", "after"):
        queue.finish(name)
    assert queue.of_manifest(manifest)["status"] == "done"


@both_ways
def test_a_cycle_is_closed_by_an_insert_while_a_job_of_it_is_cancelled(
    queue: Queue, another: Another, database: str, locked: bool
) -> None:
    """Without the locks the job that closes it waits for ever for one that was cancelled."""
    manifest, jobs = queue.graph({"b": ["c"], "z": []})
    without_the_locks(queue, locked)
    operator = another()
    operator.cancel(jobs["b"])
    waited, _ = race(database, operator, lambda producer: producer.add(manifest, "c", ["b"]))
    assert waited == locked
    assert queue.states(manifest) == {
        "b": "cancelled",
        "c": "cancelled" if locked else "blocked",
        "z": "ready",
    }
    if not locked:
        throw_away(queue)


def test_the_halves_of_a_cycle_are_inserted_at_once(queue: Queue, another: Another, database: str) -> None:
    """No companion: nothing has ended, so neither half is told anything. It is found, and can be undone."""
    queue.worker()
    manifest = queue.manifest()
    first = another()
    first.add(manifest, "x", ["y"])
    assert race(database, first, lambda second: second.add(manifest, "y", ["x"]))[0]
    assert queue.states(manifest) == {"x": "blocked", "y": "blocked"}
    assert stuck(queue) == {"x": "dependency_cycle", "y": "dependency_cycle"}
    queue.cancel(queue.value("select id from dreamcut_jobs where job_id = 'x'"))
    assert queue.states(manifest) == {"x": "cancelled", "y": "cancelled"}
    assert queue.of_manifest(manifest)["status"] == "failed"
