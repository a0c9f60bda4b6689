"""Each check of the doctor finds what is wrong, and says the way out."""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click.testing
import psycopg
import pytest

from dreamcuts import doctor
from dreamcuts.cli import cli
from dreamcuts.sandbox import Sandbox
from tests.support import Queue

Findings = list[dict[str, str]]
Examine = Callable[..., Findings]


@pytest.fixture
def settings(database: str, sandbox: Sandbox) -> dict[str, str]:
    """All that a worker needs; providers and storage are the sandbox."""
    return {**sandbox.environment(), "DATABASE_URL": database}


@pytest.fixture
def examine(settings: dict[str, str]) -> Iterator[Examine]:
    """`examine("database", code=1, DATABASE_URL="")` gives the findings of one check."""

    def run(check: str, code: int = 0, **environment: str) -> Findings:
        runner = click.testing.CliRunner(env={**settings, **environment})
        result = runner.invoke(cli, ["doctor", "--only", check, "--json"], prog_name="dreamcuts")
        assert result.exit_code == code, result.output
        findings: Findings = json.loads(result.stdout)["findings"]
        assert all(finding["way_out"] for finding in findings if finding["level"] != "ok")
        return findings

    yield run


def level_of(findings: Findings, check: str) -> str:
    (found,) = {finding["level"] for finding in findings if finding["check"] == check}
    return found


def text_of(findings: Findings, check: str) -> str:
    return " ".join(f"{one['text']} {one['way_out']}" for one in findings if one["check"] == check)


def test_all_is_well(settings: dict[str, str], connection: psycopg.Connection[Any]) -> None:
    Queue(connection).worker()
    connection.execute("update dreamcut_workers set version = '0.1.0'")
    runner = click.testing.CliRunner(env=settings)
    result = runner.invoke(cli, ["doctor"], prog_name="dreamcuts")
    assert result.exit_code == 0, result.output
    assert "FAILURE" not in result.stdout
    assert {line.split()[0] for line in result.stdout.splitlines() if line[0] != " "} <= {"OK", "warning"}
    for check in ("settings", "key fal", "database", "schema", "rights", "autovacuum", "horizon", "clock",
                  "notifications", "pooler", "storage", "public read", "disk", "stuck jobs"):  # fmt: skip
        assert check in result.stdout
    for name in ("ELEVENLABS_API_KEY", "FAL_KEY", "SUPABASE_SERVICE_ROLE_KEY"):
        assert settings[name] not in result.output


def test_no_database(examine: Examine) -> None:
    assert "not set" in text_of(examine("database", 1, DATABASE_URL=""), "database")
    away = examine("database", 1, DATABASE_URL="postgresql://me:very-secret@127.0.0.1:9/none")
    assert "cannot be reached" in text_of(away, "database")
    assert "very-secret" not in json.dumps(away)
    assert text_of(away, "database").count("Check DATABASE_URL") == 1


def test_no_schema(examine: Examine, empty_database: str) -> None:
    findings = examine("database", 1, DATABASE_URL=empty_database)
    assert level_of(findings, "schema") == "failure"
    assert text_of(findings, "schema").count("dreamcuts db migrate") == 1


def test_a_role_without_rights(examine: Examine, database: str, connection: psycopg.Connection[Any]) -> None:
    name = f"poor_{connection.info.backend_pid}"
    connection.execute(f"create role {name} login password 'pw'")
    connection.execute(f"grant select on dreamcut_schema, dreamcut_schema_functions to {name}")
    connection.execute(f"grant select on all tables in schema public to {name}")
    parts = psycopg.conninfo.conninfo_to_dict(database)
    try:
        findings = examine(
            "database", 1, DATABASE_URL=f"postgresql://{name}:pw@127.0.0.1:{parts['port']}/{parts['dbname']}"
        )
    finally:
        connection.execute(f"drop owned by {name}")
        connection.execute(f"drop role {name}")
    assert level_of(findings, "rights") == "failure"
    assert "DELETE on dreamcut_archive_position" in text_of(findings, "rights")
    assert "Row level security hides" in text_of(findings, "rights")
    assert level_of(findings, "archive") == "warning"


def test_autovacuum_switched_off(examine: Examine, connection: psycopg.Connection[Any]) -> None:
    connection.execute("alter table dreamcut_jobs set (autovacuum_enabled = false)")
    findings = examine("database", 1)
    assert "dreamcut_jobs" in text_of(findings, "autovacuum")
    assert "reset (autovacuum_enabled)" in text_of(findings, "autovacuum")


def test_a_pinned_horizon_names_the_session(
    examine: Examine, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert level_of(examine("database"), "horizon") == "ok"
    monkeypatch.setattr("dreamcuts.doctor_database.PINNED_S", 0.0)
    with psycopg.connect(database, application_name="nightly report") as session:
        session.execute("begin isolation level repeatable read")
        session.execute("select count(*) from dreamcut_jobs")
        findings = examine("database")
        assert level_of(findings, "horizon") == "warning"
        said = text_of(findings, "horizon")
        assert "nightly report" in said
        assert f"pg_terminate_backend({session.info.backend_pid})" in said


def test_stuck_jobs(examine: Examine, connection: psycopg.Connection[Any]) -> None:
    queue = Queue(connection)
    assert level_of(examine("database"), "stuck jobs") == "ok"
    manifest = queue.manifest()
    queue.add(manifest, "waiting", ["ghost"])
    queue.add(None, type="nobody_does_this")
    findings = examine("database")
    said = text_of(findings, "stuck jobs")
    assert "1 job of type nobody_does_this" in said and "work --types nobody_does_this" in said
    assert f"jobs drop-dependency {manifest}/waiting" in said and "ghost" in said
    assert "dreamcut_stuck_jobs" not in said
    queue.add(None, type="nobody_does_this")
    said = text_of(examine("database"), "stuck jobs")
    assert "2 jobs of type nobody_does_this" in said
    assert "the view dreamcut_stuck_jobs (code no_worker)" in said
    assert "No worker is there" in text_of(findings, "workers")


def test_silent_and_old_workers(examine: Examine, connection: psycopg.Connection[Any]) -> None:
    queue = Queue(connection)
    queue.worker()
    silent = queue.worker()
    queue.expire(silent)
    said = text_of(examine("database"), "workers")
    assert "1 silent worker:" in said
    assert "but of 0." in said and "workers restart --all" in said


def test_the_clock(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    real = time.time
    monkeypatch.setattr("dreamcuts.doctor_database.time.time", lambda: real() - 90)
    found = re.search(r"(\d+) s behind", text_of(examine("database"), "clock"))
    assert found is not None and int(found[1]) == pytest.approx(90, abs=10)  # the answer may take its time


def test_keys(examine: Examine) -> None:
    assert {finding["level"] for finding in examine("keys")} == {"ok"}
    missing = examine("keys", 1, FAL_KEY="")
    assert level_of(missing, "key fal") == "failure"
    assert "Set FAL_KEY" in text_of(missing, "key fal")
    wrong = examine("keys", 1, ELEVENLABS_API_KEY="sk_quite_wrong")
    assert level_of(wrong, "key elevenlabs") == "failure"
    assert "sk_quite_wrong" not in json.dumps(wrong)
    away = examine("keys", FAL_QUEUE_URL="http://127.0.0.1:9")
    assert level_of(away, "key fal") == "warning"


def test_storage_is_written_and_read(examine: Examine, tmp_path: Path) -> None:
    findings = examine("storage")
    assert (level_of(findings, "storage"), level_of(findings, "public read")) == ("ok", "warning")
    assert "nowhere else" in text_of(findings, "public read")  # the sandbox is on this machine
    key = examine("storage", 1, SUPABASE_SERVICE_ROLE_KEY="no-such-key")
    assert "SUPABASE_SERVICE_ROLE_KEY" in text_of(key, "storage")
    nowhere = examine("storage", 1, SUPABASE_URL="")
    assert "STORAGE_DIR" in text_of(nowhere, "storage")

    folder = tmp_path / "assets"
    unserved = examine("storage", STORAGE_DIR=str(folder), STORAGE_BASE_URL="http://127.0.0.1:9/files")
    assert "cannot be read" in text_of(unserved, "public read")
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["check.txt"]
    (tmp_path / "file").write_text("")
    blocked = examine("storage", 1, STORAGE_DIR=str(tmp_path / "file"), STORAGE_BASE_URL="http://127.0.0.1:9")
    assert level_of(blocked, "storage") == "failure"


def test_settings_that_do_not_fit(examine: Examine) -> None:
    findings = examine("settings", HEARTBEAT_S="20", LEASE_S="45", ENABLE_WORKERS="false")
    said = text_of(findings, "settings")
    assert "HEARTBEAT_S=20" in said and "ALLOW_PRIVATE_URLS" in said and "ENABLE_WORKERS" in said


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("HEALTH_CHECK_PORT", "99999", "not '99999'"),
        ("LEASE_S", "soon", "not 'soon'"),
        ("LOG_FORMAT", "xml", "not 'xml'"),
        ("LOG_LEVEL", "foo", "not 'foo'"),
        ("TTS_MAX_CONCURRENT_JOBS", "abc", "not 'abc'"),
        ("IMAGE_RETRY_DELAY_MS", "-1", "not -1"),
    ],
)
def test_what_work_refuses_is_a_failure_of_its_own(
    examine: Examine, settings: dict[str, str], name: str, value: str, says: str
) -> None:
    (found,) = [one for one in examine("settings", 1, **{name: value}) if one["level"] == "failure"]
    assert found["check"] == "settings"
    assert name in found["text"] and says in found["text"]
    assert "unset it" in found["way_out"]
    runner = click.testing.CliRunner(env={**settings, name: value})
    refused = runner.invoke(cli, ["work", "--until-idle"], prog_name="dreamcuts")
    assert refused.exit_code == 2 and name in refused.stderr


def test_wrong_settings_are_all_told_and_the_other_checks_go_on(examine: Examine) -> None:
    wrong = {"HEALTH_CHECK_PORT": "many", "MAX_CONCURRENT_JOBS": "0", "LOG_LEVEL": "foo"}
    found = [one for one in examine("settings", 1, **wrong) if one["level"] == "failure"]
    assert {one["text"].partition(" ")[0].rstrip(":") for one in found} == set(wrong)
    findings = examine("disk", 1, **wrong)
    assert level_of(findings, "disk") == "ok"
    assert level_of([one for one in findings if one["level"] == "failure"], "settings") == "failure"


def test_a_secret_is_not_quoted(examine: Examine, tmp_path: Path) -> None:
    (tmp_path / ".env.local").write_bytes(b"FAL_KEY=\xff\xfe-very-secret\n")
    findings = examine("settings", 1)
    assert ".env.local: It is not UTF-8 text" in text_of(findings, "settings")
    assert "very-secret" not in json.dumps(findings)


def test_traces_without_opentelemetry(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    findings = examine("settings", 1, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:4318")
    assert "pip install" in text_of(findings, "settings")


def test_the_health_port(examine: Examine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        # A thread that answers as nobody knows: refuse what is asked, at once.
        threading.Thread(target=lambda: taken.accept()[0].close(), daemon=True).start()
        findings = examine("settings", 1, ENABLE_HEALTH_CHECK="true", HEALTH_CHECK_PORT=port)
    assert "cannot listen" in text_of(findings, "health port")
    assert "Set HEALTH_CHECK_PORT to a free port" in text_of(findings, "health port")
    findings = examine("settings", ENABLE_HEALTH_CHECK="true", HEALTH_CHECK_PORT=port)
    assert "for one worker process on this machine" in text_of(findings, "health port")


def test_a_full_disk(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "NO_SPACE", 2**60)
    assert level_of(examine("disk", 1), "disk") == "failure"
    monkeypatch.setattr(doctor, "NO_SPACE", 0)
    monkeypatch.setattr(doctor, "LITTLE_SPACE", 2**60)
    assert level_of(examine("disk"), "disk") == "warning"


def test_only_what_the_types_need(settings: dict[str, str]) -> None:
    runner = click.testing.CliRunner(env={**settings, "FAL_KEY": ""})
    result = runner.invoke(cli, ["doctor", "--types", "tts", "--only", "keys"], prog_name="dreamcuts")
    assert result.exit_code == 0, result.output
    assert "fal" not in result.stdout
    result = runner.invoke(cli, ["doctor", "--types", "imge"], prog_name="dreamcuts")
    assert result.exit_code == 2 and "Did you mean 'image'" in result.output
