"""The monitoring views: what they say, and that none of them reads the whole table of jobs."""

from __future__ import annotations

import json
import re
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from dreamcuts.client import Client
from dreamcuts.db.sql import sql_folder

TTS, IMAGE, RENDER = "tts_elevenlabs", "gen_image_falai", "render_shotstack"


class Queue:
    """A queue with one worker, as SQL."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self.connection = connection
        self.client = Client(connection)
        self.worker = uuid4()
        self.do(
            "select dreamcut_register_worker(%s, 'host', 1, '0.1', %s, '{4,4,1}', '1 hour')",
            self.worker,
            [TTS, IMAGE, RENDER],
        )

    def do(self, statement: str, *values: Any) -> None:
        self.connection.execute(statement, values)  # type: ignore[arg-type]

    def rows(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        with self.connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(statement, values).fetchall()  # type: ignore[arg-type]

    def claim(self, type: str, slots: int = 1) -> list[UUID]:
        found = self.rows("select id from dreamcut_claim_jobs(%s, %s, %s)", self.worker, [type], [slots])
        return [row["id"] for row in found]

    def complete(self, job: UUID, provider: str = "elevenlabs", ms: int = 0) -> None:
        self.do("update dreamcut_jobs set started_at = now() - %s * interval '1 ms' where id = %s", ms, job)
        self.do(
            "select dreamcut_complete_jobs(%s, %s, '{1}', %s, '{null}')",
            self.worker,
            [job],
            [Jsonb({"provider": provider})],
        )

    def fail(self, job: UUID, error_class: str, provider: str = "fal") -> None:
        self.do(
            "select dreamcut_fail_jobs(%s, %s, '{1}', %s, '{message}', %s, '{60}', '{1 second}')",
            self.worker,
            [job],
            [error_class],
            [Jsonb({"provider": provider})],
        )


@pytest.fixture
def queue(connection: psycopg.Connection) -> Queue:
    return Queue(connection)


def test_queue_depth_counts_each_open_job_in_its_state(queue: Queue) -> None:
    queue.client.submit_manifest(
        {},
        [{"job_id": f"t{number}", "type": TTS} for number in range(5)]
        + [{"job_id": "r", "type": RENDER, "depends_on": ["t0", "missing"]}],
    )
    first, second = queue.claim(TTS, 2)
    queue.complete(first)
    queue.fail(second, "transient")
    (third,) = queue.claim(TTS)
    queue.client.enqueue("nobody_serves", {})
    queue.do("select dreamcut_heartbeat(%s, '1 hour', false, %s, '{1}')", queue.worker, [third])
    found = {row["type"]: row for row in queue.rows("select * from dreamcut_queue_depth")}
    assert found[TTS] == {
        "type": TTS, "ready": 2, "delayed": 1, "blocked": 0, "processing": 1, "slots": 4, "workers": 1,
    }  # fmt: skip
    assert (found[RENDER]["blocked"], found[RENDER]["ready"]) == (1, 0)
    assert (found["nobody_serves"]["ready"], found["nobody_serves"]["workers"]) == (1, 0)
    assert found[IMAGE]["slots"] == 4
    running = queue.rows("select job_id, lease_expired from dreamcut_running_jobs")
    assert running == [{"job_id": "t2", "lease_expired": False}]
    (blocked,) = queue.rows("select job_id, missing, reason from dreamcut_blocked_jobs")
    assert blocked["missing"] == ["missing"]
    assert blocked["reason"] == "waits for jobs that do not exist: missing"


def test_a_job_cancelled_while_it_waits_is_no_longer_blocked(queue: Queue) -> None:
    queue.client.submit_manifest(
        {}, [{"job_id": "t", "type": TTS}, {"job_id": "r", "type": RENDER, "depends_on": ["t"]}]
    )
    (job,) = queue.claim(TTS)
    queue.fail(job, "invalid_request")
    assert [row for row in queue.rows("select * from dreamcut_queue_depth") if row["blocked"]] == []
    assert queue.rows("select * from dreamcut_blocked_jobs") == []


def test_stalled_jobs_are_those_of_a_silent_worker(queue: Queue) -> None:
    job = queue.client.enqueue(TTS, {})
    queue.claim(TTS)
    queue.do("select dreamcut_heartbeat(%s, '1 hour', false, %s, '{1}')", queue.worker, [job])
    assert queue.rows("select * from dreamcut_stalled_jobs") == []
    queue.do("update dreamcut_workers set lease_expires_at = now() - interval '1 second'")
    assert [row["id"] for row in queue.rows("select id from dreamcut_stalled_jobs")] == [job]
    assert queue.rows("select state from dreamcut_worker_states") == [{"state": "silent"}]


def test_ready_lag_is_the_wait_of_the_next_jobs_since_they_became_ready(queue: Queue) -> None:
    for priority in (1, 9):
        queue.client.enqueue(TTS, {}, priority=priority)
    queue.do("update dreamcut_jobs set updated_at = now() - interval '5 minutes' where priority = 1")
    queue.client.enqueue(IMAGE, {})
    found = {
        row["type"]: row["lag"].total_seconds() for row in queue.rows("select * from dreamcut_ready_lag")
    }
    assert 299 < found[TTS] < 360
    assert found[IMAGE] < 60


def test_outcomes_are_the_same_before_and_after_they_are_added_up(queue: Queue) -> None:
    for _ in range(6):
        queue.client.enqueue(TTS, {})
    jobs = queue.claim(TTS, 4)
    queue.complete(jobs[0], ms=1000)
    queue.complete(jobs[1], ms=4000)
    queue.fail(jobs[2], "transient")
    queue.fail(jobs[3], "invalid_request")
    waiting = queue.rows("select id from dreamcut_jobs where ready limit 1")
    queue.do("select dreamcut_cancel_jobs(%s)", [waiting[0]["id"]])

    def seen() -> list[Any]:
        return [
            queue.rows("select type, completed, failed, retried, cancelled from dreamcut_throughput"),
            queue.rows(
                "select error_class, provider, failed, retried, cancelled, last_hour "
                "from dreamcut_failures_by_class order by 1"
            ),
            queue.rows("select type, provider, jobs, p50_ms, p99_ms from dreamcut_durations"),
            queue.rows(
                "select type, status, job_count from dreamcut_job_metrics where job_count > 0 order by 1, 2"
            ),
        ]

    before = seen()
    queue.do("select dreamcut_reconcile()")
    assert queue.rows("select count(*) as rows from dreamcut_job_stats_log") == [{"rows": 0}]
    assert seen() == before
    assert before[0] == [{"type": TTS, "completed": 2, "failed": 1, "retried": 1, "cancelled": 1}]
    assert [(row["error_class"], row["provider"]) for row in before[1]] == [
        ("cancelled", ""),
        ("invalid_request", "fal"),
        ("transient", "fal"),
    ]
    (durations,) = before[2]
    assert durations["jobs"] == 2
    assert durations["p50_ms"] == pytest.approx(1000, rel=0.1)
    assert durations["p99_ms"] == pytest.approx(4000, rel=0.1)
    assert {(row["status"], row["job_count"]) for row in before[3]} == {
        ("completed", 2),
        ("failed", 1),
        ("cancelled", 1),
        ("pending", 2),
    }


def test_old_minutes_become_hours_and_very_old_ones_go(queue: Queue) -> None:
    queue.do(
        "insert into dreamcut_job_stats select date_trunc('hour', now()) - age, 1, 't', 'p', "
        "'completed', '', 40, 2, 2000 from unnest(array[interval '5 hours', '5 hours 10 minutes', "
        "'91 days', '1 minute']) as age"
    )
    queue.do("select dreamcut_roll_up()")
    found = queue.rows(
        "select minutes, sum(jobs) as jobs, sum(run_ms) as run_ms from dreamcut_job_stats "
        "group by 1 order by 1"
    )
    assert found == [
        {"minutes": 1, "jobs": 2, "run_ms": 2000},
        {"minutes": 60, "jobs": 4, "run_ms": 4000},
    ]


def test_spend_and_health_count_each_call_once_before_and_after_adding_up(queue: Queue) -> None:
    insert = (
        "insert into dreamcut_provider_calls (job_id, claim, worker_id, provider, endpoint, status, "
        "cost_usd, estimate_usd, created_at, finished_at) values ('j', 1, %s, 'fal', 'flux', %s, %s, %s, "
        "now() - %s * interval '1 minute' - interval '2 seconds', now() - %s * interval '1 minute')"
    )
    for minutes in (0, 3, 10):
        queue.do(insert, queue.worker, "succeeded", 0.25, 0.2, minutes, minutes)
    queue.do(insert, queue.worker, "succeeded", None, 0.2, 5, 5)
    queue.do(insert, queue.worker, "failed", None, 0.2, 5, 5)
    queue.do(
        "insert into dreamcut_provider_calls (job_id, claim, worker_id, provider, endpoint) "
        "values ('j', 1, %s, 'fal', 'flux')",
        queue.worker,
    )
    spend = "select sum(calls) as calls, sum(cost_usd) as usd from dreamcut_daily_spend"
    health = (
        "select state, open_calls, calls_1h, succeeded_1h, failed_1h, p50_ms from dreamcut_provider_health"
    )
    before = queue.rows(spend), queue.rows(health)
    assert float(before[0][0]["usd"]) == pytest.approx(0.95)
    assert before[0][0]["calls"] == 5
    assert before[1][0] | {"p50_ms": 0} == {
        "state": "ok", "open_calls": 1, "calls_1h": 5, "succeeded_1h": 4, "failed_1h": 1, "p50_ms": 0,
    }  # fmt: skip
    assert before[1][0]["p50_ms"] == pytest.approx(2000, rel=0.1)
    for _ in range(2):
        queue.do("select dreamcut_roll_up()")
        assert (queue.rows(spend), queue.rows(health)) == before
    assert queue.rows("select count(*) > 0 as some from dreamcut_call_stats") == [{"some": True}]


def test_progress_of_a_manifest_with_the_time_left_from_history(queue: Queue) -> None:
    for _ in range(3):
        queue.client.enqueue(TTS, {})
    for job in queue.claim(TTS, 3):
        queue.complete(job, ms=8000)
    manifest = queue.client.submit_manifest(
        {},
        [{"job_id": f"t{number}", "type": TTS} for number in range(6)]
        + [{"job_id": "r", "type": RENDER, "depends_on": ["t0"]}],
    )
    (job,) = queue.claim(TTS)
    queue.complete(job, ms=8000)
    (row,) = queue.rows(
        "select total_jobs, pending_jobs, completed_jobs, progress_percent, time_left_ms, status "
        "from dreamcut_production_progress where manifest_id = %s",
        manifest,
    )
    assert (row["total_jobs"], row["pending_jobs"], row["completed_jobs"]) == (7, 6, 1)
    assert float(row["progress_percent"]) == 14.3
    assert row["time_left_ms"] == pytest.approx(16_000, rel=0.1)  # five jobs in four slots: two waves
    (row,) = queue.rows("select jobs, open_jobs, percent from dreamcut_manifest_progress")
    assert (row["jobs"], row["open_jobs"], float(row["percent"])) == (7, 6, 14.3)


def test_totals_follow_late_inserts_and_deletes(queue: Queue) -> None:
    manifest = queue.client.submit_manifest({}, [{"job_id": "a", "type": TTS}, {"job_id": "b", "type": TTS}])
    queue.client.enqueue(TTS, {}, manifest_id=manifest, job_id="c")
    total = "select total_jobs from dreamcut_production_manifest"
    assert queue.rows(total) == [{"total_jobs": 3}]
    queue.do("delete from dreamcut_jobs where job_id = 'c'")
    assert queue.rows(total) == [{"total_jobs": 2}]


def test_every_view_has_a_comment_and_runs_with_the_rights_of_the_caller(queue: Queue) -> None:
    views = queue.rows(
        "select relname, obj_description(oid, 'pg_class') as comment, reloptions from pg_class "
        "where relkind = 'v' and relname like 'dreamcut\\_%%'"
    )
    assert len(views) > 15
    for view in views:
        assert view["comment"], view["relname"]
        if queue.connection.info.server_version >= 150_000:
            assert "security_invoker=true" in (view["reloptions"] or []), view["relname"]


def test_finishing_a_job_is_still_a_hot_update(queue: Queue) -> None:
    for _ in range(4):
        queue.client.enqueue(TTS, {})
    jobs = queue.claim(TTS, 4)
    counts = (
        "select n_tup_upd as all, n_tup_hot_upd as hot from pg_stat_xact_user_tables "
        "where relname = 'dreamcut_jobs'"
    )
    with queue.connection.transaction():
        (before,) = queue.rows(counts)  # may count earlier statements of the session
        queue.do(
            "select dreamcut_complete_jobs(%s, %s, '{1,1,1,1}', %s, '{null,null,null,null}')",
            queue.worker,
            sorted(jobs),
            [Jsonb({})] * 4,
        )
        (after,) = queue.rows(counts)
    assert after["all"] - before["all"] == after["hot"] - before["hot"] == 4


def scans(plan: dict[str, Any]) -> list[tuple[str, str]]:
    here = [(plan["Node Type"], plan.get("Relation Name", ""))]
    return here + [found for child in plan.get("Plans", []) for found in scans(child)]


def test_no_view_reads_the_whole_table_of_jobs(queue: Queue) -> None:
    """Plans with many finished jobs in the table: every way to it leads through an index."""
    queue.do("alter table dreamcut_jobs disable trigger user")
    queue.do(
        "insert into dreamcut_production_manifest (id, manifest_json, status, total_jobs) "
        "select ('00000000-0000-4000-8000-' || lpad(number::text, 12, '0'))::uuid, '{}', 'done', 10 "
        "from generate_series(1, 2000) as number"
    )
    queue.do(
        "insert into dreamcut_jobs (manifest_id, job_id, type, status, unmet_dependencies, next_retry_at) "
        "select ('00000000-0000-4000-8000-' || lpad((number / 10 + 1)::text, 12, '0'))::uuid, "
        "number::text, %s, "
        "case when number < 19000 then 'completed' else 'pending' end, "
        "case when number between 19000 and 19300 then 1 else 0 end, "
        "case when number between 19301 and 19600 then now() + interval '1 day' end "
        "from generate_series(0, 19989) as number",
        TTS,
    )
    queue.do("alter table dreamcut_jobs enable trigger user")
    queue.do("vacuum (analyze)")
    source = (sql_folder() / "functions" / "70_monitoring.sql").read_text("utf-8")
    views = re.findall(r"^create or replace view (\w+) as$", source, re.MULTILINE)
    assert "dreamcut_production_progress" in views and len(views) >= 17
    for view in views:
        tail = " order by created_at desc limit 50" if view == "dreamcut_production_progress" else ""
        (row,) = queue.rows(f"explain (format json) select * from {view}{tail}")
        plan = row["QUERY PLAN"]
        plan = json.loads(plan) if isinstance(plan, str) else plan
        for kind, table in scans(plan[0]["Plan"]):
            assert (kind, table) != ("Seq Scan", "dreamcut_jobs"), view
