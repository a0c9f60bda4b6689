"""The producer's statements, as supabase-js makes PostgREST send them, work unchanged."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.support import Queue

# What PostgREST sends for a bulk insert: the union of the rows' keys, missing ones as null.
BULK = """
    insert into dreamcut_jobs ({columns})
    select {columns} from json_populate_recordset(null::dreamcut_jobs, %s)
    returning id, job_id
"""


def bulk_insert(queue: Queue, rows: list[dict[str, Any]]) -> dict[str, UUID]:
    columns = ", ".join(dict.fromkeys(key for row in rows for key in row))
    inserted = queue.rows(BULK.format(columns=columns), json.dumps(rows))
    return {row["job_id"]: row["id"] for row in inserted}


def job_row(manifest: UUID, job_id: str, *depends_on: str, **more: Any) -> dict[str, Any]:
    return {
        "manifest_id": str(manifest),
        "job_id": job_id,
        "type": "work",
        "status": "pending",
        "priority": 10,
        "payload": {"sceneId": "s1"},
        "depends_on": list(depends_on),
        "retry_policy": {"maxRetries": 3, "backoffSeconds": 30},
        "max_attempts": 3,
        **more,
    }


def test_a_bulk_insert_may_hold_a_job_before_the_ones_it_depends_on(queue: Queue) -> None:
    manifest = queue.manifest(status="planning")
    jobs = bulk_insert(
        queue,
        [
            job_row(manifest, "job_render_shotstack", "job_lipsync_s1", "job_music_m1"),
            job_row(manifest, "job_lipsync_s1", "job_tts_s1", "job_gen_char"),
            job_row(manifest, "job_tts_s1"),
            job_row(manifest, "job_gen_char"),
            job_row(manifest, "job_music_m1"),
        ],
    )
    assert queue.states(manifest) == {
        "job_render_shotstack": "blocked",
        "job_lipsync_s1": "blocked",
        "job_tts_s1": "ready",
        "job_gen_char": "ready",
        "job_music_m1": "ready",
    }
    assert queue.job(jobs["job_render_shotstack"])["unmet_dependencies"] == 2
    assert queue.of_manifest(manifest)["open_jobs"] == 5


def test_nulls_where_only_other_rows_have_a_column_mean_the_defaults(queue: Queue) -> None:
    manifest = queue.manifest()
    full = job_row(
        manifest, "full", tags=["a"], metadata={"k": 1}, estimated_cost_usd=0.5, attempts=0,
        created_at="2026-01-01T00:00:00Z", updated_at="2026-01-01T00:00:00Z",
    )  # fmt: skip
    bare = {"manifest_id": str(manifest), "type": "work"}
    jobs = bulk_insert(queue, [full, bare, {**bare, "job_id": "named", "depends_on": ["full"]}])
    (generated,) = jobs.keys() - {"full", "named"}
    row = queue.job(jobs[generated])
    assert row["job_id"].startswith("job_")
    expected = {
        "status": "pending", "priority": 5, "payload": {}, "depends_on": [], "retry_policy": {},
        "max_attempts": 3, "attempts": 0, "metadata": {}, "tags": None, "estimated_cost_usd": None,
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    assert row["created_at"] is not None and row["ready"] is True
    assert queue.states(manifest)["named"] == "blocked"


@pytest.mark.parametrize("column", ["type", "job_id"])
def test_what_has_no_default_is_refused_or_made_but_never_lost(queue: Queue, column: str) -> None:
    row = job_row(queue.manifest(), "j") | {column: None}
    if column == "type":
        with pytest.raises(psycopg.errors.NotNullViolation):
            bulk_insert(queue, [row])
    else:
        assert len(bulk_insert(queue, [row])) == 1


def test_single_inserts_with_a_dependent_first(queue: Queue) -> None:
    manifest = queue.manifest()
    dependent = queue.add(manifest, "b", ["a"], tags=["x"], estimated_cost_usd=1)
    assert queue.job(dependent)["ready"] is False
    queue.add(manifest, "a")
    assert queue.states(manifest) == {"a": "ready", "b": "blocked"}
    queue.finish("a")
    assert queue.states(manifest) == {"a": "completed", "b": "ready"}


def test_repeated_and_null_dependencies_count_once_or_not_at_all(queue: Queue) -> None:
    manifest = queue.manifest()
    job = queue.add(manifest, "b", ["a", "a", None])
    assert queue.job(job)["unmet_dependencies"] == 1
    queue.add(manifest, "a")
    queue.finish("a")
    assert queue.job(job)["ready"] is True


def test_dependencies_without_a_manifest_are_refused_with_the_way_out(queue: Queue) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="depends_on but no manifest_id") as raised:
        queue.add(None, "b", ["a"])
    assert "manifest_id" in (raised.value.diag.message_hint or "")


def test_a_job_id_is_unique_in_its_manifest_alone(queue: Queue) -> None:
    first, second = queue.manifest(), queue.manifest()
    queue.add(first, "a")
    queue.add(second, "a")
    with pytest.raises(psycopg.errors.UniqueViolation):
        queue.add(first, "a")


def test_the_render_payload_is_updated_later_and_says_when(queue: Queue) -> None:
    manifest = queue.manifest()
    job = queue.add(manifest, "job_render_shotstack", payload=psycopg.types.json.Jsonb({"manifestId": "X"}))
    before = queue.job(job)
    changed = queue.run(
        "update dreamcut_jobs set payload = %s where manifest_id = %s and job_id = 'job_render_shotstack'",
        psycopg.types.json.Jsonb({"manifestId": str(manifest)}),
        manifest,
    )
    after = queue.job(job)
    assert changed == 1
    assert after["payload"] == {"manifestId": str(manifest)}
    assert after["updated_at"] > before["updated_at"]
    assert after["ready"] is True and after["seq"] == before["seq"]


def test_the_producer_reads_what_it_expects(queue: Queue) -> None:
    manifest = queue.manifest()
    queue.add(manifest, "low", priority=1)
    queue.add(manifest, "high", priority=20)
    worker = queue.worker()
    queue.complete(worker, queue.claim_one(worker), url="https://assets.example/high.mp3")
    rows = queue.rows(
        """select status, result, output_url, error_message, attempts, max_attempts, worker_id, next_retry_at,
               started_at, completed_at, processing_time_ms, priority
           from dreamcut_jobs where manifest_id = %s order by priority desc, created_at""",
        manifest,
    )
    assert [row["status"] for row in rows] == ["completed", "pending"]
    assert rows[0]["result"] == {"made": "high"}
    assert rows[0]["output_url"] == "https://assets.example/high.mp3"
    assert rows[0]["worker_id"] == worker and rows[0]["attempts"] == 1
    assert rows[0]["completed_at"] >= rows[0]["started_at"] and rows[0]["processing_time_ms"] >= 0


def test_the_status_is_one_of_the_five_the_producer_knows(queue: Queue) -> None:
    allowed = queue.value(
        "select pg_get_constraintdef(oid) from pg_constraint where conname = 'dreamcut_jobs_status_check'"
    )
    assert sorted(part for part in allowed.split("'") if part.isalpha()) == [
        "cancelled", "completed", "failed", "pending", "processing",
    ]  # fmt: skip
    with pytest.raises(psycopg.errors.CheckViolation):
        queue.add(None, "a", status="running")


@pytest.mark.parametrize("column", ["payload", "retry_policy", "metadata"])
def test_json_columns_hold_objects(queue: Queue, column: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match=column):
        queue.add(None, **{column: psycopg.types.json.Jsonb([1])})


def test_deleting_a_manifest_deletes_its_jobs_and_keeps_the_ledger(queue: Queue) -> None:
    manifest, jobs = queue.graph({"a": [], "b": ["a"]})
    worker = queue.worker()
    held = queue.claim_one(worker)
    queue.value(
        "select dreamcut_begin_call(%s, %s, %s, 'fal', 'e', 0, '{}', 1)", worker, held.id, held.claims
    )
    queue.run("delete from dreamcut_production_manifest where id = %s", manifest)
    assert queue.value("select count(*) from dreamcut_jobs where id = any(%s)", list(jobs.values())) == 0
    call = queue.row("select job, manifest_id, job_id from dreamcut_provider_calls")
    assert call == {"job": held.id, "manifest_id": manifest, "job_id": "a"}


def test_a_submitted_manifest_keeps_its_order_and_takes_both_spellings(queue: Queue) -> None:
    manifest = queue.value(
        "select dreamcut_submit_manifest(%s, %s)",
        psycopg.types.json.Jsonb({"metadata": {}}),
        psycopg.types.json.Jsonb(
            [
                {"jobId": "b", "type": "work", "dependsOn": ["a"], "retryPolicy": {"backoffSeconds": 1}},
                {"job_id": "a", "type": "work", "max_attempts": 7, "tags": ["t"], "payload": None},
            ]
        ),
    )
    rows = queue.rows("select * from dreamcut_jobs where manifest_id = %s order by seq", manifest)
    assert [row["job_id"] for row in rows] == ["b", "a"]
    assert rows[0]["depends_on"] == ["a"] and rows[0]["retry_policy"] == {"backoffSeconds": 1}
    assert rows[1]["max_attempts"] == 7 and rows[1]["tags"] == ["t"] and rows[1]["payload"] == {}
    assert queue.of_manifest(manifest)["status"] == "ready_to_dispatch"
