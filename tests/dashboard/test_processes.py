"""`dreamcuts dashboard`, and a worker with its health server, as real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import psycopg

from dreamcuts.client import Client
from dreamcuts.sandbox import Sandbox


@contextmanager
def running(*arguments: str, env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "dreamcuts", *arguments],
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_dashboard_serves_until_sigterm_also_with_a_page_open(database: str) -> None:
    env = {"DATABASE_URL": database, "DASHBOARD_TOKEN": "never printed"}
    with running("dashboard", "--port", "0", env=env) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        assert "Sign in" in httpx.get(address, timeout=20).text
        home = address.removesuffix("dashboard/")
        assert httpx.get(home, timeout=20).headers["location"] == "/dashboard/"
        with httpx.stream("GET", f"{address}events?page=/", timeout=20) as stream:
            next(stream.iter_lines())
            process.send_signal(signal.SIGTERM)
            out, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors and "never printed" not in out + errors


def test_dashboard_on_a_database_without_the_schema_is_one_line(empty_database: str) -> None:
    with running("dashboard", "--port", "0", env={"DATABASE_URL": empty_database}) as process:
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "dreamcuts db migrate" in errors and "Traceback" not in errors


def test_a_worker_serves_probes_metrics_and_the_dashboard(
    database: str, connection: psycopg.Connection, sandbox: Sandbox
) -> None:
    env = {
        **sandbox.environment(), "DATABASE_URL": database, "ENABLE_HEALTH_CHECK": "true",
        "HEALTH_CHECK_PORT": "0", "POLL_INTERVAL_S": "0.2",
    }  # fmt: skip
    job = Client(connection).enqueue(
        "gen_sound_effects_elevenlabs", {"text": "whoosh", "durationSeconds": 1.0}
    )
    with running("work", "--types", "sound_effects,music", env=env) as worker:
        assert worker.stderr is not None
        line = next(line for line in worker.stderr if "Health server on" in line)
        base = line.split()[-1].removesuffix("/health")
        assert httpx.get(f"{base}/live", timeout=20).json() == {"status": "alive"}
        completed = 'dreamcuts_outcomes_total{error_class="",outcome="completed"'
        deadline = time.monotonic() + 40
        while completed not in (text := httpx.get(f"{base}/metrics", timeout=20).text):
            assert time.monotonic() < deadline, text
        assert 'dreamcuts_provider_calls_total{endpoint="' in text and 'provider="elevenlabs"' in text
        assert httpx.get(f"{base}/ready", timeout=20).status_code == 200
        page = httpx.get(f"{base}/dashboard/jobs/{job}", timeout=20).text
        assert "completed" in page and "Read-only" in page
        worker.send_signal(signal.SIGTERM)
        _, errors = worker.communicate(timeout=30)
    assert worker.returncode == 0, errors
    assert "Traceback" not in errors
