"""The parts that the chaos tests break: a Postgres that can crash and come back, and worker processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TextIO

from dreamcuts.config import Settings
from dreamcuts.embedded import EmbeddedPostgres
from tests.support import PROCESS_DEADLINE_S, wait_until

ROOT = Path(__file__).parents[2]
MAIN = Path("tests/chaos/worker_main.py")

# Only fsync is off: a server that crashes loses nothing then, a machine that does would.
DURABLE = {"fsync": "off", "full_page_writes": "off", "max_connections": "100"}


class CrashingPostgres(EmbeddedPostgres):
    """EmbeddedPostgres which can be stopped at once, as by a crash, and comes back on the same port."""

    def crash(self) -> None:
        """Immediate stop: no checkpoint, all connections cut. The next start recovers from the log."""
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(30)

    def freeze(self, frozen: bool) -> None:
        """Stop (or let go on) every process of the server: connections stay, and nothing answers."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP if frozen else signal.SIGCONT)
        for pid in _descendants(self._process.pid):
            # Each backend leads a process group of its own.
            os.kill(pid, signal.SIGSTOP if frozen else signal.SIGCONT)

    def come_back(self) -> None:
        """Start again where it stopped."""
        options = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "logging_collector=off"]
        options += [f"{name}={value}" for name, value in self._settings.items()]
        arguments = [part for option in options for part in ("-c", option)]
        self._process = self._spawn("postgres", "-D", str(self._data), "-p", str(self._port), *arguments)
        if not self._wait_until_ready(self._process, time.monotonic() + 30):
            raise AssertionError(f"Postgres did not come back: {self._log_tail()}")


class WorkerProcess:
    """One worker process, with its log in a file."""

    def __init__(self, slots: str, environment: Mapping[str, str], log: Path, sources: Path = ROOT) -> None:
        self.log = log
        self.began = time.monotonic()
        self._out: TextIO = log.open("a")
        self.process = subprocess.Popen(
            [sys.executable, str(sources / MAIN), slots],
            env={**clean_environment(), **environment, "PYTHONPATH": str(sources)},
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, number: signal.Signals) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)

    def kill(self) -> None:
        """End it as the kernel does when memory runs out."""
        self.send(signal.SIGKILL)
        self.process.wait(10)
        self._out.close()

    def is_over(self) -> bool:
        return self.process.poll() is not None

    def is_stopped(self) -> bool:
        """Whether a SIGSTOP holds it."""
        return not self.is_over() and _state(self.pid) == "T"

    def text(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def wait_for(self, text: str) -> None:
        """Wait until its log says `text`."""
        wait_until(
            lambda: text in self.text() or self.is_over(),
            f"{text!r} in the worker's log",
            deadline_s=PROCESS_DEADLINE_S,
        )
        assert text in self.text(), f"the worker ended:\n{self.text()[-3000:]}"

    def stop(self) -> int:
        """SIGTERM, and wait for the end; returns its exit code."""
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
            self.process.wait(10)
            raise AssertionError(f"the worker did not end:\n{self.text()[-3000:]}") from None
        finally:
            self._out.close()


StartWorker = Callable[..., WorkerProcess]


def clean_environment() -> dict[str, str]:
    """The environment without any setting of DreamCuts."""
    names = {name.upper() for name in Settings.model_fields}
    return {key: value for key, value in os.environ.items() if key not in names}


def copy_sources(folder: Path) -> Path:
    """A copy of what workers run, so that an edit in the middle of a long run does not change them.

    A worker that is started late would be another program than those that run, or read SQL that is not the
    database's.
    """
    for name in ("dreamcuts", "sql", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def _state(pid: int) -> str:
    """The state of a process as the kernel names it: R, S, T, Z."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    found = [int(child) for child in children]
    return found + [below for child in found for below in _descendants(child)]
