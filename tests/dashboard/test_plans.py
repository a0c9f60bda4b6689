"""What the dashboard and /metrics read, with many jobs in the tables: never the whole table, and few rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from dreamcuts.db.sql import query, sql_folder
from dreamcuts.server.dashboard import pages
from dreamcuts.server.dashboard.pages import JOBS_SHOWN, PAGE_SIZE

ENDED, ARCHIVED, OPEN = 50_000, 10_000, 1_500
MOST_ROWS = 6_000
"""Rows of jobs that one statement may touch: some for each open job, but not one for each that has ended."""
MANIFESTS, JOBS = (UUID(int=5), UUID(int=3000)), (UUID(int=50), UUID(int=30_005))
"""One in the archive, and one that is not."""
NEWEST = {"before": None, "before_id": None, "limit": PAGE_SIZE}
OLDER = NEWEST | {"before": datetime.now(UTC) - timedelta(seconds=1100), "before_id": UUID(int=7)}
BOTH = [{"id": job} for job in JOBS]
PROBES: dict[str, list[dict[str, Any]]] = {
    "board_manifests": [
        *(NEWEST | {"status": status} for status in (None, "rendering", "done", "failed")),
        *(OLDER | {"status": status} for status in (None, "done")),
    ],
    "board_manifest": [{"id": manifest} for manifest in MANIFESTS],
    "board_manifest_jobs": [{"manifest": manifest, "limit": JOBS_SHOWN} for manifest in MANIFESTS],
    "board_jobs_in_status": [{"manifest": manifest, "statuses": ["failed"]} for manifest in MANIFESTS],
    "board_job_siblings": [{"manifest": manifest, "jobs": ["job_1", "job_42"]} for manifest in MANIFESTS],
    "board_jobs": [{"before": None, "limit": 60}],
    "manifest_spend": [{"manifest": manifest} for manifest in MANIFESTS],
    "dependencies_of_job": BOTH,
    "show_job": BOTH,
    "show_job_attempts": BOTH,
    "show_job_calls": BOTH,
    "show_archived_job": BOTH,
    "show_archived_attempts": BOTH,
}
"""Values of the statements that take some."""

# What failed lies far back, so that looking for it from the newest on would show.
FILL = """
    alter table dreamcut_jobs disable trigger user;

    insert into dreamcut_production_manifest
        (id, manifest_json, status, created_at, completed_at, processing_time_ms, open_jobs, total_jobs)
    select lpad(to_hex(number), 32, '0')::uuid, '{}',
        case when number * 10 > %(ended)s then 'rendering' when number %% 100 = 0 then 'failed'
             else 'done' end,
        now() - make_interval(secs => ((%(ended)s + %(open)s) / 10 - number) / 4),
        case when number * 10 <= %(ended)s then now() end, 60000,
        case when number * 10 <= %(ended)s then 0 else 10 end, 10
    from generate_series(1, (%(ended)s + %(open)s) / 10) as number;

    insert into dreamcut_jobs
        (id, manifest_id, job_id, type, status, priority, unmet_dependencies, next_retry_at, error_class,
         attempts, claims, completed_at, processing_time_ms)
    select lpad(to_hex(number), 32, '0')::uuid, lpad(to_hex((number - 1) / 10 + 1), 32, '0')::uuid,
        'job_' || number, (array['tts_elevenlabs', 'gen_image_falai', 'render_shotstack'])[number %% 3 + 1],
        case when number > %(ended)s then 'pending'
             when number %% 50 = 0 and number < %(ended)s / 2 then 'failed'
             else 'completed' end,
        5 + number %% 3, case when number > %(ended)s and number %% 3 = 0 then 1 else 0 end,
        case when number > %(ended)s and number %% 3 = 1 then now() + interval '1 day' end,
        case when number %% 50 = 0 and number < %(ended)s / 2 then 'transient' end, 1, 1,
        case when number <= %(ended)s then now() end, case when number <= %(ended)s then 900 end
    from generate_series(1, %(ended)s + %(open)s) as number;

    insert into dreamcut_job_dependencies (job, manifest_id, depends_on)
    select job.id, job.manifest_id, 'job_none' from dreamcut_jobs job where job.unmet_dependencies > 0;

    insert into dreamcut_job_attempts (job, claim, attempt, outcome, error_class, started_at)
    select job.id, 1, 1, 'failed', 'transient', now() from dreamcut_jobs job;

    insert into dreamcut_workers (id, host, pid, version, types, slots, lease_expires_at, held)
    select gen_random_uuid(), 'host', 1, '0', '{tts_elevenlabs}', '{3}', now() + interval '1 day',
        array(select job.id from dreamcut_jobs job where job.ready limit 3)
    from generate_series(1, 5);

    insert into dreamcut_provider_calls
        (job, manifest_id, job_id, claim, worker_id, provider, endpoint, status, cost_usd, created_at,
         finished_at)
    -- Half an hour ago: those of the last minute are not added up yet, and are few.
    select job.id, job.manifest_id, job.job_id, 1, gen_random_uuid(), 'fal', 'flux', 'succeeded', 0.05,
        now() - interval '30 minutes', now() - interval '29 minutes'
    from dreamcut_jobs job where job.status = 'completed';

    -- Two months of the archive.
    select dreamcut_move_jobs(
        array_agg(job.id), array_agg(timestamptz '2026-01-15' + interval '1 month' * (job.seq %% 2))
    )
    from (select id, seq from dreamcut_jobs order by id limit %(archived)s) job;
    update dreamcut_production_manifest manifest set archived_at = now()
    where not exists (select 1 from dreamcut_jobs job where job.manifest_id = manifest.id);

    alter table dreamcut_jobs enable trigger user;
"""


@pytest.fixture
def filled(connection: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    with psycopg.ClientCursor(connection) as cursor:
        cursor.execute(FILL.encode(), {"ended": ENDED, "archived": ARCHIVED, "open": OPEN})
    connection.execute("select dreamcut_roll_up()")
    connection.execute("vacuum (analyze)")
    return connection


def statements() -> list[str]:
    """Every statement of the dashboard and /metrics."""
    source = (sql_folder() / "queries" / "dashboard.sql").read_text("utf-8")
    used = re.findall(r'reader\.shared\(\s*"(\w+)"', Path(str(pages.__file__)).read_text("utf-8"))
    names = {*re.findall(r"^-- name: (\w+)", source, re.MULTILINE), *used}
    assert len(names) > 20
    return sorted(names)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def test_no_statement_reads_the_whole_table_of_jobs_or_of_the_archive(
    filled: psycopg.Connection[Any],
) -> None:
    for name in statements():
        found = query(name)
        for values in PROBES[name] if found.parameters else [{}]:
            found.arguments(values)
            with psycopg.ClientCursor(filled) as cursor:
                cursor.execute(f"explain (analyze, format json) {found.psycopg_text}".encode(), values)
                row = cursor.fetchone()
            assert row is not None
            touched = 0
            for node in nodes(row[0][0]["Plan"]):
                table = node.get("Relation Name", "")
                if table != "dreamcut_jobs" and not table.startswith("dreamcut_archived_"):
                    continue
                assert node["Node Type"] != "Seq Scan", (name, values, table)
                rows = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
                touched += rows * node["Actual Loops"]
            assert touched <= MOST_ROWS, (name, values)
