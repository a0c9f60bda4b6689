"""Where a claim begins: a worker goes on from its last one, and looks at everything again now and then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import pytest

from tests.sql.interleaving import alter, race
from tests.support import Blocked, Queue

Another = Callable[[], Queue]
Place = tuple[int | None, int | None]

INT_MIN, INT_MAX = -(2**31), 2**31 - 1
BIGINT_MIN, BIGINT_MAX = -(2**63), 2**63 - 1
START: Place = (None, None)

# The claim's own statement, made to wait after it has its snapshot, before it locks the rows.
PAUSED = (
    "                order by ~job.priority, job.turn\n                limit lane.slots\n",
    "                    and pg_advisory_xact_lock(4711)::text = ''\n"
    "                order by ~job.priority, job.turn\n                limit lane.slots\n",
)


def claim(
    queue: Queue, worker: UUID, slots: int = 100, after: Place = START, type: str = "work"
) -> list[Any]:
    return claim_lanes(queue, worker, [(type, slots, after)])


def claim_lanes(queue: Queue, worker: UUID, lanes: Sequence[tuple[str, int, Place]]) -> list[Any]:
    return queue.rows(
        "select * from dreamcut_claim_jobs(%s, %s, %s, %s::int[], %s::bigint[])",
        worker,
        [lane[0] for lane in lanes],
        [lane[1] for lane in lanes],
        [lane[2][0] for lane in lanes],
        [lane[2][1] for lane in lanes],
    )


def claimed(rows: list[Any]) -> list[str]:
    return [row["job_id"] for row in rows]


def give_back(queue: Queue) -> None:
    queue.run("update dreamcut_jobs set status = 'pending', worker_id = null where status = 'processing'")


def test_a_claim_begins_with_the_place_it_is_given_and_that_one_is_included(queue: Queue) -> None:
    for name, priority, turn in [
        ("urgent", 20, 9), ("first", 5, 1), ("second", 5, 2), ("too", 5, 2), ("third", 5, 3), ("idle", 1, 0),
    ]:  # fmt: skip
        queue.add(None, name, priority=priority, turn=turn)
    worker = queue.worker()
    everything = ["urgent", "first", "second", "too", "third", "idle"]
    for place, expected in [
        (START, everything),
        ((~20, 9), everything),
        ((~20, 10), everything[1:]),
        ((~5, 1), everything[1:]),
        ((~5, 2), everything[2:]),
        ((~5, 3), everything[4:]),
        ((~5, 4), everything[5:]),
        ((~1, 0), everything[5:]),
        ((~1, 1), []),
        ((~0, BIGINT_MIN), []),
    ]:
        found = claim(queue, worker, after=place)
        assert sorted(claimed(found)) == sorted(expected), place
        assert [(row["urgency"], row["turn"]) for row in found] == sorted(
            (row["urgency"], row["turn"]) for row in found
        )
        give_back(queue)


def test_what_stands_before_the_place_is_found_by_the_next_claim_from_the_start(queue: Queue) -> None:
    for turn in range(1, 6):
        queue.add(None, f"j{turn}", turn=turn)
    worker = queue.worker()
    assert claimed(claim(queue, worker, after=(~5, 4))) == ["j4", "j5"]
    assert claim(queue, worker, after=(~5, 4)) == []
    assert claimed(claim(queue, worker)) == ["j1", "j2", "j3"]


def test_the_extremes_of_priority_and_turn_are_places_like_others(queue: Queue) -> None:
    expected = []
    for priority in (INT_MAX, 0, -1, INT_MIN):
        for turn in (BIGINT_MIN, -1, 0, BIGINT_MAX):
            name = f"{priority} {turn}"
            queue.add(None, name, priority=priority, turn=turn)
            expected.append(name)
    worker = queue.worker()
    everything = claim(queue, worker)
    assert claimed(everything) == expected
    assert (everything[0]["urgency"], everything[-1]["urgency"]) == (INT_MIN, INT_MAX)
    for number, row in enumerate(everything):
        give_back(queue)
        assert claimed(claim(queue, worker, after=(row["urgency"], row["turn"]))) == expected[number:]


def test_a_worker_that_goes_on_from_its_last_job_gets_each_once(queue: Queue) -> None:
    manifest = queue.manifest()
    for number in range(20):
        queue.add(manifest if number % 2 else None, f"j{number}", priority=number % 3)
    worker = queue.worker()
    seen: list[str] = []
    place = START
    while found := claim(queue, worker, slots=3, after=place):
        seen += claimed(found)
        place = (found[-1]["urgency"], found[-1]["turn"])
    assert len(seen) == len(set(seen)) == 20


def test_each_type_has_a_place_of_its_own(queue: Queue) -> None:
    for type in ("tts", "image", "video"):
        for turn in range(3):
            queue.add(None, f"{type}{turn}", type=type, turn=turn)
    worker = queue.worker(["tts", "image", "video"])
    found = claim_lanes(queue, worker, [("tts", 9, START), ("image", 9, (~5, 1)), ("video", 1, (~5, 2))])
    assert set(claimed(found)) == {"tts0", "tts1", "tts2", "image1", "image2", "video2"}


def test_only_a_claim_from_the_start_of_a_type_promotes_and_takes_a_suspect(queue: Queue) -> None:
    """The others are to cost nothing that dead entries at the start of an index could make dear."""
    queue.add(None, "j1", turn=1)
    queue.add(None, "due", turn=2, next_retry_at="2026-01-01T00:00:00Z")
    queue.add(None, "suspect", turn=3, stalls=2)
    queue.add(None, "other", type="other")
    worker = queue.worker(["work", "other"])
    assert claimed(claim(queue, worker, after=(~5, 1))) == ["j1"]
    found = claim_lanes(queue, worker, [("work", 9, (~5, 2)), ("other", 9, START)])
    assert set(claimed(found)) == {"due", "suspect", "other"}


def test_two_workers_that_begin_at_one_place_at_once_share_no_job(queue: Queue, another: Another) -> None:
    for turn in range(10):
        queue.add(None, f"j{turn}", turn=turn)
    one, two = queue.worker(), queue.worker()
    first, second = another(), another()
    taken = claimed(claim(first, one, slots=3, after=(~5, 2)))
    others = claimed(claim(second, two, slots=3, after=(~5, 2)))
    assert (taken, others) == (["j2", "j3", "j4"], ["j5", "j6", "j7"])
    first.connection.commit()
    second.connection.rollback()
    assert claimed(claim(queue, two)) == ["j0", "j1", "j5", "j6", "j7", "j8", "j9"]


@pytest.mark.parametrize("slots", [1, 10])
@pytest.mark.parametrize(
    "change",
    [
        "payload = '{\"new\": 1}'",
        "priority = 5, metadata = '{}'",
        "priority = 6",
        "turn = 0",
        "attempts = 0",
    ],
)
def test_a_job_that_changes_under_a_claim_is_left_for_the_next_one(
    queue: Queue, another: Another, database: str, change: str, slots: int
) -> None:
    """Another connection writes the row between the claim's snapshot and its lock. The claim locks the new
    row, but cannot see it; it must not claim the old one, and not lose it. No companion: the row of the
    snapshot is not there any more, and cannot be claimed."""
    changed, other = queue.add(None, "a", turn=1), queue.add(None, "b", turn=2)
    worker = queue.worker()
    alter(queue, "dreamcut_claim_jobs", PAUSED)
    holder = another()
    holder.run("select pg_advisory_lock(4711)")
    with Blocked(database, lambda side: claim(side, worker, slots)) as claiming:
        queue.run(f"update dreamcut_jobs set {change} where id = %s", changed)
        holder.run("select pg_advisory_unlock(4711)")
        got = [row["id"] for row in claiming.result()]
    assert got == ([] if slots == 1 else [other])
    row = queue.job(changed)
    assert (row["status"], row["claims"], row["ready"]) == ("pending", 0, True)
    assert changed in [row["id"] for row in claim(queue, worker, slots)]
    if slots == 1:
        assert [row["id"] for row in claim(queue, worker, slots)] == [other]
    assert {row["claims"] for row in queue.rows("select claims from dreamcut_jobs")} == {1}


@pytest.mark.parametrize("how", ["claimed by another", "cancelled", "delayed", "deleted", "being changed"])
def test_a_job_that_is_gone_under_a_claim_gives_its_slot_to_the_next(
    queue: Queue, another: Another, database: str, how: str
) -> None:
    gone, other = queue.add(None, "a", turn=1), queue.add(None, "b", turn=2)
    worker, rival = queue.worker(), queue.worker()
    side = another()
    source = queue.value("select pg_get_functiondef('dreamcut_claim_jobs'::regproc)").replace("%", "%%")
    alter(queue, "dreamcut_claim_jobs", PAUSED)
    holder = another()
    holder.run("select pg_advisory_lock(4711)")
    with Blocked(database, lambda side: claim(side, worker, 1)) as claiming:
        if how == "claimed by another":
            queue.run(source)
            assert queue.claim_one(rival).id == gone
        elif how == "cancelled":
            queue.cancel(gone)
        elif how == "delayed":
            queue.run(
                "update dreamcut_jobs set next_retry_at = now() + interval '1 hour' where id = %s", gone
            )
        elif how == "deleted":
            queue.run("delete from dreamcut_jobs where id = %s", gone)
        else:
            side.run("update dreamcut_jobs set payload = '{\"new\": 1}' where id = %s", gone)
        holder.run("select pg_advisory_unlock(4711)")
        assert [row["id"] for row in claiming.result()] == [other]
    side.connection.commit()
    again = [row["id"] for row in claim(queue, worker)]
    assert again == ([gone] if how == "being changed" else [])


def test_a_job_comes_back_before_the_place_of_a_worker_and_a_full_claim_gets_it(
    queue: Queue, another: Another, database: str
) -> None:
    """A job handed back by one worker, while another goes on behind it: only a claim from the start sees
    it."""
    for turn in range(4):
        queue.add(None, f"j{turn}", turn=turn)
    one, two = queue.worker(), queue.worker()
    first = another()
    held = queue.claim_one(one)
    first.hand_back(one, held)
    waited, found = race(database, first, lambda side: claim(side, two, slots=2))
    assert not waited and claimed(found) == ["j1", "j2"]
    place = (found[-1]["urgency"], found[-1]["turn"])
    assert claimed(claim(queue, two, after=place)) == ["j3"]
    assert claim(queue, two, after=place) == []
    assert claimed(claim(queue, two)) == ["j0"]
