"""Dropping months of the archive, and looking at what is in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta

import click.testing
import psycopg
import pytest

from dreamcuts.archive import Archive
from dreamcuts.cli import cli
from dreamcuts.errors import DatabaseError
from tests.retention.past import Past

Run = Callable[..., click.testing.Result]


@pytest.fixture
def here(database: str) -> Run:
    def invoke(*arguments: str, **environment: str) -> click.testing.Result:
        runner = click.testing.CliRunner(env={"DATABASE_URL": database, **environment})
        return runner.invoke(cli, list(arguments), prog_name="dreamcuts")

    return invoke


def months(past: Past) -> list[str]:
    return [
        row["month"]
        for row in past.rows(
            "select distinct to_char(ended_at, 'YYYY-MM') as month from dreamcut_archived_jobs order by 1"
        )
    ]


def test_only_whole_months_are_dropped_and_a_dry_run_drops_none(past: Past, here: Run) -> None:
    old, jobs = past.ended_manifest(200)
    young, _ = past.ended_manifest(20)
    past.run(
        "insert into dreamcut_provider_calls"
        " (job, job_id, claim, worker_id, provider, endpoint, status, cost_usd)"
        " values (%s, 'a', 1, gen_random_uuid(), 'fal', 'e', 'succeeded', 0.5)",
        jobs["a"],
    )
    assert past.archive() == 4
    both = months(past)

    seen = here("db", "prune", "--older-than", "90d")
    assert seen.exit_code == 0, seen.stderr
    assert f"would drop {both[0]}: 2 jobs, 1 failed attempts" in seen.stdout
    assert both[1] not in seen.stdout
    assert months(past) == both

    done = here("db", "prune", "--older-than", "90d", "--yes", "--manifests", "--json")
    assert json.loads(done.stdout)["manifestsDeleted"] == 1
    assert months(past) == both[1:]
    assert past.value("select count(*) from dreamcut_archived_attempts") == 1
    assert past.value("select array_agg(id) from dreamcut_production_manifest") == [young]
    assert past.value("select count(*) from dreamcut_provider_calls") == 1  # the ledger stays
    assert "No month" in here("db", "prune", "--older-than", "90d").stdout
    assert old != young


def test_a_month_goes_when_all_of_it_is_old_enough(past: Past) -> None:
    manifest, _ = past.ended_manifest(1)
    past.run(
        "update dreamcut_production_manifest set completed_at = '2026-01-01 00:30+00' where id = %s", manifest
    )
    past.archive()
    for before, dropped in (("2026-01-31 23:59:59+00", 0), ("2026-02-01 00:00+00", 1)):
        assert len(past.rows("select * from dreamcut_prune_archive(%s, true)", before)) == dropped
        assert past.value("select dreamcut_prune_manifests(%s, 10)", before) == dropped


def test_prune_gives_up_rather_than_wait_for_a_reader(past: Past, database: str) -> None:
    past.ended_manifest(200)
    past.archive()
    with psycopg.connect(database) as reader, Archive.connect(database) as archive:
        reader.execute("select count(*) from dreamcut_archived_jobs")
        with pytest.raises(DatabaseError, match="being read"):
            archive.prune(timedelta(days=90), dry_run=False)
    assert len(months(past)) == 1


def test_archived_jobs_are_listed_and_shown(past: Past, here: Run) -> None:
    manifest, jobs = past.ended_manifest(8)
    past.ended_manifest(31, failed=True)
    fresh = past.add(None, "fresh")
    moved = here("db", "archive")
    assert "Moved 4 jobs" in moved.stdout, moved.stderr

    listed = json.loads(here("jobs", "list", "--archived", "--json").stdout)
    assert {row["id"] for row in listed} >= {str(job) for job in jobs.values()}
    assert str(fresh) not in {row["id"] for row in listed}
    failed = json.loads(here("jobs", "list", "--archived", "--class", "invalid_request", "--json").stdout)
    assert [row["state"] for row in failed] == ["failed"]

    shown = json.loads(here("jobs", "show", "--archived", f"{str(manifest)[:8]}/a", "--json").stdout)
    assert shown["id"] == str(jobs["a"])
    assert [attempt["error_class"] for attempt in shown["attempts_made"]] == ["transient"]
    assert str(jobs["a"])[:8] in here("jobs", "show", "--archived", str(jobs["a"])[:8]).stdout

    row = json.loads(here("manifests", "show", str(manifest), "--archived", "--json").stdout)
    assert [job["job_id"] for job in row["jobs"]] == ["a", "b"]
    assert "give --archived" in here("manifests", "show", str(manifest)).stdout


@pytest.mark.parametrize("command", [("jobs", "show"), ("jobs", "retry"), ("jobs", "tail")])
def test_without_archived_it_says_where_the_job_is(past: Past, here: Run, command: tuple[str, ...]) -> None:
    manifest, jobs = past.ended_manifest(8)
    past.archive()
    for reference in (str(jobs["a"]), f"{manifest}/a"):
        result = here(*command, reference)
        assert result.exit_code == 1
        assert "is in the archive" in result.stderr


def test_the_ages_of_db_archive_come_from_the_settings(past: Past, here: Run) -> None:
    past.ended_manifest(3)
    assert "Moved 0 jobs" in here("db", "archive").stdout
    assert "Moved 0 jobs" in here("db", "archive", ARCHIVE_AFTER_DAYS="0").stdout
    assert "Moved 0 jobs" in here("db", "archive", "--after", "4d").stdout
    assert "Moved 2 jobs" in here("db", "archive", ARCHIVE_AFTER_DAYS="2").stdout
