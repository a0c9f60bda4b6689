"""The demo: a whole video on one machine, without an account, through the same parts as in production.

An embedded Postgres (or DATABASE_URL), the sandbox as a child process, two worker processes for all seven job
types, and the example's manifest submitted to them. Every child leads a session of its own, so that the
terminal's Ctrl-C reaches only the demo, which then ends them in order; each also ends when the demo is
killed, because it then loses its stdin.
"""

from __future__ import annotations

# What is run here is this package itself.
# ruff: noqa: S603
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from rich.console import Console

from dreamcuts.admin import OVER, Admin, Row
from dreamcuts.config import Settings
from dreamcuts.db.migrate import migrate
from dreamcuts.embedded import EmbeddedPostgres
from dreamcuts.errors import DreamCutsError
from dreamcuts.film import fetch_film
from dreamcuts.jobs.registry import load_job_types
from dreamcuts.manifest.validate import plan_manifest
from dreamcuts.processes import end_process, uninterrupted
from dreamcuts.progress import Follower

# Two processes, to show that they share the work; the split lets each start with the SDKs that it needs.
# Beside the types stands PROVIDER_POLL_S: Shotstack takes 150 requests a minute, and so does its stand-in.
WORKERS = (("tts:4,music:2,sound_effects:2,render:1", "0.5"), ("image:3,video:2,lipsync:2", "0.15"))
PACE = {"POLL_INTERVAL_S": "0.5", "RETRY_DELAY_MS": "500", "HEARTBEAT_S": "2"}
DATABASE_SETTINGS = {"synchronous_commit": "off", "max_connections": "60", "shared_buffers": "32MB"}
SANDBOX_DEADLINE_S = 60.0


class DemoFailed(DreamCutsError):
    """A part of the demo ended early, or a job failed; the text says which and where its log is."""


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo made. `seconds` is its wall time, `cost_usd` what real providers would have billed."""

    output: Path
    size: int
    seconds: float
    jobs: list[Row]
    cost_usd: float
    film_seconds: float


def examples_folder() -> Path:
    """The folder with the examples: `examples/` of a checkout, or the copy inside an installed wheel."""
    package = Path(str(resources.files("dreamcuts")))
    for folder in (package / "_examples", package.parent / "examples"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError("The examples of DreamCuts are missing; reinstall the package.")


def run_demo(
    manifest: Mapping[str, Any], output: Path, data: Path, console: Console, database_url: str | None = None
) -> DemoResult:
    """Make the film of `manifest` and write it to `output`; state is kept below the folder `data`.

    Raises DemoFailed, or another DreamCutsError. Whatever ends it, SIGINT at any moment included, no process
    is left.
    """
    started = time.monotonic()
    logs = data / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    models = {name: job_type.payload_model for name, job_type in load_job_types().items()}
    rows = [spec.as_row() for spec in plan_manifest(manifest, models)]
    for row in rows:
        row["metadata"] = {**row["metadata"], "demo": True}
    with contextlib.ExitStack() as stack:
        # First, for it takes the longest; the database starts meanwhile.
        sandbox = stack.enter_context(_child(["sandbox", "--json"], logs / "sandbox.log", {}, logs))
        dsn = database_url
        if dsn is None:
            console.print("Starting Postgres ...", style="dim")
            dsn = stack.enter_context(EmbeddedPostgres(data / "postgres", settings=DATABASE_SETTINGS)).dsn()
        migrate(dsn)
        admin = stack.enter_context(Admin.connect(dsn))
        admin.begin_demo(shared=database_url is not None)
        console.print("Starting the sandbox ...", style="dim")
        environment = {**_sandbox_environment(sandbox, logs), "DATABASE_URL": dsn, **PACE}
        with _submitted(admin, manifest, rows) as created:
            workers = [
                stack.enter_context(_worker(types, number, {**environment, "PROVIDER_POLL_S": poll}, logs))
                for number, (types, poll) in enumerate(WORKERS, start=1)
            ]
            title = str(manifest.get("metadata", {}).get("title", "The demo"))
            follower = Follower(console, title)
            jobs = follower.follow(admin, created, lambda: _check_children(sandbox, workers, logs))
            result = admin.manifest(created)
        if result["status"] != "done":
            raise DemoFailed(f"The film was not made: {result['error_message']} (logs: {logs})")
        settings = Settings.load(_env_file=None, **{name.lower(): text for name, text in environment.items()})
        size = fetch_film(result["output_url"], output, settings)
        cost = sum(float(row["cost_usd"]) for row in result["spend"])
    length = float(manifest.get("metadata", {}).get("durationSeconds", 0))
    return DemoResult(output, size, time.monotonic() - started, jobs, cost, length)


@contextlib.contextmanager
def _submitted(admin: Admin, manifest: Mapping[str, Any], rows: list[Row]) -> Iterator[UUID]:
    """The manifest in the queue; what is open at the end is cancelled, so that nobody pays for it later."""
    created = admin.client.submit_manifest(manifest, rows)
    try:
        yield created
    finally:
        with uninterrupted(), contextlib.suppress(Exception):  # the database may be gone as well
            left = [job["id"] for job in admin.manifest_jobs(created) if job["status"] not in OVER]
            if left:
                admin.client.cancel(left, "the demo was ended")


def _worker(
    types: str, number: int, environment: Mapping[str, str], logs: Path
) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    arguments = ["work", "--types", types, "--until-idle", "--shutdown-timeout", "0"]
    return _child(arguments, logs / f"worker-{number}.log", environment, logs)


@contextlib.contextmanager
def _child(
    arguments: list[str], log: Path, environment: Mapping[str, str], folder: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """`dreamcuts ARGUMENTS` as a child process, ended at the end of the block."""
    with uninterrupted(), log.open("wb") as errors:
        # In a folder of its own: a .env.local of the user's must not mix with the sandbox's settings.
        process = subprocess.Popen(
            [sys.executable, "-m", "dreamcuts", *arguments, "--with-parent"],
            cwd=folder,
            env=_environment() | dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if arguments[0] == "sandbox" else errors,
            stderr=errors,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with uninterrupted():
            end_process(process, signal.SIGTERM)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def _environment() -> dict[str, str]:
    """The environment without DreamCuts' settings: what the demo's parts need is given to them."""
    names = {name.upper() for name in Settings.model_fields}
    endings = ("_MAX_CONCURRENT_JOBS", "_RETRY_DELAY_MS")
    return {
        name: text for name, text in os.environ.items() if name not in names and not name.endswith(endings)
    }


def _sandbox_environment(sandbox: subprocess.Popen[bytes], logs: Path) -> dict[str, str]:
    """The line that the sandbox prints once it answers."""
    assert sandbox.stdout is not None
    line = sandbox.stdout.readline()
    if not line:
        raise DemoFailed(f"The sandbox did not start: {_last_line(logs / 'sandbox.log')}")
    return cast(dict[str, str], json.loads(line))


def _check_children(
    sandbox: subprocess.Popen[bytes], workers: list[subprocess.Popen[bytes]], logs: Path
) -> None:
    if sandbox.poll() is not None:
        raise DemoFailed(f"The sandbox ended early: {_last_line(logs / 'sandbox.log')}")
    for number, worker in enumerate(workers, start=1):
        if worker.poll() not in (None, 0):
            log = logs / f"worker-{number}.log"
            raise DemoFailed(f"Worker {number} ended early: {_last_line(log)} (log: {log})")


def _last_line(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else f"no message in {log}"
