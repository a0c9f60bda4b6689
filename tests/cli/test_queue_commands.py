"""submit, enqueue, jobs, manifests, db on a real database."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click.testing
import psycopg
import pytest

from dreamcuts.admin import Admin
from dreamcuts.errors import DatabaseError

SPEECH = '{"text": "[excited] Hi", "voiceId": "v1"}'

Run = Callable[..., click.testing.Result]
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "demo.json"


def submitted(here: Run) -> str:
    result = here("submit", str(EXAMPLE))
    assert result.exit_code == 0, result.stderr
    return result.stdout.strip()


def test_submit_then_look_at_it(here: Run) -> None:
    manifest = submitted(here)
    shown = json.loads(here("manifests", "show", manifest[:8], "--json").stdout)
    assert shown["id"] == manifest
    names = {job["job_id"]: job["state"] for job in shown["jobs"]}
    assert names["job_tts_s1"] == "ready"
    assert names["job_render_shotstack"] == "blocked"

    table = here("manifests", "show", manifest).stdout
    assert "job_render_shotstack" in table and "blocked" in table
    listed = json.loads(here("manifests", "list", "--json").stdout)
    assert [row["id"] for row in listed] == [manifest]
    assert listed[0]["title"] == "The lighthouse bakery"
    assert manifest[:8] in here("manifests", "list", "--status", "ready_to_dispatch").stdout
    assert json.loads(here("manifests", "list", "--status", "done", "--json").stdout) == []


def test_submit_from_stdin_and_dry_run(here: Run, connection: psycopg.Connection) -> None:
    result = here("submit", "-", "--dry-run", input=EXAMPLE.read_text())
    assert result.exit_code == 0
    assert "job_render_shotstack" in result.stdout
    assert connection.execute("select count(*) from dreamcut_jobs").fetchone() == (0,)
    result = here("submit", "-", "--json", input=EXAMPLE.read_text())
    assert json.loads(result.stdout)["jobs"] > 10


@pytest.mark.parametrize("payload", [SPEECH, "@hello.json", "-"])
def test_enqueue_takes_json_a_file_or_stdin(here: Run, payload: str) -> None:
    Path("hello.json").write_text(SPEECH)
    result = here("enqueue", "tts", "--payload", payload, "--priority", "9", "--json", input=SPEECH)
    assert result.exit_code == 0, result.stderr
    job = json.loads(here("jobs", "show", json.loads(result.stdout)["id"], "--json").stdout)
    assert (job["type"], job["payload"], job["priority"]) == ("tts_elevenlabs", json.loads(SPEECH), 9)
    assert job["state"] == "ready"


def test_enqueue_later_and_for_an_unknown_type(here: Run) -> None:
    result = here("enqueue", "generate_chart_gptimage", "--delay", "3600")
    assert result.exit_code == 0
    assert "no job type 'generate_chart_gptimage'" in result.stderr
    job = json.loads(here("jobs", "show", result.stdout.strip(), "--json").stdout)
    assert job["state"] == "delayed"
    assert job["reason"].startswith("not before")


def test_lists_filter_by_state_type_and_manifest(here: Run) -> None:
    manifest = submitted(here)
    alone = here("enqueue", "tts", "-p", SPEECH).stdout.strip()

    def listed(*arguments: str) -> list[str]:
        return [row["job_id"] for row in json.loads(here("jobs", "list", "--json", *arguments).stdout)]

    assert len(listed("--type", "tts")) == 6
    assert len(listed("--type", "tts_elevenlabs", "-m", manifest)) == 5
    assert "job_render_shotstack" in listed("--state", "blocked")
    assert "job_render_shotstack" not in listed("--state", "ready")
    assert "job_render_shotstack" in listed("--state", "pending")
    assert len(listed("--limit", "3")) == 3
    assert alone[:8] in here("jobs", "list").stdout


def test_cancel_takes_the_dependents_and_retry_brings_them_back(here: Run) -> None:
    manifest = submitted(here)
    job = f"{manifest[:8]}/job_tts_s1"
    result = here("jobs", "cancel", job, "--reason", "wrong text")
    assert result.exit_code == 0
    assert "job_tts_s1 is cancelled" in result.stdout
    render = json.loads(here("jobs", "show", f"{manifest}/job_render_shotstack", "--json").stdout)
    assert (render["state"], render["error_class"]) == ("cancelled", "dependency_failed")

    again = here("jobs", "cancel", job)
    assert again.exit_code == 1
    assert "Nothing changed" in again.stderr

    result = here("jobs", "retry", job, "--json")
    assert {row["job_id"] for row in json.loads(result.stdout)} >= {"job_tts_s1", "job_render_shotstack"}
    render = json.loads(here("jobs", "show", f"{manifest}/job_render_shotstack", "--json").stdout)
    assert render["state"] == "blocked"


def test_show_job_for_people(here: Run, connection: psycopg.Connection) -> None:
    job = here("enqueue", "tts", "-p", SPEECH).stdout.strip()
    connection.execute(
        "insert into dreamcut_job_attempts (job, claim, attempt, outcome, error_class, error_message)"
        " values (%s, 1, 1, 'retried', 'transient', 'HTTP 503 from elevenlabs')",
        [job],
    )
    connection.execute(
        "insert into dreamcut_provider_calls (job, job_id, claim, worker_id, provider, endpoint, cost_usd)"
        " values (%s, 'x', 1, gen_random_uuid(), 'elevenlabs', 'text-to-dialogue', 0.02)",
        [job],
    )
    text = here("jobs", "show", job).stdout
    assert "[excited] Hi" in text  # not taken for markup
    assert "HTTP 503 from elevenlabs" in text
    assert "text-to-dialogue" in text and "0.02" in text


def test_two_jobs_with_one_beginning_are_told_apart(here: Run, connection: psycopg.Connection) -> None:
    for last in "12":
        connection.execute(
            "insert into dreamcut_jobs (id, type, job_id) values (%s, 't', %s)",
            [f"abcd0000-0000-4000-8000-00000000000{last}", f"job_{last}"],
        )
    result = here("jobs", "show", "abcd")
    assert result.exit_code == 1
    assert "More than one job id begins with 'abcd'" in result.stderr
    assert (
        json.loads(here("jobs", "show", "ABCD0000-0000-4000-8000-000000000002", "--json").stdout)["job_id"]
        == "job_2"
    )


def test_unknown_job_of_a_manifest_lists_what_there_is(here: Run) -> None:
    manifest = submitted(here)
    result = here("jobs", "show", f"{manifest}/job_tts_s99")
    assert result.exit_code == 1
    assert "job_tts_s1" in result.stderr


def test_migrate_status_sql(run: Run, empty_database: str) -> None:
    result = run("db", "status", "--json", DATABASE_URL=empty_database)
    assert (result.exit_code, json.loads(result.stdout)["current"]) == (1, False)
    assert "applied 0001_" in run("db", "migrate", DATABASE_URL=empty_database).stdout
    assert "up to date" in run("db", "migrate", DATABASE_URL=empty_database).stdout
    result = run("db", "status", "--json", DATABASE_URL=empty_database)
    assert (result.exit_code, json.loads(result.stdout)["current"]) == (0, True)


def test_sql_is_the_schema_as_one_script(run: Run, empty_database: str) -> None:
    script = run("db", "sql").stdout
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(script)
    result = run("db", "status", DATABASE_URL=empty_database)
    assert result.exit_code == 0, result.stderr


def test_demo_is_kept_apart_from_real_work(here: Run, database: str) -> None:
    with Admin.connect(database) as one, Admin.connect(database) as two:
        one.begin_demo(shared=True)
        with pytest.raises(DatabaseError, match="Another demo"):
            two.begin_demo(shared=True)
    submitted(here)
    with Admin.connect(database) as admin, pytest.raises(DatabaseError, match="has open jobs"):
        admin.begin_demo(shared=True)


def test_demo_cancels_what_a_killed_demo_left(database: str, connection: psycopg.Connection) -> None:
    connection.execute(
        "insert into dreamcut_jobs (type, job_id, metadata) values ('t', 'a', '{\"demo\": true}')"
    )
    with Admin.connect(database) as admin:
        admin.begin_demo(shared=True)
    assert connection.execute("select status from dreamcut_jobs").fetchall() == [("cancelled",)]
