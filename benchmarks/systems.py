"""What is measured: each queue with the settings that its own documentation recommends for throughput."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from dreamcuts.db.sql import Query, parse_queries

HERE = Path(__file__).parent


@dataclass(frozen=True)
class System:
    """A queue: its program, its database (of the same name) and its SQL."""

    key: str
    title: str
    package: str
    is_node: bool = False

    @property
    def command(self) -> list[str]:
        """The program, without its verb."""
        if self.is_node:
            return [shutil.which("node") or "node", str(HERE / "node" / f"{self.key}.js")]
        return _python(self.key if self.key == "bare" else f"{self.key}_queue")

    @cached_property
    def sql(self) -> Mapping[str, Query]:
        """The named statements of its file in sql/."""
        return named(self.key)

    @property
    def version(self) -> str | None:
        """The installed version; None if it is not installed."""
        if self.is_node:
            manifest = HERE / "node" / "node_modules" / self.package / "package.json"
            if shutil.which("node") is None or not manifest.exists():
                return None
            return str(json.loads(manifest.read_text("utf-8"))["version"])
        try:
            return importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return None


@dataclass(frozen=True)
class Entry:
    """A queue with settings of its worker. `jobs` keep one worker busy for some seconds.

    `program` is the module in programs/ that its worker is, where it is not the system's own.
    """

    key: str
    title: str
    system: System
    jobs: int
    settings: str
    options: Mapping[str, Any] = field(default_factory=dict)
    program: str | None = None

    @property
    def command(self) -> list[str]:
        """The worker's program, without its verb."""
        return _python(self.program) if self.program else self.system.command


def _python(module: str) -> list[str]:
    return [sys.executable, "-m", f"benchmarks.programs.{module}"]


def named(name: str) -> dict[str, Query]:
    """The statements of sql/NAME.sql."""
    file = HERE / "sql" / f"{name}.sql"
    return {found.name: found for found in parse_queries(file.read_text("utf-8"), file.name)}


BARE = System("bare", "bare asyncpg", "asyncpg")
DREAMCUTS = System("dreamcuts", "DreamCuts", "dreamcuts")
PROCRASTINATE = System("procrastinate", "Procrastinate", "procrastinate")
PGQUEUER = System("pgqueuer", "PgQueuer", "pgqueuer")
CHANCY = System("chancy", "Chancy", "chancy")
GRAPHILE = System("graphile", "Graphile Worker", "graphile-worker", is_node=True)
PGBOSS = System("pgboss", "pg-boss", "pg-boss", is_node=True)

ENTRIES = (
    Entry(
        "bare", "bare asyncpg (the limit)", BARE, 60_000,
        "four columns, no leases, attempts, results or dependencies; claims of 500, a task per job, "
        "completion overlapped on a second connection",
        {"batch": 500},
    ),
    Entry(
        "dreamcuts", "DreamCuts, default settings", DREAMCUTS, 60_000,
        "seven job types with the slots of the built-in ones (13 jobs at a time), asyncio's own event loop",
        {"uvloop": False},
    ),
    Entry(
        "dreamcuts_tuned", "DreamCuts, tuned", DREAMCUTS, 60_000,
        "seven job types with 70 slots each, uvloop",
        {"slots": 70},
    ),
    Entry(
        "procrastinate", "Procrastinate", PROCRASTINATE, 2_000,
        "concurrency=30, psycopg pool of 35",
        {"concurrency": 30},
    ),
    Entry(
        "pgqueuer", "PgQueuer", PGQUEUER, 30_000,
        "batch_size=250, asyncpg",
        {"batch_size": 250},
    ),
    Entry(
        "chancy", "Chancy", CHANCY, 10_000,
        "asynchronous executor, concurrency=1000, eager_polling",
        {"concurrency": 1000},
    ),
    Entry(
        "graphile", "Graphile Worker", GRAPHILE, 60_000,
        "concurrentJobs=24, localQueue.size=2000, completeJobBatchDelay=0",
        {"concurrentJobs": 24, "localQueue": 2000, "completeJobBatchDelay": 0},
    ),
    Entry(
        "pgboss", "pg-boss", PGBOSS, 40_000,
        "batchSize=5000, two pollers, pollingIntervalSeconds=0.5",
        {"batchSize": 5000, "pollers": 2, "pollingIntervalSeconds": 0.5},
    ),
)  # fmt: skip
