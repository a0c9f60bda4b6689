"""Notifications wake workers for what they can run now, once a transaction, and for nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.support import Queue

END = "the end of the test"


class Ear:
    """A listening connection; `heard()` are the notifications since the last call."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._connection.execute("listen dreamcut_jobs")
        self._connection.execute("listen dreamcut_workers")

    def heard(self) -> list[str]:
        self._connection.execute("select pg_notify('dreamcut_jobs', %s)", [END])
        heard: list[str] = []
        for notification in self._connection.notifies(timeout=30):
            if notification.payload == END:
                return sorted(heard)
            heard.append(f"{notification.channel.removeprefix('dreamcut_')}:{notification.payload}")
        raise AssertionError("the end was not heard")


@pytest.fixture
def ear(database: str) -> Iterator[Ear]:
    with psycopg.connect(database, autocommit=True) as connection:
        yield Ear(connection)


def test_an_insert_notifies_each_ready_type_once(queue: Queue, ear: Ear) -> None:
    queue.worker(["tts", "image"])
    queue.run(
        """insert into dreamcut_jobs (type, job_id) select type, type || n
           from unnest(array['tts', 'image']) type, generate_series(1, 50) n"""
    )
    assert ear.heard() == ["jobs:image", "jobs:tts"]


def test_nothing_is_heard_of_blocked_and_ended_jobs(queue: Queue, ear: Ear) -> None:
    queue.worker()
    manifest = queue.manifest()
    queue.add(manifest, "b", ["a"])
    queue.add(None, status="completed")
    assert ear.heard() == []


def test_of_a_scheduled_job_workers_hear_so_that_they_know_its_time(queue: Queue, ear: Ear) -> None:
    queue.worker()
    queue.add(None, next_retry_at="2999-01-01T00:00:00Z")
    assert ear.heard() == ["jobs:work"]


@pytest.mark.parametrize("change", ["waits = false", "state = 'draining'", "types = '{other}'"])
def test_where_no_worker_waits_for_it_nothing_is_sent(queue: Queue, ear: Ear, change: str) -> None:
    queue.worker()
    queue.run(f"update dreamcut_workers set {change}")
    queue.add(None)
    assert ear.heard() == []


def test_a_worker_waits_from_the_claim_on_that_finds_too_little(queue: Queue, ear: Ear) -> None:
    worker = queue.worker()
    queue.add(None)
    assert ear.heard() == ["jobs:work"]
    claim = "select count(*) from dreamcut_claim_jobs(%s, '{work}', %s, p_waits => false)"
    assert queue.value(claim, worker, [1]) == 1  # all it asked for
    queue.add(None)
    assert ear.heard() == []
    assert queue.value(claim, worker, [2]) == 1
    queue.add(None)
    assert ear.heard() == ["jobs:work"]
    assert queue.value(claim.replace("false", "true"), worker, [1]) == 1
    queue.add(None)
    assert ear.heard() == ["jobs:work"]


def test_becoming_ready_notifies(queue: Queue, ear: Ear) -> None:
    queue.worker(["image", "video", "render"])
    manifest = queue.manifest()
    for name in ("x", "y"):
        queue.add(manifest, name, ["a"], type="video")
    queue.add(manifest, "z", ["a", "x"], type="render")
    queue.add(manifest, "a", type="image")
    assert ear.heard() == ["jobs:image"]
    queue.finish("a", type="image")
    assert ear.heard() == ["jobs:video"]


def test_a_retry_is_heard_of_by_those_who_may_have_to_make_it(queue: Queue, ear: Ear) -> None:
    """Who wrote it may be gone when it comes due."""
    worker = queue.worker()
    queue.add(None)
    (held,) = queue.claim(worker)
    ear.heard()
    queue.fail(worker, held)
    assert ear.heard() == ["jobs:work"]


def test_what_is_rolled_back_is_not_heard(queue: Queue, another: Callable[[], Queue], ear: Ear) -> None:
    producer = another()
    producer.add(None)
    producer.connection.rollback()
    assert ear.heard() == []


def test_all_other_ways_to_be_ready_notify(queue: Queue, ear: Ear) -> None:
    job = queue.add(queue.manifest(), "a", ["ghost"])
    worker = queue.worker()
    queue.value("select dreamcut_drop_dependency(%s, 'ghost')", job)
    assert ear.heard() == ["jobs:work"]
    queue.hand_back(worker, queue.claim_one(worker))
    assert ear.heard() == ["jobs:work"]
    queue.fail(worker, queue.claim_one(worker), error_class="invalid_request")
    assert ear.heard() == []
    queue.retry(job)
    assert ear.heard() == ["jobs:work"]
    queue.fail(worker, queue.claim_one(worker))
    assert ear.heard() == ["jobs:work"]  # that it comes due
    queue.come_due()
    assert ear.heard() == []
    queue.value("select dreamcut_promote_jobs(10)")
    assert ear.heard() == ["jobs:work"]


@pytest.mark.parametrize("ask", ["cancel", "release"])
def test_the_worker_that_runs_a_job_is_told_at_once(queue: Queue, ear: Ear, ask: str) -> None:
    worker = queue.worker(["work", "other"])
    job, idle = queue.add(None), queue.add(None, type="other")
    queue.claim_one(worker)
    assert len(ear.heard()) == 2
    getattr(queue, ask)(job, idle)
    assert [line for line in ear.heard() if line.startswith("workers")] == [f"workers:{worker}"]
    assert isinstance(worker, UUID)
