"""A child process whose log can be waited for, and a socket that stands for systemd's."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

DEADLINE_S = 180.0


class Process:
    """A child process whose stderr is read along, so that a test can wait for a line of it."""

    def __init__(self, command: list[str], env: dict[str, str], cwd: Path | None = None) -> None:
        self.popen = subprocess.Popen(command, env=env, cwd=cwd, stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self._ended = False
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            with self._news:
                self.lines.append(line)
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def wait_for_line(self, text: str, count: int = 1) -> None:
        """Wait until `count` lines hold `text`."""

        def found() -> bool:
            return sum(text in line for line in self.lines) >= count

        with self._news:
            self._news.wait_for(lambda: found() or self._ended, timeout=DEADLINE_S)
            assert found(), f"no line with {text!r} in:\n{self.log}"

    def end(self, number: int | None = None) -> int:
        """Send a signal, if one is given, and wait for the end; returns the exit code."""
        if number is not None:
            self.popen.send_signal(number)
        try:
            code = self.popen.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it still runs:\n{self.log}") from None
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
"""`start("work", "--types", "tts", NAME=value)`; see the fixture of that name."""


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
