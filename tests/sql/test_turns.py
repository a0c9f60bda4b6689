"""Turns: the n-th job of a manifest counts as inserted n minutes later, so that a small film behind a huge
one gets its share at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.sql.interleaving import race
from tests.support import Queue, names

Another = Callable[[], Queue]
BULK = """
    insert into dreamcut_jobs (manifest_id, job_id, type)
    select %s, %s || n, 'work' from generate_series(0, %s) n
"""
IN_TURNS = """
    insert into dreamcut_jobs (manifest_id, job_id, type)
    select manifest, 'j' || n, 'work'
    from generate_series(0, %s) n, unnest(%s::uuid[]) with ordinality as given (manifest, place)
    order by n, place
"""


def places(queue: Queue, manifest: UUID) -> list[int]:
    """The place of each job in its manifest, as its turn has it. (No transaction here takes a minute.)"""
    rows = queue.rows(
        """select floor((turn - extract(epoch from created_at) * 1000000) / 60000000)::int as place
           from dreamcut_jobs where manifest_id = %s order by seq""",
        manifest,
    )
    return [row["place"] for row in rows]


def order(queue: Queue, amount: int) -> list[str]:
    return names(queue.claim(queue.worker(), amount))


def test_a_small_manifest_behind_a_huge_one_gets_every_second_turn(queue: Queue) -> None:
    huge, small = queue.manifest(), queue.manifest()
    queue.run(BULK, huge, "huge", 499)
    queue.run(BULK, small, "small", 2)
    assert order(queue, 8) == ["huge0", "small0", "huge1", "small1", "huge2", "small2", "huge3", "huge4"]
    assert order(queue, 1000) == [f"huge{n}" for n in range(5, 500)]


def test_a_job_without_a_manifest_comes_after_what_is_first_in_its_own(queue: Queue) -> None:
    huge = queue.manifest()
    queue.run(BULK, huge, "huge", 2)
    queue.add(None, "alone")
    queue.add(None, "alone too")
    assert order(queue, 10) == ["huge0", "alone", "alone too", "huge1", "huge2"]


def test_priority_still_wins(queue: Queue) -> None:
    huge, small = queue.manifest(), queue.manifest()
    for n in range(3):
        queue.add(huge, f"huge{n}", priority=20)
    queue.add(small, "small0", priority=5)
    queue.add(small, "small1", priority=21)
    assert order(queue, 10) == ["small1", "huge0", "huge1", "huge2", "small0"]


def test_time_overtakes_every_turn(queue: Queue) -> None:
    """What came ten minutes ago goes before a new film as far as its tenth job."""
    huge, small = queue.manifest(), queue.manifest()
    queue.run(BULK, huge, "huge", 19)
    queue.run("update dreamcut_jobs set turn = turn - 10 * 60000000")
    queue.run(BULK, small, "small", 1)
    expected = [f"huge{n}" for n in range(11)] + ["small0", "huge11", "small1"]
    assert order(queue, 14) == expected


def test_the_inserts_of_a_transaction_count_on(queue: Queue, another: Another) -> None:
    manifest, other = queue.manifest(), queue.manifest()
    producer = another()
    producer.add(manifest, "a")
    producer.add(manifest, "b")
    producer.run(BULK, manifest, "more", 2)
    producer.add(other, "a")
    producer.add(None)
    producer.add(manifest, "c")
    producer.add(other, "b")
    producer.connection.commit()
    assert places(queue, manifest) == [0, 1, 2, 3, 4, 5]
    assert places(queue, other) == [0, 1]


def test_a_later_transaction_goes_on_from_what_the_manifest_has(queue: Queue, another: Another) -> None:
    manifest = queue.manifest()
    producer = another()
    for expected in ([0, 1, 2], [0, 1, 2, 3, 4, 5]):
        producer.run(BULK, manifest, f"j{len(expected)}_", 2)
        producer.connection.commit()
        assert places(queue, manifest) == expected
    queue.add(manifest, "by another connection")
    assert places(queue, manifest)[-1] == 6


@pytest.mark.parametrize("savepoint", [False, True], ids=["transaction", "savepoint"])
def test_what_was_rolled_back_counts_for_nothing(queue: Queue, another: Another, savepoint: bool) -> None:
    manifest = queue.manifest()
    producer = another()
    if savepoint:
        producer.add(manifest, "first")
        producer.run("savepoint here")
    producer.run(BULK, manifest, "lost", 9)
    producer.run("rollback to savepoint here" if savepoint else "rollback")
    producer.run(BULK, manifest, "kept", 1)
    producer.connection.commit()
    assert places(queue, manifest) == list(range(3 if savepoint else 2))


@pytest.mark.parametrize("manifests", [2, 40])
def test_manifests_in_turns_within_one_statement_are_counted_each_for_itself(
    queue: Queue, manifests: int
) -> None:
    chosen = [queue.manifest() for _ in range(manifests)]
    queue.run(IN_TURNS, 4, chosen)
    for manifest in chosen:
        assert places(queue, manifest) == [0, 1, 2, 3, 4]
    queue.run("insert into dreamcut_jobs (manifest_id, type) select unnest(%s::uuid[]), 'work'", chosen)
    for manifest in chosen:
        assert places(queue, manifest)[5:] == [5]


def test_thousands_of_manifests_in_one_transaction_are_no_burden(queue: Queue, another: Another) -> None:
    """What is kept of the manifests before does not grow with their number. With too many in turns a place is
    forgotten, and counted anew: they all are small, then."""
    chosen = [queue.manifest() for _ in range(1000)]
    producer = another()
    producer.run(IN_TURNS, 1, chosen)
    assert producer.value("select length(current_setting('dreamcuts.places'))") < 3000
    producer.connection.commit()
    counted = queue.rows("select turn - min(turn) over () as after from dreamcut_jobs")
    assert max(row["after"] for row in counted) < 3 * 60000000
    queue.add(chosen[0], "next")
    assert places(queue, chosen[0])[-1] == 2


def test_two_who_insert_at_once_have_the_same_places(queue: Queue, another: Another, database: str) -> None:
    """Neither waits for the other to have a number; their jobs come in turns."""
    manifest = queue.manifest()
    first = another()
    first.run(BULK, manifest, "one", 1)
    assert race(database, first, lambda second: second.run(BULK, manifest, "two", 1)) == (True, 2)
    assert places(queue, manifest) == [0, 1, 0, 1]
    assert order(queue, 4) == ["one0", "two0", "one1", "two1"]


def test_a_turn_of_ones_own_is_kept_and_moves_on_with_the_place(queue: Queue) -> None:
    manifest = queue.manifest()
    first = queue.add(manifest, "a", turn=100)
    second = queue.add(manifest, "b", turn=100)
    assert [queue.job(job)["turn"] for job in (first, second)] == [100, 60000100]


@pytest.fixture
def inserter(database: str, connection: psycopg.Connection[Any]) -> Iterator[Queue]:
    """A role that may insert into the two tables, and nothing else."""
    role = f"inserter_{uuid4().hex[:12]}"
    connection.execute(f"create role {role} nologin bypassrls")
    connection.execute(f"grant insert on dreamcut_jobs, dreamcut_production_manifest to {role}")
    try:
        with psycopg.connect(database, autocommit=True) as own:
            own.execute(f"set role {role}")
            yield Queue(own)
    finally:
        connection.execute(f"drop owned by {role}")
        connection.execute(f"drop role {role}")


def test_a_producer_with_no_right_but_to_insert_gets_turns_too(queue: Queue, inserter: Queue) -> None:
    manifest = uuid4()
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        inserter.rows("select 1 from dreamcut_production_manifest")
    inserter.run("insert into dreamcut_production_manifest (id, manifest_json) values (%s, '{}')", manifest)
    for _ in range(2):
        inserter.run(
            "insert into dreamcut_jobs (manifest_id, type) select %s, 'work' from generate_series(1, 2)",
            manifest,
        )
    assert places(queue, manifest) == [0, 1, 2, 3]
