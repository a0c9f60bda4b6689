"""The limit: asyncpg and a table of four columns, no guarantees. Nothing in Python can be faster.

Claims of 500, a task for each job, the completion of a batch overlapped with the next claim on a second
connection. Pickup: INSERT and NOTIFY, a listener that claims.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks.program import Hit, Options, main
from dreamcuts.db.sql import parse_queries

FILE = Path(__file__).parents[1] / "sql" / "bare.sql"
SQL = {found.name: found.text for found in parse_queries(FILE.read_text("utf-8"), FILE.name)}
CHANNEL = "bare_jobs"


class Bare:
    """Four columns and two statements."""

    async def setup(self, dsn: str) -> None:
        connection = await asyncpg.connect(dsn)
        await connection.execute(SQL["make"])
        await connection.close()

    async def open(self, dsn: str) -> None:
        self._connection: Any = await asyncpg.connect(dsn)

    async def close(self) -> None:
        await self._connection.close()

    async def bulk(self, count: int) -> None:
        await self._connection.execute(SQL["insert_many"], ["{}"] * count)

    async def single(self, sent: float | None) -> None:
        if sent is None:
            await self._connection.execute(SQL["insert_one"], "{}")
        else:
            await self._connection.execute(SQL["send"], f'{{"sent": {sent!r}}}')

    async def work(self, dsn: str, options: Options, hit: Hit, ready: Callable[[], None]) -> None:
        claims, completions, listener = [await asyncpg.connect(dsn) for _ in range(3)]
        wake = asyncio.Event()
        await listener.add_listener(CHANNEL, lambda *_: wake.set())
        claim = await claims.prepare(SQL["claim"])
        complete = await completions.prepare(SQL["complete"])
        ready()

        async def run(row: Any) -> int:
            hit(row["sent"])
            return int(row["id"])

        completing: asyncio.Task[Any] | None = None
        while True:
            wake.clear()
            rows = await claim.fetch(options["batch"])
            done = await asyncio.gather(*[asyncio.create_task(run(row)) for row in rows])
            if completing is not None:
                await completing
                completing = None
            if rows:
                completing = asyncio.create_task(complete.fetch(done))
            else:
                await wake.wait()


if __name__ == "__main__":
    main(Bare())
