"""The health server beside a real worker, with a Postgres that goes away, and in a drain."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.types.json import Jsonb

from dreamcuts.db.migrate import migrate
from dreamcuts.sandbox import Sandbox
from tests.chaos.machine import DURABLE, CrashingPostgres, clean_environment
from tests.fleet.running import Processes, Running
from tests.support import Queue, wait_until

LEASE_S = 1.5


@pytest.fixture
def server() -> Iterator[CrashingPostgres]:
    """A server of this test alone, with the schema in `dreamcuts`."""
    with CrashingPostgres(prefer="system", settings=DURABLE) as server:
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute("create database dreamcuts")
        migrate(server.dsn("dreamcuts"))
        yield server


@pytest.fixture
def processes(server: CrashingPostgres, sandbox: Sandbox) -> Iterator[Processes]:
    environment = {
        **clean_environment(), **sandbox.environment(), "DATABASE_URL": server.dsn("dreamcuts"),
        "LEASE_S": str(LEASE_S), "HEARTBEAT_S": "0.3", "POLL_INTERVAL_S": "0.1", "PROVIDER_POLL_S": "0.05",
        "ENABLE_HEALTH_CHECK": "true", "HEALTH_CHECK_PORT": "0",
    }  # fmt: skip
    with Processes(environment) as processes:
        yield processes


def base_of(worker: Running) -> str:
    """The address of the health server of a worker that is at work."""
    worker.wait_log("serves")
    line = next(line for line in worker.lines if "Health server on" in line)
    return line.split()[-1].removesuffix("/health")


def ask(address: str) -> tuple[int, dict[str, Any]]:
    answer = httpx.get(address, timeout=20)
    return answer.status_code, answer.json()


def test_ready_and_health_follow_an_outage_of_the_database(
    server: CrashingPostgres, processes: Processes
) -> None:
    worker = processes.work("--types", "sound_effects")
    base = base_of(worker)
    wait_until(lambda: ask(f"{base}/ready")[0] == 200, "the worker to be ready")
    wait_until(lambda: ask(f"{base}/health")[1]["status"] == "healthy", "health")

    server.crash()
    code, body = wait_until(lambda: (found := ask(f"{base}/ready"))[0] == 503 and found, "503")
    assert "The database has not answered for" in body["reason"]
    code, body = ask(f"{base}/health")
    assert (code, body["status"]) == (503, "unhealthy")
    assert ask(f"{base}/live") == (200, {"status": "alive"})  # a restart would not bring the database back

    server.come_back()
    wait_until(lambda: ask(f"{base}/ready")[0] == 200, "the worker to be ready again")
    code, body = wait_until(lambda: (found := ask(f"{base}/health"))[0] == 200 and found, "health again")
    assert body["status"] == "healthy"
    worker.process.send_signal(signal.SIGTERM)
    assert worker.wait_end() == 0
    assert "Traceback" not in worker.log


def test_ready_and_health_say_that_a_worker_drains_while_its_last_job_runs(
    server: CrashingPostgres, processes: Processes, sandbox: Sandbox
) -> None:
    worker = processes.work("--types", "image", LEASE_S="60")  # no stall is to look like an outage
    base = base_of(worker)
    sandbox.options.fal_queue_seconds = 3600.0  # the job runs until the test lets it end
    payload = {"prompt": "a comet", "imageSize": {"width": 64, "height": 64}, "fallbackProviders": []}
    with contextlib.closing(psycopg.connect(server.dsn("dreamcuts"), autocommit=True)) as connection:
        queue = Queue(connection)
        job = queue.add(queue.manifest(), type="gen_image_falai", payload=Jsonb(payload))
        wait_until(lambda: sandbox.requests.entries("fal", "GET"), "the worker to poll fal")
        assert ask(f"{base}/ready")[0] == 200
        worker.process.send_signal(signal.SIGTERM)
        code, body = wait_until(lambda: (found := ask(f"{base}/ready"))[0] == 503 and found, "the drain")
        assert body == {"status": "not ready", "reason": "The worker is draining: it claims no more jobs."}
        code, body = ask(f"{base}/health")
        assert (code, body["status"], body["totalActiveJobs"]) == (503, "stopping", 1)
        assert ask(f"{base}/live")[0] == 200
        assert ask(f"{base}/status")[1]["isRunning"] is False
        queue.cancel(job)
        assert worker.wait_end() == 0
    assert "Traceback" not in worker.log


def test_a_worker_that_stops_in_an_outage_with_a_page_open_says_nothing_of_it(
    server: CrashingPostgres, processes: Processes
) -> None:
    """Reads are under way then, and wait for a database that does not come."""
    worker = processes.work("--types", "sound_effects")
    base = base_of(worker)
    events: list[str] = []
    loads: list[int] = []

    def watch() -> None:
        with (
            contextlib.suppress(httpx.TransportError),
            httpx.stream("GET", f"{base}/dashboard/events?page=/", timeout=60) as stream,
        ):
            for line in stream.iter_lines():
                if line.startswith("event: "):
                    events.append(line)

    def reload() -> None:  # so that at any moment some read is under way
        with contextlib.suppress(httpx.TransportError):
            while True:
                loads.append(httpx.get(f"{base}/dashboard/", timeout=60).status_code)

    threads = [threading.Thread(target=watch, daemon=True), threading.Thread(target=reload, daemon=True)]
    for thread in threads:
        thread.start()
    wait_until(lambda: "event: page" in events and 200 in loads, "the page")
    server.crash()
    wait_until(lambda: "event: trouble" in events and 503 in loads, "that the database is away")
    worker.process.send_signal(signal.SIGTERM)
    assert worker.wait_end() == 0
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert "Traceback" not in worker.log and "unhandled" not in worker.log, worker.log
