"""DreamCuts, through the worker's public API and the producer's plain insert."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import anyio
import asyncpg
import psycopg

from benchmarks.program import Hit, Options, main
from dreamcuts.bench.noop import DEFAULT_SLOTS, noop_worker
from dreamcuts.client import Client
from dreamcuts.db.migrate import migrate
from dreamcuts.db.sql import query
from dreamcuts.processes import calm_the_collector
from dreamcuts.worker.worker import Worker

TYPES = list(DEFAULT_SLOTS)


class DreamCuts:
    """Bulk: one INSERT of 2,000 rows. Single: Client.enqueue. Seven job types."""

    async def setup(self, dsn: str) -> None:
        migrate(dsn)

    async def open(self, dsn: str) -> None:
        self._bulk: Any = await asyncpg.connect(dsn)
        self._plain = psycopg.connect(dsn, autocommit=True)
        self._client = Client(self._plain)
        self._count = 0

    async def close(self) -> None:
        await self._bulk.close()
        self._plain.close()

    async def bulk(self, count: int) -> None:
        statement = query("bench_insert")
        await self._bulk.execute(statement.text, *statement.arguments({"types": TYPES, "jobs": count}))

    async def single(self, sent: float | None) -> None:
        self._count += 1
        payload = {} if sent is None else {"sentAt": sent}
        self._client.enqueue(TYPES[self._count % len(TYPES)], payload)

    async def work(self, dsn: str, options: Options, hit: Hit, ready: Callable[[], None]) -> None:
        types = options.get("types", TYPES)
        slots = {name: int(options.get("slots", DEFAULT_SLOTS[name])) for name in types}
        with tempfile.TemporaryDirectory(prefix="dreamcuts-bench-") as folder:
            worker = noop_worker(dsn, slots, folder=folder, on_start=hit)
            calm_the_collector()  # as `dreamcuts work` does
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_tell, worker, ready)
                await worker.run()


async def _tell(worker: Worker, ready: Callable[[], None]) -> None:
    await worker.wait_registered()
    ready()


if __name__ == "__main__":
    main(DreamCuts())
