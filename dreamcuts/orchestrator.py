"""Worker processes as children of this one: started, watched, restarted, scaled, stopped.

    with Orchestrator(["tts:5", "image", "render"]) as workers:   # a process each; default: one for each type
        workers.wait_ready()
        ...
        workers.restart("tts")
        workers.scale("low")

A child that crashes is started again, with growing pauses. One that ends by itself (an operator drained it),
or cannot start for its settings, stays away until `restart`. No child outlives this process, however it ends.

systemd does the same for bare machines, and does it better (docs/operations.md); this is for a program that
brings its workers along.
"""

from __future__ import annotations

# The program run here is this Python with `dreamcuts work`.
# ruff: noqa: S603
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Self, cast
from uuid import UUID

from dreamcuts.config import Settings
from dreamcuts.db.migrate import status as schema_status
from dreamcuts.errors import ConfigError, DatabaseError
from dreamcuts.fleet import PROFILES, Fleet
from dreamcuts.jobs.base import JobType
from dreamcuts.jobs.registry import load_job_types, resolve_types
from dreamcuts.processes import RESTART_CODE
from dreamcuts.service import needs, storage_needs

log = logging.getLogger(__name__)

State = Literal["starting", "running", "waiting", "ended", "failed"]

SETTINGS_CODE = 2
"""Exit code of `dreamcuts work` for settings that are missing or wrong: trying again would not help."""
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
STEADY_S = 60.0
"""A child that ran for so long did not crash at its start: the pauses begin anew."""
GRACE_S = 25.0
"""Beyond its shutdown timeout, before a child is killed."""


@dataclass(frozen=True, slots=True)
class ChildStatus:
    """How one worker process stands. What the database knows of it is of its last heartbeat."""

    name: str
    """Its types, as they were given: `tts:5`."""
    state: State
    """starting: not in the database yet; waiting: it crashed and starts again soon."""
    pid: int | None
    restarts: int
    """How often it was started again after a crash."""
    exit_code: int | None
    """Of the last run that ended."""
    worker: UUID | None
    active_jobs: int
    slots: dict[str, int]
    """Jobs at a time by full type name, as they are scaled."""


@dataclass(frozen=True, slots=True)
class Status:
    """How all of them stand."""

    is_running: bool
    workers: tuple[ChildStatus, ...]


class Orchestrator:
    """Runs worker processes on this machine, one for each entry of `types`: a type, or several with commas.

    `environment` holds settings for the children beside those of this process. Raises ConfigError for an
    unknown type or a missing setting, before anything is started.
    """

    def __init__(
        self,
        types: Iterable[str] | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        shutdown_timeout: float = 30.0,
    ) -> None:
        known = load_job_types()
        self._names = list(types) if types is not None else [kind.short_name for kind in known.values()]
        if not self._names:
            raise ConfigError("No job type was named. Leave `types` out to serve them all.")
        self._environment = dict(environment or {})
        own = {name.lower(): value for name, value in self._environment.items()}
        self._settings = Settings.load(**{name: own[name] for name in own if name in Settings.model_fields})
        self._types = {name: _types_of(name, known) for name in self._names}
        self._shutdown_timeout = shutdown_timeout
        self._children: list[_Child] = []

    def start(self) -> None:
        """Start the processes; see `wait_ready`. Raises ConfigError or DatabaseError if they cannot work."""
        if self._children:
            raise RuntimeError("The orchestrator has been started already.")
        settings = self._settings
        served = (kind for kinds in self._types.values() for kind in kinds)
        wanted = [*needs(served), *storage_needs(settings)]
        settings.require(need for need in wanted if need[0] not in self._environment)
        if settings.enable_health_check and len(self._names) > 1 and _is_port_given(settings):
            raise ConfigError(
                f"HEALTH_CHECK_PORT={settings.health_check_port} is one port for {len(self._names)} worker "
                "processes. Leave it out: a worker of a single type has a port of its own."
            )
        schema_status(settings.secret("DATABASE_URL")).check()
        self._children = [_Child(name, self._command(name), self._environment) for name in self._names]
        for child in self._children:
            child.start()

    def status(self) -> Status:
        """How the processes stand. Without the database it says what the machine knows."""
        rows = {}
        with (
            contextlib.suppress(DatabaseError),
            Fleet.connect(self._settings.secret("DATABASE_URL")) as fleet,
        ):
            host = socket.gethostname()
            rows = {row["pid"]: row for row in fleet.workers() if row["host"] == host}
        children = tuple(child.status(rows.get(child.pid or 0)) for child in self._children)
        return Status(any(child.pid is not None for child in children), children)

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Return when every process has taken its place in the database.

        Raises DatabaseError after `timeout_s` seconds, or as soon as one has ended, saying how they stand.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            workers = self.status().workers
            if all(worker.state == "running" for worker in workers):
                return
            if time.monotonic() > deadline or any(worker.state in ("failed", "ended") for worker in workers):
                states = ", ".join(f"{worker.name} is {worker.state}" for worker in workers)
                raise DatabaseError(f"Not all workers are ready: {states}. Their logs say why.")
            time.sleep(0.1)

    def restart(self, type: str) -> None:
        """Let the processes that serve a type (tts, or tts_elevenlabs) drain, and start them anew.

        Returns when the old ones have ended. Raises ConfigError if none of ours serves it.
        """
        (wanted,) = resolve_types([type], load_job_types())
        chosen = [child for child in self._children if wanted in self._types[child.name]]
        if not chosen:
            raise ConfigError(f"No process here serves {type!r}. There are: {', '.join(self._names)}.")
        for child in chosen:
            child.restart()
        for child in chosen:
            child.wait_replaced(self._shutdown_timeout + GRACE_S)

    def scale(self, what: str, slots: int | None = None) -> None:
        """Scale to a profile (high, normal, low), or one type to `slots` jobs at a time: `scale("tts", 5)`.

        As `dreamcuts workers scale`: for all workers of the database, and until it is changed again.
        """
        with Fleet.connect(self._settings.secret("DATABASE_URL")) as fleet:
            if slots is not None:
                (wanted,) = resolve_types([what], load_job_types())
                fleet.scale_type(wanted.name, slots)
            elif what in PROFILES:
                fleet.scale_profile(what)
            else:
                raise ConfigError(f"{what!r} is no profile. There are: {', '.join(PROFILES)}.")

    def stop(self) -> None:
        """Let all processes drain within the shutdown timeout, and return when they have ended."""
        for child in self._children:
            child.stop()
        deadline = time.monotonic() + self._shutdown_timeout + GRACE_S
        for child in self._children:
            child.wait_ended(max(deadline - time.monotonic(), 0))
        self._children = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _command(self, name: str) -> list[str]:
        timeout = str(self._shutdown_timeout)
        options = ["--types", name, "--shutdown-timeout", timeout, "--with-parent"]
        return [sys.executable, "-m", "dreamcuts", "work", *options]


class _Child:
    """One process and the thread that waits for it."""

    def __init__(self, name: str, command: list[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self._command = command
        self._environment = os.environ | dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._state: State = "starting"
        self._restarts = 0
        self._exit_code: int | None = None
        self._stopping = threading.Event()
        self._again = threading.Event()
        self._replaced = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name=f"worker {name}", daemon=True)

    @property
    def pid(self) -> int | None:
        process = self._process
        return None if process is None or process.poll() is not None else process.pid

    def start(self) -> None:
        self._spawn()
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._again.set()  # wakes one that waits to be started again
        self._terminate()

    def restart(self) -> None:
        self._replaced.clear()
        self._again.set()
        self._terminate()

    def wait_replaced(self, timeout_s: float) -> None:
        if not self._replaced.wait(timeout_s):
            self._kill()
            self._replaced.wait()

    def wait_ended(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._kill()
            self._thread.join()

    def status(self, row: Mapping[str, object] | None) -> ChildStatus:
        pid, state = self.pid, self._state
        if pid is not None:
            state = "starting" if row is None else "running"
        slots = {} if row is None else dict(zip(row["types"], row["slots"], strict=True))  # type: ignore[call-overload]
        return ChildStatus(
            name=self.name,
            state=state,
            pid=pid,
            restarts=self._restarts,
            exit_code=self._exit_code,
            worker=None if row is None else cast(UUID, row["id"]),
            active_jobs=0 if row is None else cast(int, row["active_jobs"]),
            slots=slots,
        )

    def _watch(self) -> None:
        pause = FIRST_PAUSE_S
        while not self._stopping.is_set():
            process, started = self._process, time.monotonic()
            assert process is not None
            code = self._exit_code = process.wait()
            if self._stopping.is_set():
                break
            if self._again.is_set() or code == RESTART_CODE:
                pause = FIRST_PAUSE_S
            elif code in (0, SETTINGS_CODE):
                self._state = "ended" if code == 0 else "failed"
                log.log(
                    logging.INFO if code == 0 else logging.ERROR, "%s ended with code %d", self.name, code
                )
                self._again.wait()
            else:
                pause = FIRST_PAUSE_S if time.monotonic() - started > STEADY_S else pause
                self._state = "waiting"
                self._restarts += 1
                log.warning("%s ended with code %d; it starts again in %.0f s", self.name, code, pause)
                self._again.wait(pause)
                pause = min(pause * 2, LONGEST_PAUSE_S)
            if self._stopping.is_set():
                break
            self._again.clear()
            self._close()
            self._spawn()
            self._replaced.set()
        self._close()
        self._replaced.set()

    def _spawn(self) -> None:
        with self._lock:
            if self._stopping.is_set():
                return
            self._state = "starting"
            # A session of its own, so that Ctrl-C reaches it through us alone. It ends when its stdin closes.
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdin=subprocess.PIPE, start_new_session=True
            )

    def _terminate(self) -> None:
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                self._process.send_signal(signal.SIGTERM)

    def _kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            log.error("%s did not end in time; it is killed, and its jobs will be rescued", self.name)
            self._process.kill()

    def _close(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()


def start_worker(*types: str, environment: Mapping[str, str] | None = None) -> Orchestrator:
    """Start one process that serves these types; `stop()` ends it."""
    orchestrator = Orchestrator([",".join(types)], environment=environment)
    orchestrator.start()
    return orchestrator


def start_tts_worker(environment: Mapping[str, str] | None = None) -> Orchestrator:
    """Start a process for speech."""
    return start_worker("tts", environment=environment)


def start_image_worker(environment: Mapping[str, str] | None = None) -> Orchestrator:
    """Start a process for images."""
    return start_worker("image", environment=environment)


def start_video_worker(environment: Mapping[str, str] | None = None) -> Orchestrator:
    """Start a process for video clips."""
    return start_worker("video", environment=environment)


def start_lipsync_worker(environment: Mapping[str, str] | None = None) -> Orchestrator:
    """Start a process for lip sync."""
    return start_worker("lipsync", environment=environment)


def start_music_worker(environment: Mapping[str, str] | None = None) -> Orchestrator:
    """Start a process for music."""
    return start_worker("music", environment=environment)


def start_sound_effects_worker(environment: Mapping[str, str] | None = None) -> Orchestrator:
    """Start a process for sound effects."""
    return start_worker("sound_effects", environment=environment)


def start_render_worker(environment: Mapping[str, str] | None = None) -> Orchestrator:
    """Start a process for the final render."""
    return start_worker("render", environment=environment)


def _types_of(name: str, known: Mapping[str, JobType]) -> list[JobType]:
    return resolve_types([word.strip().partition(":")[0] for word in name.split(",")], known)


def _is_port_given(settings: Settings) -> bool:
    return "health_check_port" in settings.model_fields_set and settings.health_check_port != 0
