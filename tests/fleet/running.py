"""`dreamcuts work` as a process whose log a test can wait for."""

from __future__ import annotations

import subprocess
import sys
import threading
from types import TracebackType
from typing import Self

from tests.support import PROCESS_DEADLINE_S, wait_until


class Running:
    """A process and the lines that it wrote to stderr."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def wait_log(self, text: str, times: int = 1) -> None:
        wait_until(
            lambda: self.log.count(text) >= times,
            f"{text!r} in the log: {self.log}",
            deadline_s=PROCESS_DEADLINE_S,
        )

    def wait_end(self) -> int:
        wait_until(lambda: self.process.poll() is not None, f"the process to end: {self.log}")
        self._reader.join(10)
        return int(self.process.returncode)


class Processes:
    """All processes of a test."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self._started: list[Running] = []

    def work(self, *options: str, **environment: str) -> Running:
        process = subprocess.Popen(
            [sys.executable, "-m", "dreamcuts", "work", *options],
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        running = Running(process)
        self._started.append(running)
        return running

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for running in self._started:
            running.process.kill()
            running.process.wait()
            running._reader.join(10)
            assert running.process.stderr is not None
            running.process.stderr.close()
