"""What a worker does with jobs: all of them, in order, within its slots, whatever they do."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import pytest
from psycopg.types.json import Jsonb

from tests.support import Queue, until
from tests.worker.conftest import Start, until_listening
from tests.worker.play import SECRET, Play

pytestmark = pytest.mark.anyio


def do(what: str, **more: Any) -> Jsonb:
    return Jsonb({"do": what, **more})


def status(queue: Queue, *jobs: UUID) -> list[str]:
    return [str(queue.job(job)["status"]) for job in jobs]


def completed(queue: Queue) -> int:
    return int(queue.value("select count(*) from dreamcut_jobs where status = 'completed'"))


async def run_until_idle(start: Start, **changes: Any) -> dict[str, int]:
    async with start(until_idle=True, **changes) as worker:
        await worker.wait_draining()
    return dict(worker.counts)


async def test_a_graph_runs_in_order_and_until_nothing_is_left(
    start: Start, queue: Queue, play: Play, tmp_path: Path
) -> None:
    manifest, jobs = queue.graph({"d": ["b", "c"], "b": ["a"], "c": ["a"], "a": []})
    assert await run_until_idle(start) == {"completed": 4}
    assert play.runs[0] == "a" and play.runs[3] == "d" and len(play.runs) == 4
    row = queue.job(jobs["a"])
    made = Path(str(manifest)) / "a" / row["result"]["sha256"][:16] / "made.txt"
    assert (tmp_path / "assets" / made).read_text() == "made by attempt 1"
    assert row["output_url"] == f"http://127.0.0.1:1/a/{made}"
    assert row["result"]["attempt"] == 1 and row["result"]["contentType"] == "text/plain"
    assert queue.of_manifest(manifest)["status"] == "done"
    assert queue.value("select state from dreamcut_workers") == "stopped"


async def test_slots_hold_for_each_type(start: Start, queue: Queue) -> None:
    first, second = Play("first"), Play("second")
    for type in ("first", "second"):
        for _ in range(6):
            queue.add(None, type=type, payload=do("wait"))
    async with start(slots=2, types=(first, second)):
        await until(lambda: first.active == second.active == 2)
        assert queue.value("select count(*) from dreamcut_jobs where status = 'processing'") == 4
        first.go.set()
        second.go.set()
        await until(lambda: completed(queue) == 12)
    assert first.most == second.most == 2


async def test_until_idle_waits_for_delayed_jobs_and_leaves_blocked_ones(
    start: Start, queue: Queue, play: Play
) -> None:
    retried = queue.add(None, "retried", payload=do("twice"))
    blocked = queue.add(queue.manifest(), "blocked", ["ghost"])
    assert await run_until_idle(start) == {"pending": 1, "completed": 1}
    assert status(queue, retried, blocked) == ["completed", "pending"]
    assert play.runs == ["retried", "retried"]


async def test_a_payload_that_does_not_validate_fails_at_once_and_names_the_field(
    start: Start, queue: Queue, play: Play
) -> None:
    job = queue.add(None, payload=do("make", number="many", costLimit="a lot"))
    assert await run_until_idle(start) == {"failed": 1}
    row = queue.job(job)
    assert (row["error_class"], row["attempts"]) == ("invalid_request", 1)
    assert "number: " in row["error_message"] and "'many'" in row["error_message"]
    assert "costLimit: " in row["error_message"]
    assert play.runs == []


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("crash", "Unexpected RuntimeError: refused with key"),
        ("cancel_itself", "Unexpected CancelledError"),
        ("exit", "Unexpected SystemExit: 3"),
        ("interrupt", "Unexpected KeyboardInterrupt"),
        ("nothing", "Unexpected TypeError: Play.run returned dict, not Result"),
    ],
)
async def test_whatever_a_job_raises_is_a_bug_of_that_job_alone(
    start: Start, queue: Queue, what: str, message: str
) -> None:
    bad = queue.add(None, "bad", payload=do(what), max_attempts=2, priority=20)
    good = queue.add(None, "good")
    assert await run_until_idle(start) == {"pending": 1, "failed": 1, "completed": 1}
    assert status(queue, bad, good) == ["failed", "completed"]
    row = queue.job(bad)
    assert row["error_class"] == "bug" and row["error_message"].startswith(message)
    history = queue.history(bad)
    assert [line["outcome"] for line in history] == ["retried", "failed"]
    assert "play.py" in history[0]["detail"]["traceback"] or what == "nothing"


async def test_secrets_reach_neither_row_nor_log(
    start: Start, queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    job = queue.add(None, payload=do("crash"), max_attempts=1)
    await run_until_idle(start)
    stored = str(queue.job(job)) + str(queue.history(job))
    assert "refused with key" in stored and SECRET not in stored
    assert SECRET not in "\n".join(record.getMessage() for record in caplog.records)


async def test_errors_of_a_known_class_keep_class_detail_and_retry_after(start: Start, queue: Queue) -> None:
    refused = queue.add(None, payload=do("refuse"))
    slowed = queue.add(None, payload=do("slow_down"))
    async with start():
        await until(lambda: len(queue.history(refused)) == len(queue.history(slowed)) == 1)
    assert queue.job(refused)["error_class"] == "invalid_request"
    assert queue.history(refused)[0]["detail"] == {"voice": "x"}
    row = queue.job(slowed)
    assert (row["status"], row["attempts"], row["error_class"]) == ("pending", 0, "rate_limited")
    assert row["next_retry_at"] - queue.value("select now()") > timedelta(seconds=800)


async def test_a_job_that_takes_too_long_is_stopped(start: Start, queue: Queue, play: Play) -> None:
    play.time_limit = timedelta(milliseconds=50)
    job = queue.add(None, payload=do("wait"), max_attempts=1)
    assert await run_until_idle(start) == {"failed": 1}
    row = queue.job(job)
    assert row["error_class"] == "timed_out" and "0:00:00.05" in row["error_message"]
    assert play.ended == [row["job_id"]]


async def test_a_type_that_the_worker_does_not_serve_is_left_alone(start: Start, queue: Queue) -> None:
    other = queue.add(None, type="generate_chart_gptimage")
    assert await run_until_idle(start) == {}
    assert status(queue, other) == ["pending"]
    reason = queue.value("select reason from dreamcut_job_states where id = %s", other)
    assert reason == "no worker serves this type"


@pytest.mark.parametrize("how", [{"listen": False}, {"pooled": True}, {"connections": 1}])
async def test_it_works_without_notifications_and_behind_a_pooler(
    start: Start, queue: Queue, how: dict[str, Any]
) -> None:
    async with start(**how) as worker:
        await worker.wait_registered()
        manifest, _ = queue.graph({"a": [], "b": ["a"], "c": []}, payload=do("make"))
        await until(lambda: queue.of_manifest(manifest)["status"] == "done")


async def test_notifications_wake_it_long_before_its_next_poll(start: Start, queue: Queue) -> None:
    async with start(poll_interval=3600, heartbeat=3600) as worker:
        await worker.wait_registered()
        await until_listening(queue)
        manifest, _ = queue.graph({"a": [], "b": ["a"]})
        await until(lambda: queue.of_manifest(manifest)["status"] == "done")


async def test_two_workers_share_five_hundred_jobs_and_each_runs_once(start: Start, queue: Queue) -> None:
    queue.run(
        """insert into dreamcut_jobs (type, job_id, payload)
           select 'work', 'j' || n, '{"do": "wait"}' from generate_series(1, 500) n"""
    )
    first, second = Play(), Play()
    # Not ahead: one of them might take all of it at once.
    async with (
        start(slots=20, types=(first,), claim_ahead=False),
        start(slots=20, types=(second,), claim_ahead=False),
    ):
        await until(lambda: first.active == second.active == 20)  # or one of them might run them all
        first.go.set()
        second.go.set()
        await until(lambda: completed(queue) == 500)
    assert len(first.runs) + len(second.runs) == 500
    assert len({*first.runs, *second.runs}) == 500
    assert queue.value("select max(claims) from dreamcut_jobs") == 1


async def test_it_says_how_it_stands(start: Start, queue: Queue, play: Play) -> None:
    queue.add(None, payload=do("wait"))
    async with start(slots=4) as worker:
        await until(lambda: play.active == 1)
        (line,) = worker.worker_statuses()
        assert (line.name, line.is_running, line.active_jobs, line.max_concurrent_jobs) == (
            "play",
            True,
            1,
            4,
        )
        assert worker.is_beating() is True
        play.go.set()
        await until(lambda: worker.counts.get("completed") == 1)
    assert worker.is_running() is False


async def test_the_workspace_of_an_attempt_is_gone_afterwards(
    start: Start, queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "work"))
    (tmp_path / "work").mkdir()
    queue.add(None, payload=do("make"))
    await run_until_idle(start)
    assert list((tmp_path / "work").iterdir()) == []
    await anyio.lowlevel.checkpoint()
