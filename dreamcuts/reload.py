"""`dreamcuts work --reload`: run a worker as a child process and restart it when a file changes.

For development. The child gets a SIGTERM and may finish its jobs within the shutdown timeout, as in a deploy:
a call to a provider that is cut off may be paid for nothing. Ctrl-C meanwhile hands them back at once.
"""

from __future__ import annotations

# The program run here is this Python with `dreamcuts work`.
# ruff: noqa: S603
import inspect
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import FrameType

from dreamcuts.errors import ConfigError
from dreamcuts.processes import uninterrupted

log = logging.getLogger(__name__)

PACKAGE = Path(__file__).resolve().parent
WATCHED_SUFFIXES = (".py", ".sql")
SETTINGS_FILE = ".env.local"


def run_reloading(arguments: Sequence[str], watched: Iterable[Path]) -> int:
    """Run `dreamcuts work ARGUMENTS` until it ends well or a signal ends it; returns the exit code.

    `watched` are files and folders. Raises ConfigError if the package watchfiles is missing.
    """
    try:
        import watchfiles
    except ImportError:
        raise ConfigError(
            "--reload needs the package watchfiles. Install it with `pip install 'dreamcuts[reload]'`."
        ) from None
    command = [sys.executable, "-m", "dreamcuts", "work", *arguments, "--with-parent"]
    supervisor = _Supervisor(command)
    before = {
        number: signal.signal(number, supervisor.on_signal) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        settings = _settings_stamp()
        supervisor.start()
        changes = watchfiles.watch(
            *sorted(watched),
            watch_filter=_is_watched,
            stop_event=supervisor.stopping,
            rust_timeout=500,
            yield_on_timeout=True,
        )
        for change in changes:
            if supervisor.stopping.is_set() or supervisor.has_ended_well():
                break
            names = {Path(path).name for _, path in change}
            if settings != (settings := _settings_stamp()):
                names.add(SETTINGS_FILE)
            if names:
                log.info("%s changed; restarting the worker", ", ".join(sorted(names)[:3]))
                supervisor.restart()
        return supervisor.end()
    finally:
        supervisor.kill()
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def watched_paths(plugins: Iterable[object]) -> set[Path]:
    """What to watch: this package, its SQL, the folders where `plugins` are defined.

    `.env.local` is looked at besides: it may come later, or be replaced by another file of that name.
    """
    paths = {PACKAGE}
    for plugin in plugins:
        source = Path(inspect.getfile(type(plugin))).resolve()
        if PACKAGE not in source.parents:
            paths.add(source.parent)
    if (sql := PACKAGE.parent / "sql").exists():
        paths.add(sql)
    return paths


def _settings_stamp() -> tuple[int, ...] | None:
    """What changes with the settings' file; None while there is none."""
    try:
        found = Path(SETTINGS_FILE).stat()
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns, found.st_size)


def _is_watched(change: object, path: str) -> bool:
    return path.endswith(WATCHED_SUFFIXES)


class _Supervisor:
    """The child and the signals for it."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self._child: subprocess.Popen[bytes] | None = None
        self._told = False
        self._noted = False
        self.stopping = threading.Event()

    def start(self) -> None:
        with uninterrupted():
            self._told = self._noted = False
            # A session of its own, so that Ctrl-C reaches it through us alone. It ends when its stdin closes,
            # that is, with us, however we end.
            self._child = subprocess.Popen(self._command, stdin=subprocess.PIPE, start_new_session=True)

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Stop. The child is told of each signal: the second one hurries it."""
        self.stopping.set()
        self._terminate()

    def restart(self) -> None:
        self._terminate()
        self._wait()
        if not self.stopping.is_set():
            self.start()

    def has_ended_well(self) -> bool:
        """Whether the child has ended by itself with code 0. After another code we wait for a change."""
        code = None if self._child is None else self._child.poll()
        if code and not self._noted:
            self._noted = True
            log.warning("The worker ended with code %d; it starts again at the next change", code)
        return code == 0

    def end(self) -> int:
        """Wait for a child that has ended, or is to end; returns its exit code."""
        if not self._told:  # a signal that came just before it was started has not reached it
            self._terminate()
        code = self._wait()
        return 0 if code == -signal.SIGTERM else code if code >= 0 else 128 - code

    def kill(self) -> None:
        """Leave no child behind."""
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
            self._wait()

    def _terminate(self) -> None:
        if self._child is not None and self._child.poll() is None:
            self._told = True
            self._child.send_signal(signal.SIGTERM)

    def _wait(self) -> int:
        if self._child is None:
            return 0
        code = self._child.wait()
        if self._child.stdin is not None:
            self._child.stdin.close()
        return code
