"""The views: what they say, and that none of them reads the whole table of jobs or of calls."""

from __future__ import annotations

import re
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from benchmarks.views import all_views, question
from tests.server.conftest import IMAGE, RENDER, TTS, Queue


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
    unreported = queue.client.enqueue(TTS, {})
    queue.claim(TTS)
    queue.do("update dreamcut_workers set lease_expires_at = now() - interval '1 second'")
    found = queue.rows("select id from dreamcut_stalled_jobs order by started_at")
    assert [row["id"] for row in found] == [job, unreported]
    assert queue.rows("select state from dreamcut_worker_states") == [{"state": "silent"}]


def test_a_worker_that_dies_before_its_first_heartbeat_stalls_its_jobs(queue: Queue) -> None:
    manifest = queue.client.submit_manifest({}, [{"job_id": "m", "type": TTS}])
    single = queue.client.enqueue(TTS, {})
    assert len(queue.claim(TTS, 2)) == 2
    for view in ("dreamcut_running_jobs", "dreamcut_stalled_jobs"):
        assert queue.rows(f"select * from {view}") == [], "not reported yet, and nothing is wrong"
    queue.do("update dreamcut_workers set lease_expires_at = now() - interval '1 second'")
    for view in ("dreamcut_running_jobs", "dreamcut_stalled_jobs"):
        found = queue.rows(f"select id, manifest_id from {view}")
        assert {row["manifest_id"] for row in found} == {manifest, None}
        assert single in {row["id"] for row in found} and len(found) == 2
    depth = queue.rows("select processing from dreamcut_queue_depth where type = %s", TTS)
    assert depth == [{"processing": 2}]
    queue.do("select dreamcut_rescue()")
    assert queue.rows("select * from dreamcut_running_jobs") == []


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
        "insert into dreamcut_provider_calls (job_id, claim, worker_id, provider, endpoint, estimate_usd) "
        "values ('j', 1, %s, 'fal', 'flux', 0.3)",
        queue.worker,
    )
    manifest = queue.client.submit_manifest({}, [])
    queue.do(insert.replace("(job_id,", "(manifest_id, job_id,").replace("('j',", "(%s, 'j',"),
             manifest, queue.worker, "unknown", None, 0.1, 4, 4)  # fmt: skip
    queue.do("update dreamcut_provider_calls set manifest_id = %s where status <> 'failed'", manifest)
    health = (
        "select state, open_calls, calls_1h, succeeded_1h, failed_1h, p50_ms from dreamcut_provider_health"
    )
    amounts = (
        "sum(calls) as calls, sum(spent_usd) as spent, sum(reserved_usd) as reserved,"
        " sum(uncertain_usd) as uncertain, sum(unpriced_calls) as unpriced"
    )

    def seen() -> dict[str, Any]:
        spend = {
            by: queue.rows(f"select {amounts} from dreamcut_spend_by_{by}")
            for by in ("provider", "endpoint", "type", "day", "manifest")
        }
        spend["open"] = queue.rows(
            "select open_calls, unknown_calls from dreamcut_spend_by_manifest order by manifest_id"
        )
        return spend | {"health": queue.rows(health)}

    before = seen()
    (whole,) = before["provider"]
    assert [float(whole[name]) for name in whole] == pytest.approx([7, 0.95, 0.3, 0.1, 0])
    assert before["endpoint"] == before["type"] == before["day"] == [whole]
    assert before["manifest"] == [whole]  # that of a call without a manifest included
    assert before["open"] == [{"open_calls": 1, "unknown_calls": 1}, {"open_calls": 0, "unknown_calls": 0}]
    assert before["health"][0] | {"p50_ms": 0} == {
        "state": "ok", "open_calls": 1, "calls_1h": 6, "succeeded_1h": 4, "failed_1h": 2, "p50_ms": 0,
    }  # fmt: skip
    assert before["health"][0]["p50_ms"] == pytest.approx(2000, rel=0.1)
    for _ in range(2):
        queue.do("select dreamcut_roll_up()")
        assert seen() == before
    for table in ("dreamcut_call_stats", "dreamcut_spend_stats", "dreamcut_manifest_spend"):
        assert queue.rows(f"select count(*) > 0 as some from {table}") == [{"some": True}]
    queue.do("update dreamcut_provider_calls set status = 'succeeded', cost_usd = 0.05, finished_at = now()"
             " where status = 'intent'")  # fmt: skip
    (whole,) = queue.rows(f"select {amounts} from dreamcut_spend_by_manifest")
    assert [float(whole[name]) for name in whole] == pytest.approx([7, 1.0, 0, 0.1, 0])
    rows = queue.rows("select calls from dreamcut_spend_by_manifest where manifest_id = %s", manifest)
    assert rows == [{"calls": 6}]


def test_both_views_of_a_provider_agree_on_its_state_and_what_is_spent_today(queue: Queue) -> None:
    with queue.connection.transaction():  # one moment: no midnight comes in between
        both_views_of_a_provider_agree(queue)


def both_views_of_a_provider_agree(queue: Queue) -> None:
    queue.do("insert into dreamcut_providers (name, daily_limit_usd) values ('fal', 10), ('other', 1)")
    queue.do(
        "insert into dreamcut_provider_calls (job_id, claim, worker_id, provider, endpoint, status, "
        "estimate_usd, cost_usd, finished_at) select 'j', 1, %s, 'fal', 'flux', status, 0.5, "
        "case when status <> 'submitted' then 0.25 end, case when status <> 'submitted' then now() end "
        "from unnest(array['submitted', 'succeeded']) status",
        queue.worker,
    )
    queue.do("update dreamcut_providers set paused_until = 'infinity' where name = 'other'")
    states = queue.rows("select name, state, today_usd from dreamcut_provider_states order by 1")
    health = queue.rows(
        "select provider as name, state, spent_today_usd as today_usd"
        " from dreamcut_provider_health order by 1"
    )
    assert states == health, "one definition"
    assert [(row["name"], row["state"], float(row["today_usd"])) for row in states] == [
        ("fal", "ok", 0.75),
        ("other", "paused", 0),
    ]
    assert queue.rows("select dreamcut_spent_today('fal', now()) as usd") == [{"usd": states[0]["today_usd"]}]


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


FOUNDING = ("dreamcut_job_metrics", "dreamcut_worker_metrics", "dreamcut_production_progress")


def test_the_columns_of_the_views_that_programs_read_are_described(queue: Queue) -> None:
    rows = queue.rows(
        "select class.relname as view, count(*) as columns,"
        " count(col_description(class.oid, attribute.attnum)) as described"
        " from pg_class class join pg_attribute attribute on attribute.attrelid = class.oid"
        " where class.relkind = 'v' and class.relname like 'dreamcut\\_%%' group by 1"
    )
    described = {row["view"] for row in rows if row["columns"] == row["described"]}
    assert {*FOUNDING, "dreamcut_queue_depth", "dreamcut_stuck_jobs", "dreamcut_provider_health"} <= described


def plans(queue: Queue, view: str) -> list[str]:
    """The plans of asking a view, those inside its functions included, with what each node really did."""
    heard: list[str] = []

    def hear(note: psycopg.errors.Diagnostic) -> None:
        heard.append(note.message_primary or "")

    queue.connection.add_notice_handler(hear)
    queue.do("set auto_explain.log_min_duration = 0")
    try:
        queue.connection.execute(question(view)).fetchall()
    finally:
        queue.do("set auto_explain.log_min_duration = -1")
        queue.connection.remove_notice_handler(hear)
    return [text for text in heard if "Query Text:" in text]


def test_no_view_reads_the_whole_table_of_jobs_or_calls(queue: Queue) -> None:
    """All views of the catalog: among many finished jobs and calls, each way leads through an index."""
    try:
        queue.do("load 'auto_explain'")
    except psycopg.Error:
        pytest.skip("this Postgres has no auto_explain")
    for name, value in [("log_analyze", "on"), ("log_nested_statements", "on"), ("log_level", "notice"),
                        ("log_timing", "off")]:  # fmt: skip
        queue.do(f"set auto_explain.{name} = '{value}'")
    queue.do("alter table dreamcut_jobs disable trigger user")
    queue.do(
        "insert into dreamcut_production_manifest"
        " (id, manifest_json, status, total_jobs, completed_jobs, completed_at) "
        "select ('00000000-0000-4000-8000-' || lpad(number::text, 12, '0'))::uuid, '{}', "
        "case when number < 1900 then 'done' else 'rendering' end, 10, 10, now() "
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
    queue.do(
        "insert into dreamcut_job_dependencies (job, manifest_id, depends_on, cause) "
        "select id, manifest_id, job_id, id from dreamcut_jobs"
        " where unmet_dependencies > 0 and job_id <> '19000'"
    )
    queue.do("alter table dreamcut_jobs enable trigger user")
    queue.do(
        "insert into dreamcut_provider_calls (manifest_id, job_id, claim, worker_id, provider, endpoint,"
        " type, status, cost_usd, created_at, finished_at) "
        "select ('00000000-0000-4000-8000-' || lpad((number / 10 + 1)::text, 12, '0'))::uuid, 'j', 1, %s,"
        " 'fal', 'flux', 't', case when number %% 1000 = 0 then 'unknown' else 'succeeded' end, 0.1,"
        " now() - number * interval '1 minute', now() - number * interval '1 minute' "
        "from generate_series(0, 19989) as number",
        queue.worker,
    )
    queue.do("insert into dreamcut_providers (name, max_concurrent) values ('fal', 4)")
    queue.do("select dreamcut_roll_up()")
    queue.do("vacuum (analyze)")
    views = all_views(queue.connection)
    assert {*FOUNDING, "dreamcut_stuck_jobs", "dreamcut_spend_by_manifest"} <= set(views) and len(views) >= 30
    for view in views:
        found = plans(queue, view)
        assert found, view
        for plan in found:
            done = [line for line in plan.splitlines() if "never executed" not in line]
            for table in ("dreamcut_jobs", "dreamcut_provider_calls"):
                assert not [line for line in done if re.search(rf"Seq Scan on {table}\b", line)], (view, plan)
