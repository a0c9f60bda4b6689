"""A worker as a real process, a socket that stands for systemd's, and a PgBouncer of the test's own."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from dreamcuts.sandbox import Sandbox

REPOSITORY = Path(__file__).resolve().parents[2]
DEADLINE_S = 60.0


class Process:
    """A child process whose stderr is read along, so that a test can wait for a line of it."""

    def __init__(self, command: list[str], env: dict[str, str], cwd: Path | None = None) -> None:
        self.popen = subprocess.Popen(command, env=env, cwd=cwd, stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            with self._news:
                self.lines.append(line)
                self._news.notify_all()

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def wait_for_line(self, text: str, count: int = 1) -> None:
        """Wait until `count` lines hold `text`."""
        with self._news:
            found = self._news.wait_for(
                lambda: sum(text in line for line in self.lines) >= count, timeout=DEADLINE_S
            )
        assert found, f"no line with {text!r} in:\n{self.log}"

    def end(self, number: int | None = None) -> int:
        """Send a signal, if one is given, and wait for the end; returns the exit code."""
        if number is not None:
            self.popen.send_signal(number)
        code = self.popen.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        return code

    def close(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()
        self._reader.join(DEADLINE_S)
        assert self.popen.stderr is not None
        self.popen.stderr.close()


Start = Callable[..., Process]


@pytest.fixture
def start(database: str, sandbox: Sandbox) -> Iterator[Start]:
    """`start("work", "--types", "tts", NAME=value)` runs `dreamcuts` against the test's database and sandbox."""
    processes: list[Process] = []

    def run(*arguments: str, program: list[str] | None = None, **environment: str) -> Process:
        env = {**os.environ, **sandbox.environment(), "DATABASE_URL": database, "POLL_INTERVAL_S": "0.2"}
        command = program or [sys.executable, "-m", "dreamcuts"]
        processes.append(Process([*command, *arguments], {**env, "PROVIDER_POLL_S": "0.1", **environment}))
        return processes[-1]

    yield run
    for process in processes:
        process.close()


class NotifySocket:
    """A datagram socket that receives what a service tells systemd."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)

    def receive(self, timeout: float = DEADLINE_S) -> dict[str, str]:
        """The next message. Raises TimeoutError."""
        self._socket.settimeout(timeout)
        lines = self._socket.recv(65536).decode().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def receive_until(self, name: str) -> dict[str, str]:
        """The next message with the field `name`, skipping others."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            if name in (message := self.receive()):
                return message
        raise AssertionError(f"no {name} came")

    def drain(self) -> None:
        """Throw away what has arrived."""
        self._socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while self._socket.recv(65536):
                pass

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def notify_socket(tmp_path: Path) -> Iterator[NotifySocket]:
    listening = NotifySocket(str(tmp_path / "notify"))
    yield listening
    listening.close()


@pytest.fixture
def pooler(database: str, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """`pooler(pool_mode="transaction")` starts PgBouncer before the test's database; gives its DSN."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    running: list[subprocess.Popen[bytes]] = []

    def run(**settings: str) -> str:
        for _ in range(5):
            process, dsn = _start_pgbouncer(program, database, tmp_path, settings)
            running.append(process)
            if _answers(process, dsn):
                return dsn
        raise AssertionError((tmp_path / "pgbouncer.log").read_text())

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
    options = {"listen_addr": "127.0.0.1", "listen_port": str(port), "unix_socket_dir": "", "auth_type": "any"}
    options |= {"pool_mode": "transaction", "default_pool_size": "3", **settings}
    # PgBouncer does not run as root; as another user it must be able to read its settings.
    home = folder / f"pgbouncer-{port}"
    home.mkdir()
    file = home / "pgbouncer.ini"
    lines = [f"{name} = {value}" for name, value in options.items()]
    file.write_text("\n".join(["[databases]", f"* = {server}", "[pgbouncer]", *lines, ""]))
    user: list[str] = []
    if os.geteuid() == 0:
        shutil.chown(home, "nobody")
        shutil.chown(file, "nobody")
        user = ["-u", "nobody"]
    with (folder / "pgbouncer.log").open("ab") as log, file.open() as settings_file:
        # By descriptor: the folders above are ours alone.
        process = subprocess.Popen(
            [program, *user, f"/dev/fd/{settings_file.fileno()}"],
            pass_fds=[settings_file.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    return process, f"postgresql://postgres@127.0.0.1:{port}/{parts['dbname']}"


def _answers(process: subprocess.Popen[bytes], dsn: str) -> bool:
    deadline = time.monotonic() + DEADLINE_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            psycopg.connect(dsn, prepare_threshold=None, connect_timeout=5).close()
            return True
        except psycopg.OperationalError:
            time.sleep(0.05)
    return False
