"""Slots and commands as the database keeps them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.support import Queue

BEAT = "select * from dreamcut_beat(%s, interval '1 minute', false, '{}', '{}')"


def beat(queue: Queue, worker: UUID) -> dict[str, Any]:
    return queue.row(BEAT, worker)


@pytest.mark.parametrize(("profile", "scaled"), [("high", [6, 2]), ("low", [2, 1]), ("normal", [3, 1])])
def test_a_profile_doubles_or_halves_and_leaves_one(queue: Queue, profile: str, scaled: list[int]) -> None:
    queue.value("select dreamcut_scale_profile(%s)", profile)
    assert queue.value("select dreamcut_scaled_slots(array['a', 'b'], array[3, 1])") == scaled


def test_a_types_own_number_wins_and_null_takes_it_back(queue: Queue) -> None:
    queue.value("select dreamcut_scale_profile('high')")
    queue.value("select dreamcut_scale_type('a', 0)")
    assert queue.value("select dreamcut_scaled_slots(array['b', 'a'], array[3, 4])") == [6, 0]
    queue.value("select dreamcut_scale_type('a', 7)")
    assert queue.value("select dreamcut_scaled_slots(array['b', 'a'], array[3, 4])") == [6, 7]
    queue.value("select dreamcut_scale_type('a', null)")
    assert queue.value("select dreamcut_scaled_slots(array['b', 'a'], array[3, 4])") == [6, 8]


def test_who_was_started_without_slots_is_left_without(queue: Queue) -> None:
    queue.value("select dreamcut_scale_profile('low')")
    queue.value("select dreamcut_scale_type('b', 5)")
    assert queue.value("select dreamcut_scaled_slots(array['a', 'b', 'b'], array[0, 0, 2])") == [0, 0, 5]


@pytest.mark.parametrize(
    "call", ["scale_type('a', -1)", "scale_type('*', 3)", "scale_type('', 3)", "scale_profile('max')"]
)
def test_nonsense_is_refused(queue: Queue, call: str) -> None:
    with pytest.raises((psycopg.errors.CheckViolation, psycopg.errors.InvalidParameterValue)):
        queue.value(f"select dreamcut_{call}")


def test_everybody_sees_the_slots_that_a_worker_has(queue: Queue) -> None:
    worker = queue.worker(["a", "b"])
    assert beat(queue, worker)["slots"] == [10, 10]
    queue.value("select dreamcut_scale_type('b', 4)")
    assert (beat(queue, worker)["types"], beat(queue, worker)["slots"]) == (["a", "b"], [10, 4])
    assert queue.value("select slots from dreamcut_workers where id = %s", worker) == [10, 4]
    assert queue.value("select slots from dreamcut_queue_depth where type = 'b'") == 4
    # What it was started with is not forgotten, whatever the order of changes.
    queue.value("select dreamcut_scale_type('b', null)")
    queue.value("select dreamcut_scale_profile('high')")
    assert beat(queue, worker)["slots"] == [20, 20]
    queue.value("select dreamcut_scale_profile('normal')")
    assert beat(queue, worker)["slots"] == [10, 10]


def test_the_old_heartbeat_goes_on_working(queue: Queue) -> None:
    """Workers of the release before call it until they are upgraded: it knows nothing of commands."""
    worker = queue.worker()
    queue.value("select dreamcut_command_workers(%s, 'drain')", [worker])
    old = queue.heartbeat(worker)
    assert {"alive", "taken", "cancelled", "rescue_due"} <= set(old) and old["alive"]


def test_a_command_reaches_its_worker_only(queue: Queue) -> None:
    one, other = queue.worker(), queue.worker()
    assert queue.value("select dreamcut_command_workers(%s, 'restart', 'new release')", [one]) == [one]
    told = beat(queue, one)
    assert (told["command"], told["command_reason"]) == ("restart", "new release")
    assert beat(queue, other)["command"] is None


def test_who_has_ended_is_told_nothing(queue: Queue) -> None:
    worker = queue.worker()
    queue.value("select dreamcut_leave_worker(%s, true)", worker)
    assert queue.value("select dreamcut_command_workers(%s, 'drain')", [worker]) == []
    with pytest.raises(psycopg.errors.CheckViolation):
        queue.value("select dreamcut_command_workers(%s, 'explode')", [queue.worker()])


def test_those_concerned_are_notified(queue: Queue, database: str) -> None:
    serving, other = queue.worker(["a"]), queue.worker(["b"])
    with psycopg.connect(database, autocommit=True) as listening:
        listening.execute("listen dreamcut_workers")
        assert queue.value("select dreamcut_scale_type('a', 3)") == [serving]
        assert [n.payload for n in listening.notifies(timeout=10, stop_after=1)] == [str(serving)]
        assert set(queue.value("select dreamcut_scale_profile('low')")) == {serving, other}
        assert {n.payload for n in listening.notifies(timeout=10, stop_after=2)} == {str(serving), str(other)}


def test_priority_and_run_now_change_pending_jobs_only(queue: Queue) -> None:
    first, second, running = (queue.add(None, name) for name in "abc")
    delayed = queue.add(None, "d", next_retry_at="2100-01-01")
    worker = queue.worker()
    held = [job for job in queue.claim(worker, 3) if job.id == running]
    queue.run(
        "update dreamcut_jobs set status = 'pending', worker_id = null where id in (%s, %s)", first, second
    )
    assert set(queue.value("select dreamcut_set_priority(%s, 9)", [first, second, running])) == {
        first,
        second,
    }
    assert queue.job(first)["priority"] == 9 and queue.job(running)["priority"] == 5
    assert queue.value("select dreamcut_run_now(%s)", [first, running, delayed]) == [delayed]
    assert queue.job(delayed)["ready"]
    queue.complete(worker, *held)
