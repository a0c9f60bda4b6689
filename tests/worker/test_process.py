"""Worker processes that are told to end, or are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.support import Queue, wait_until
from tests.worker.test_running import do, status

REPOSITORY = Path(__file__).parents[2]
Spawn = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def queue(connection: psycopg.Connection[Any]) -> Queue:
    return Queue(connection)


@pytest.fixture
def spawn(database: str, tmp_path: Path) -> Iterator[Spawn]:
    """`spawn(lease_s=...)` starts worker processes, of which none is left at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def start(lease_s: float = 60.0) -> subprocess.Popen[bytes]:
        with (tmp_path / f"log{len(started)}").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.worker.play", database, str(tmp_path), str(lease_s)],
                cwd=REPOSITORY,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
                stdout=log,
                stderr=log,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_killed_worker_s_job_is_rescued_and_its_outcome_written_once(
    spawn: Spawn, queue: Queue, tmp_path: Path
) -> None:
    manifest, jobs = queue.graph({"a": [], "b": ["a"]}, payload=do("wait"))
    first = spawn()
    wait_until((tmp_path / "a.1").exists, "the job to start")
    first.send_signal(signal.SIGKILL)
    first.wait()
    queue.expire(queue.job(jobs["a"])["worker_id"])
    spawn()
    wait_until(lambda: queue.job(jobs["a"])["error_class"] == "stalled", "the rescue")
    queue.come_due()
    wait_until((tmp_path / "a.2").exists, "the job to start again")
    (tmp_path / "go").touch()
    wait_until(lambda: queue.of_manifest(manifest)["status"] == "done", "the manifest")
    row = queue.job(jobs["a"])
    assert (row["attempts"], row["claims"], row["result"]) == (1, 2, {"attempt": 1, "claim": 2})
    assert queue.job(jobs["b"])["claims"] == 1
    states = queue.rows("select state from dreamcut_workers order by started_at")
    assert [row["state"] for row in states] == ["lost", "live"]


def test_a_frozen_worker_wakes_up_without_harm(spawn: Spawn, queue: Queue, tmp_path: Path) -> None:
    """As after a laptop's sleep: its job is another's by then, and what it brings is dropped."""
    job = queue.add(None, "a", payload=do("wait"))
    first = spawn()
    wait_until((tmp_path / "a.1").exists, "the job to start")
    first.send_signal(signal.SIGSTOP)
    queue.expire(queue.job(job)["worker_id"])
    spawn()
    wait_until(lambda: queue.job(job)["error_class"] == "stalled", "the rescue")
    queue.come_due()
    wait_until((tmp_path / "a.2").exists, "the job to start again")
    (tmp_path / "go").touch()
    first.send_signal(signal.SIGCONT)
    wait_until(lambda: status(queue, job) == ["completed"], "the job")
    assert queue.job(job)["result"] == {"attempt": 1, "claim": 2}
    wait_until(
        lambda: queue.value("select count(*) from dreamcut_workers where state = 'live'") == 2,
        "the frozen worker's new incarnation",
    )


def test_a_job_that_hangs_the_event_loop_for_good_ends_its_process(
    spawn: Spawn, queue: Queue, tmp_path: Path
) -> None:
    """Nothing in that process could do it: the loop does not turn. What it held is another's."""
    soon = Jsonb({"backoffSeconds": 0.1})
    fellow = queue.add(None, "fellow", payload=do("wait"), retry_policy=soon, max_attempts=1)
    first = spawn(lease_s=3.0)  # it ends when it has hung for longer than that
    wait_until((tmp_path / "fellow.1").exists, "the fellow to start")
    hanging = queue.add(None, "hanging", payload=do("hang_once"), retry_policy=soon, max_attempts=1)
    wait_until(lambda: queue.job(hanging)["claims"] == 1, "the job to start")
    spawn()
    assert first.wait(60) == 1
    said = (tmp_path / "log0").read_text()
    assert "longer than the lease: this process ends" in said and "in _hang_once" in said
    wait_until((tmp_path / "fellow.2").exists, "the fellow to start again")
    (tmp_path / "go").touch()
    wait_until(lambda: status(queue, fellow, hanging) == ["completed", "completed"], "both")
    assert queue.job(hanging)["result"] == {"claim": 2}


def test_sigterm_lets_the_job_finish_and_ends_the_process(spawn: Spawn, queue: Queue, tmp_path: Path) -> None:
    job = queue.add(None, "a", payload=do("wait"))
    process = spawn()
    wait_until((tmp_path / "a.1").exists, "the job to start")
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: queue.value("select state from dreamcut_workers") == "draining", "draining")
    assert process.poll() is None
    (tmp_path / "go").touch()
    assert process.wait(30) == 0
    assert status(queue, job) == ["completed"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_hands_back_at_once(
    spawn: Spawn, queue: Queue, tmp_path: Path, number: signal.Signals
) -> None:
    job = queue.add(None, "a", payload=do("wait"), max_attempts=1)
    process = spawn()
    wait_until((tmp_path / "a.1").exists, "the job to start")
    process.send_signal(number)
    wait_until(lambda: queue.value("select state from dreamcut_workers") == "draining", "draining")
    process.send_signal(number)
    assert process.wait(30) == 0
    row = queue.job(job)
    assert (row["status"], row["attempts"], row["ready"]) == ("pending", 0, True)
    assert queue.value("select state from dreamcut_workers") == "stopped"
