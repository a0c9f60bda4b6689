"""The server of the benchmark, the programs under test, and one measurement at a time."""

from __future__ import annotations

# The programs run here are ours (program.py), with arguments of our making.
# ruff: noqa: S603
import contextlib
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from benchmarks.systems import Entry, System, named
from dreamcuts.embedded import EmbeddedPostgres
from dreamcuts.errors import DatabaseError
from dreamcuts.processes import uninterrupted

ROLE = "bench"
BATCH = 2000
PAUSE_S = 0.02
TIMEOUT_S = 60.0
STATEMENTS = named("server")


class BenchError(Exception):
    """A queue did not do what was asked of it."""


@dataclass(frozen=True)
class Drained:
    """Jobs per second, and what each cost the server. `statements` is None without pg_stat_statements."""

    rate: float
    wal: float
    commits: float
    statements: float | None


class Server:
    """A Postgres of our own, durable as in production, with a role for the queues beside the harness' own."""

    def __init__(self, postgres: EmbeddedPostgres, has_statements: bool) -> None:
        self._postgres = postgres
        self.has_statements = has_statements
        self._password = urlsplit(postgres.dsn()).password or ""
        with self.connect("postgres") as connection:
            if has_statements:
                connection.execute("create extension pg_stat_statements")
            connection.execute(
                sql.SQL("create role {} superuser login password {}").format(
                    sql.Identifier(ROLE), sql.Literal(self._password)
                )
            )
            self.about: dict[str, str] = dict(
                zip(
                    ("version", "shared_buffers", "fsync", "synchronous_commit"),
                    connection.execute(STATEMENTS["about"].text).fetchone() or (),
                    strict=True,
                )
            )

    def connect(self, database: str) -> psycopg.Connection[Any]:
        """As the harness, in autocommit."""
        return psycopg.connect(self._postgres.dsn(database), autocommit=True)

    def dsn(self, database: str) -> str:
        """For a queue."""
        return f"postgresql://{ROLE}:{self._password}@127.0.0.1:{self._postgres.port}/{database}"

    def create(self, database: str) -> None:
        """Make a database."""
        with self.connect("postgres") as connection:
            connection.execute(
                sql.SQL("create database {} template template0").format(sql.Identifier(database))
            )


@contextlib.contextmanager
def bench_server(shared_buffers: str = "1GB") -> Iterator[Server]:
    """The system's Postgres if there is one, else the wheel's; with pg_stat_statements where it is there."""
    settings = {"shared_buffers": shared_buffers, "max_connections": "200"}
    more = {"shared_preload_libraries": "pg_stat_statements"}
    with contextlib.ExitStack() as stack:
        try:
            postgres = stack.enter_context(EmbeddedPostgres(prefer="system", settings=settings | more))
            has_statements = True
        except DatabaseError:
            postgres = stack.enter_context(EmbeddedPostgres(prefer="system", settings=settings))
            has_statements = False
        yield Server(postgres, has_statements)


class WorkerProcess:
    """A worker under test, and what it has said so far."""

    def __init__(self, command: list[str], environment: dict[str, str], errors: Path) -> None:
        with uninterrupted(), errors.open("wb") as file:
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=file,
                start_new_session=True,
            )
        self._errors = errors
        self.is_ready = threading.Event()
        self.started = 0
        self.first = float("inf")
        self.waits: list[float] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def check(self) -> None:
        """Raises BenchError if it has ended."""
        if self._process.poll() is not None:
            raise BenchError(f"a worker ended: {last_line(self._errors)}")

    def cpu_seconds(self) -> float:
        """CPU time that it has used, 0 where /proc does not say."""
        return process_cpu(self._process.pid)

    def resident_mb(self) -> float:
        """Its resident size, 0 where /proc does not say."""
        with contextlib.suppress(OSError):
            pages = int(Path(f"/proc/{self._process.pid}/statm").read_text("ascii").split()[1])
            return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
        return 0.0

    def forget_peak(self) -> None:
        """Let the peak of its resident size begin anew."""
        with contextlib.suppress(OSError):
            Path(f"/proc/{self._process.pid}/clear_refs").write_text("5", "ascii")  # proc(5)

    def peak_mb(self) -> float:
        """The largest resident size since `forget_peak`, 0 where /proc does not say."""
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self._process.pid}/status").read_text("ascii").splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 1024
        return 0.0

    def kill(self) -> None:
        """End it at once: what is measured is over."""
        with uninterrupted():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._reader.join()
            assert self._process.stdout is not None
            self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                said = json.loads(line)
            except ValueError:
                continue  # half a line, of a program that was killed while it spoke
            if "ready" in said:
                self.is_ready.set()
            else:
                self.started, self.first = said["started"], said["first"]
                self.waits += said["waits"]


Meanwhile = Callable[[WorkerProcess, float], None]


def _sleep_until(_worker: WorkerProcess, end: float) -> None:
    time.sleep(max(0.0, end - time.monotonic()))


class Arena:
    """A queue in its database, ready to be measured."""

    def __init__(self, server: Server, system: System, folder: Path) -> None:
        self._server = server
        self._system = system
        self._folder = folder
        self._environment = {
            **os.environ,
            "DATABASE_URL": server.dsn(system.key),
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "TMPDIR": str(folder),  # workers are killed, and leave what they made
        }
        server.create(system.key)
        if system.is_node:
            self._tell("single", {"jobs": 0})  # makes its schema when it first connects
        else:
            self._tell("setup", {})
        self.connection = server.connect(system.key)

    def close(self) -> None:
        """Let go of the database."""
        self.connection.close()

    def reset(self) -> None:
        """An empty queue."""
        self.connection.execute(self._system.sql["reset"].text)

    def bulk(self, jobs: int) -> float:
        """Enqueue many; jobs per second."""
        return jobs / self._tell("bulk", {"jobs": jobs, "batch": BATCH})

    def single(self, jobs: int) -> float:
        """Enqueue one at a time; jobs per second."""
        self.reset()
        return jobs / self._tell("single", {"jobs": jobs})

    def drain(self, entry: Entry, jobs: int, workers: int) -> Drained:
        """Empty the queue of `jobs` jobs that are in it; from the first start to nothing left unfinished."""
        self._ask("tidy")
        if self._server.has_statements:
            self._server_ask("reset_statements")
        self._server_ask("checkpoint")
        wal, commits = self._counters()
        polls = 0
        with self.workers(entry, workers) as running:
            deadline = time.monotonic() + TIMEOUT_S
            while self._busy(running, jobs, deadline):
                time.sleep(0.01)
            while self.unfinished():
                self._in_time(running, deadline)
                polls += 1
                time.sleep(0.01)
            ended = time.time()
            first = min(worker.first for worker in running)
        self._await_sessions()
        wal_now, commits_now = self._counters()
        return Drained(
            rate=jobs / (ended - first),
            wal=(wal_now - wal) / jobs,
            commits=max(0.0, commits_now - commits - polls) / jobs,
            statements=self._statements() / jobs if self._server.has_statements else None,
        )

    def pickup(self, entry: Entry, jobs: int) -> list[float]:
        """Seconds from just before the enqueue to the start, for jobs that come to an idle worker."""
        self.reset()
        self._ask("tidy")
        with self.workers(entry, 1) as (worker,):
            if not worker.is_ready.wait(TIMEOUT_S):
                raise BenchError("the worker did not come up")
            time.sleep(1)  # a worker that has just come up is not idle yet
            self._tell("pickup", {"jobs": jobs, "pause": PAUSE_S})
            deadline = time.monotonic() + TIMEOUT_S
            while self._busy([worker], jobs, deadline):
                time.sleep(0.01)
        self._await_sessions()
        return worker.waits

    def progress(
        self, entry: Entry, seconds: float, window: float, meanwhile: Meanwhile | None = None
    ) -> list[float]:
        """Starts per second of one worker on a deep queue, window by window.

        `meanwhile` is called once a window, with the worker and when it is to return.
        """
        meanwhile = meanwhile or _sleep_until
        rates = []
        with self.workers(entry, 1) as (worker,):
            deadline = time.monotonic() + TIMEOUT_S
            while self._busy([worker], 1, deadline):
                time.sleep(0.01)
            seen, since = worker.started, time.monotonic()
            for _ in range(round(seconds / window)):
                meanwhile(worker, time.monotonic() + window)
                started, now = worker.started, time.monotonic()
                rates.append((started - seen) / (now - since))
                seen, since = started, now
                worker.check()
        self._await_sessions()
        return rates

    def statements(self) -> float:
        """Statements that the queue's sessions have sent so far; 0 without pg_stat_statements."""
        return self._statements() if self._server.has_statements else 0.0

    def session_pids(self) -> list[int]:
        """The server's processes of the queue's sessions."""
        names = {"database": self._system.key, "role": ROLE}
        return [row[0] for row in self.connection.execute(STATEMENTS["session_pids"].psycopg_text, names)]

    def unfinished(self) -> int:
        """Jobs that are not done."""
        row = self.connection.execute(self._system.sql["unfinished"].text).fetchone()
        assert row is not None
        return int(row[0])

    @contextlib.contextmanager
    def workers(self, entry: Entry, count: int) -> Iterator[list[WorkerProcess]]:
        running: list[WorkerProcess] = []
        try:
            for number in range(count):
                command = [*entry.command, "work", json.dumps(dict(entry.options))]
                errors = self._folder / f"{entry.key}-{number}.log"
                running.append(WorkerProcess(command, self._environment, errors))
            yield running
        finally:
            for worker in running:
                worker.kill()

    def _busy(self, running: list[WorkerProcess], jobs: int, deadline: float) -> bool:
        if sum(worker.started for worker in running) >= jobs:
            return False
        self._in_time(running, deadline)
        return True

    def _in_time(self, running: list[WorkerProcess], deadline: float) -> None:
        for worker in running:
            worker.check()
        if time.monotonic() > deadline:
            started = sum(worker.started for worker in running)
            raise BenchError(f"not done after {TIMEOUT_S:g} s: {started} jobs started")

    def _tell(self, verb: str, options: dict[str, Any]) -> float:
        errors = self._folder / f"{self._system.key}-{verb}.log"
        with errors.open("wb") as file:
            command = [*self._system.command, verb, json.dumps(options)]
            done = subprocess.run(command, env=self._environment, stdout=subprocess.PIPE, stderr=file)
        if done.returncode != 0:
            raise BenchError(f"{verb}: {last_line(errors)}")
        lines = done.stdout.splitlines()
        return float(json.loads(lines[-1])["seconds"]) if lines else 0.0

    def _await_sessions(self) -> None:
        """Their counts reach the statistics when they end."""
        names = {"database": self._system.key, "role": ROLE}
        deadline = time.monotonic() + TIMEOUT_S
        while self._value("sessions", **names):
            self._ask("end_sessions", **names)
            if time.monotonic() > deadline:
                raise BenchError("sessions do not end")
            time.sleep(0.05)

    def _counters(self) -> tuple[float, float]:
        return self._value("wal"), self._value("commits", database=self._system.key)

    def _statements(self) -> float:
        return self._value("statements", database=self._system.key, role=ROLE)

    def _value(self, name: str, **values: Any) -> float:
        with self._server.connect("postgres") as connection:
            row = connection.execute(STATEMENTS[name].psycopg_text, values).fetchone()
        assert row is not None
        return float(row[0])

    def _ask(self, name: str, **values: Any) -> None:
        self.connection.execute(STATEMENTS[name].psycopg_text, values)

    def _server_ask(self, name: str) -> None:
        with self._server.connect("postgres") as connection:
            connection.execute(STATEMENTS[name].text)


def process_cpu(pid: int) -> float:
    """CPU seconds of a process on this machine, 0 if it is gone or /proc does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def last_line(file: Path) -> str:
    """The last line of a log that says something, without anything that looks like a connection string."""
    lines = [line.strip(" |+-") for line in file.read_text("utf-8", "replace").splitlines()]
    lines = [line for line in lines if line]
    text = lines[-1] if lines else "it said nothing"
    return " ".join(word for word in text.split() if "://" not in word)[:300]


@contextlib.contextmanager
def log_folder() -> Iterator[Path]:
    """Where the programs' errors go, for as long as they may be asked for."""
    with tempfile.TemporaryDirectory(prefix="dreamcuts-bench-") as folder:
        yield Path(folder)
