"""A worker as a real process, a socket that stands for systemd's, and a PgBouncer of the test's own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from dreamcuts.sandbox import Sandbox
from tests.deploy.processes import DEADLINE_S, NotifySocket, Process, Start


@pytest.fixture
def start(database: str, sandbox: Sandbox) -> Iterator[Start]:
    """`start("work", "--types", "tts", NAME=value)` runs `dreamcuts` on the test's database and sandbox."""
    processes: list[Process] = []

    def run(*arguments: str, program: list[str] | None = None, **environment: str) -> Process:
        env = {**os.environ, **sandbox.environment(), "DATABASE_URL": database, "POLL_INTERVAL_S": "0.2"}
        command = program or [sys.executable, "-m", "dreamcuts"]
        processes.append(Process([*command, *arguments], {**env, "PROVIDER_POLL_S": "0.1", **environment}))
        return processes[-1]

    yield run
    for process in processes:
        process.close()


@pytest.fixture
def notify_socket(tmp_path: Path) -> Iterator[NotifySocket]:
    listening = NotifySocket(str(tmp_path / "notify"))
    yield listening
    listening.close()


@pytest.fixture
def pooler(database: str, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """`pooler(pool_mode="session", before=dsn)` starts PgBouncer; gives the DSN that leads through it."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    running: list[subprocess.Popen[bytes]] = []

    def run(before: str = database, **settings: str) -> str:
        for number in range(5):  # another process may take the free port first
            folder = tmp_path / f"pgbouncer-{len(running)}-{number}"
            process, dsn = _start_pgbouncer(program, before, folder, settings)
            running.append(process)
            if _answers(process, dsn):
                return dsn
        raise AssertionError((folder / "log").read_text())

    yield run
    for process in running:
        process.terminate()
        process.wait()


def _start_pgbouncer(
    program: str, database: str, folder: Path, settings: dict[str, str]
) -> tuple[subprocess.Popen[bytes], str]:
    parts = psycopg.conninfo.conninfo_to_dict(database)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = " ".join(f"{name}={parts[name]}" for name in ("host", "port", "user", "password"))
    options = {
        "listen_addr": "127.0.0.1",
        "listen_port": str(port),
        "unix_socket_dir": "",
        "auth_type": "any",
    }
    options |= {"pool_mode": "transaction", "default_pool_size": "3", **settings}
    lines = ["[databases]", f"* = {server}", "[pgbouncer]", *(f"{key} = {options[key]}" for key in options)]
    folder.mkdir()
    file = folder / "pgbouncer.ini"
    file.write_text("\n".join(lines) + "\n")
    # It refuses to run as root; it reads its settings before it becomes someone else.
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, *user, str(file)], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
    return process, f"postgresql://postgres@127.0.0.1:{port}/{parts['dbname']}"


def _answers(process: subprocess.Popen[bytes], dsn: str) -> bool:
    """Wait until it passes a connection on; False if it has ended."""
    deadline = time.monotonic() + DEADLINE_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            psycopg.connect(dsn, prepare_threshold=None, connect_timeout=5).close()
            return True
        except psycopg.OperationalError:
            time.sleep(0.05)
    return False
