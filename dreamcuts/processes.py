"""Starting and ending child processes so that none outlives its owner."""

from __future__ import annotations

# The programs run here are Postgres' own and ps, with arguments of our making.
# ruff: noqa: S603
import contextlib
import gc
import importlib.util
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import NoReturn

STOP_DEADLINE_S = 15.0
RESTART_CODE = 75
"""Exit code of a process that wants to be started again by whoever started it (EX_TEMPFAIL, sysexits.h)."""


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back SIGINT and SIGTERM while the block runs, and deliver them after it.

    For the few steps that must not be torn: a process that was started but is not yet noted would outlive us.
    Signals reach Python in the main thread only; elsewhere this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        held.append(number)

    before = {number: signal.signal(number, hold) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            # None: a handler that was not set from Python cannot be put back.
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        for late in dict.fromkeys(held):
            signal.raise_signal(late)


def calm_the_collector() -> None:
    """Let Python's garbage collector run more rarely, and past what a process has loaded at its start.

    For a process that does nothing but work. A worker makes some ten objects for each job and drops them a
    moment later; with the usual thresholds (700 objects) a third of its time went into looking through all
    that it has imported. See "freeze" in the documentation of Python's module gc.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


def has_uvloop() -> bool:
    """Whether uvloop, a quicker event loop, is installed (the extra `fast`)."""
    return importlib.util.find_spec("uvloop") is not None


def end_with_parent() -> None:
    """End this process (by SIGTERM) when its stdin closes: its parent, who holds the other end, is gone."""

    def watch() -> None:
        # The bare descriptor: a thread that waits inside sys.stdin would get in the way of the exit.
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def is_supervised(environment: Mapping[str, str] | None = None) -> bool:
    """Whether systemd runs this process as the main one of a service (systemd.exec(5), SYSTEMD_EXEC_PID)."""
    environment = os.environ if environment is None else environment
    return "NOTIFY_SOCKET" in environment or environment.get("SYSTEMD_EXEC_PID") == str(os.getpid())


def start_anew(*, supervised: bool) -> NoReturn:
    """Put a fresh process with the same command line in the place of this one.

    It loads whatever is installed now; its pid and its parent stay the same. A `supervised` process ends with
    RESTART_CODE instead: systemd has been told that it stops, would end what comes after it, and starts the
    service again (Restart=on-failure).
    """
    if supervised:
        raise SystemExit(RESTART_CODE)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606


def end_process(process: subprocess.Popen[bytes], first: signal.Signals) -> None:
    """End a process that leads its own session: ask with `first`, insist after a while."""
    for number, patience in ((first, STOP_DEADLINE_S), (signal.SIGQUIT, 5.0), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            if number is signal.SIGKILL:
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
        try:
            process.wait(patience)
            return
        except subprocess.TimeoutExpired:
            continue


def command_line(pid: int) -> str:
    """The command that runs as `pid`; empty if none does."""
    proc = Path(f"/proc/{pid}/cmdline")
    if Path("/proc/self/cmdline").exists():
        try:
            return proc.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            return ""
    done = subprocess.run(["ps", "-p", str(pid), "-o", "command="], capture_output=True, text=True)  # noqa: S607
    return done.stdout
