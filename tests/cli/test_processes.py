"""`work` and `sandbox` as real processes."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from dreamcuts.client import Client
from dreamcuts.sandbox import Sandbox


@pytest.fixture
def environment(database: str, sandbox: Sandbox) -> dict[str, str]:
    settings = {**sandbox.environment(), "DATABASE_URL": database, "POLL_INTERVAL_S": "0.2"}
    return {**os.environ, **settings, "PROVIDER_POLL_S": "0.1"}


@contextmanager
def running(*arguments: str, env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "dreamcuts", *arguments],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_work_until_idle_carries_out_a_job(
    environment: dict[str, str], connection: psycopg.Connection, sandbox: Sandbox
) -> None:
    Client(connection).enqueue("gen_sound_effects_elevenlabs", {"text": "whoosh", "durationSeconds": 1.5})
    with running(
        "work", "--types", "sound_effects:2", "--until-idle", "--log-format", "json", env=environment
    ) as worker:
        out, errors = worker.communicate(timeout=60)
    assert worker.returncode == 0, errors
    assert out == ""
    row = connection.execute("select status, output_url, error_message from dreamcut_jobs").fetchone()
    assert row is not None
    assert row[0] == "completed", row
    assert httpx.get(row[1]).status_code == 200
    lines = [json.loads(line) for line in errors.splitlines()]
    assert {"SOUND_EFFECTS", "WORKER"} <= {line["tag"] for line in lines}
    for name in ("ELEVENLABS_API_KEY", "SUPABASE_SERVICE_ROLE_KEY"):
        assert sandbox.environment()[name] not in errors
    assert sandbox.bills("elevenlabs")


@pytest.mark.parametrize(
    "arguments", [["work", "--types", "tts", "--until-idle"], ["jobs", "list"]], ids=" ".join
)
def test_both_forms_of_an_address_lead_to_the_database(
    environment: dict[str, str], database: str, arguments: list[str]
) -> None:
    parts = conninfo_to_dict(database)
    environment["DATABASE_URL"] = make_conninfo(**parts, connect_timeout="5", application_name="a test")
    assert "://" not in environment["DATABASE_URL"]
    with running(*arguments, env=environment) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors


def test_work_serves_its_health_and_stops_on_sigterm(environment: dict[str, str]) -> None:
    environment |= {"ENABLE_HEALTH_CHECK": "true", "HEALTH_CHECK_PORT": "0"}
    with running("work", "--types", "tts,image:4", env=environment) as worker:
        assert worker.stderr is not None
        address = ""
        for line in worker.stderr:
            if "Health server on" in line:
                address = line.split()[-1]
            if "serves" in line:
                break
        body = httpx.get(address).json()
        assert (body["status"], body["workers"], body["totalActiveJobs"]) == ("healthy", 2, 0)
        workers = httpx.get(address.replace("health", "status")).json()["workers"]
        assert [(worker["name"], worker["maxConcurrentJobs"]) for worker in workers] == [
            ("tts", 3),
            ("image", 4),
        ]
        worker.send_signal(signal.SIGTERM)
        _, errors = worker.communicate(timeout=60)
    assert worker.returncode == 0, errors
    assert "Traceback" not in errors


def test_taken_health_port_is_one_line(environment: dict[str, str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        environment |= {"ENABLE_HEALTH_CHECK": "true", "HEALTH_CHECK_PORT": port}
        with running("work", "--types", "tts", env=environment) as worker:
            _, errors = worker.communicate(timeout=60)
    assert worker.returncode == 2
    assert "HEALTH_CHECK_PORT" in errors
    assert "Traceback" not in errors


def test_submit_wait_follows_to_the_end_and_reports_failure(
    environment: dict[str, str], connection: psycopg.Connection
) -> None:
    manifest = {
        "metadata": {"durationSeconds": 1, "aspectRatio": "16:9"},
        "scenes": [{"id": "s1", "startAtSec": 0, "durationSeconds": 1}],
        "jobs": [{"id": "sound_effect_s1_1", "type": "gen_sound_effects_elevenlabs",
                  "payload": {"text": "whoosh", "durationSeconds": 1.0}}],
    }  # fmt: skip
    Path("film.json").write_text(json.dumps(manifest))
    with (
        running("work", "--types", "sound_effects", env=environment),
        running("submit", "film.json", "--wait", env=environment) as submit,
    ):
        out, errors = submit.communicate(timeout=60)
    assert submit.returncode == 0, errors
    assert out.strip() == connection.execute("select output_url from dreamcut_jobs").fetchone()[0]
    assert "sound_effect_s1_1" in errors and "completed" in errors


def test_sandbox_prints_lines_for_the_shell_and_ends_on_sigterm(tmp_path: Path) -> None:
    environment = dict(os.environ)
    with running("sandbox", env=environment) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        while "ALLOW_PRIVATE_URLS" not in lines[-1]:
            lines.append(process.stdout.readline())
            assert lines[-1], "the sandbox ended early"
        values = dict(shlex.split(line)[1].split("=", 1) for line in lines)
        assert all(line.startswith("export ") for line in lines)
        answer = httpx.get(
            f"{values['ELEVENLABS_BASE_URL']}/v1/models", headers={"xi-api-key": values["ELEVENLABS_API_KEY"]}
        )
        assert answer.status_code == 200
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors


def test_sandbox_on_a_taken_port_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with running("sandbox", "--port", str(taken.getsockname()[1]), env=dict(os.environ)) as process:
            _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "Choose another --port" in errors and "Traceback" not in errors
