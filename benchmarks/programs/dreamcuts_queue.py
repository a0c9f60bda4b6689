"""DreamCuts, through the worker's public API and the producer's plain insert."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from typing import Any

import anyio
import asyncpg

from benchmarks.program import Hit, Options, main
from benchmarks.systems import DREAMCUTS
from dreamcuts.bench.noop import DEFAULT_SLOTS, noop_worker
from dreamcuts.db.migrate import migrate
from dreamcuts.db.sql import query
from dreamcuts.processes import calm_the_collector
from dreamcuts.worker.worker import Worker

TYPES = list(DEFAULT_SLOTS)
INSERT = DREAMCUTS.sql["insert"]


class DreamCuts:
    """Bulk: one INSERT of 2,000 rows. Single: the producer's plain INSERT of one row. Seven job types."""

    async def setup(self, dsn: str) -> None:
        migrate(dsn)

    async def open(self, dsn: str) -> None:
        self._connection: Any = await asyncpg.connect(dsn)
        self._count = 0

    async def close(self) -> None:
        await self._connection.close()

    async def bulk(self, count: int) -> None:
        statement = query("bench_insert")
        await self._connection.execute(statement.text, *statement.arguments({"types": TYPES, "jobs": count}))

    async def single(self, sent: float | None) -> None:
        self._count += 1
        payload = {} if sent is None else {"sentAt": sent}
        values = {"type": TYPES[self._count % len(TYPES)], "payload": json.dumps(payload)}
        await self._connection.execute(INSERT.text, *INSERT.arguments(values))

    async def work(self, dsn: str, options: Options, hit: Hit, ready: Callable[[], None]) -> None:
        types = options.get("types", TYPES)
        slots = {name: int(options.get("slots", DEFAULT_SLOTS[name])) for name in types}
        with tempfile.TemporaryDirectory(prefix="dreamcuts-bench-") as folder:
            worker = noop_worker(dsn, slots, folder=folder, on_start=hit)
            calm_the_collector()  # as `dreamcuts work` does
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(tell, worker, ready)
                await worker.run()


async def tell(worker: Worker, ready: Callable[[], None]) -> None:
    """Say that the worker is up, once it is."""
    await worker.wait_registered()
    ready()


if __name__ == "__main__":
    main(DreamCuts())
