"""PgQueuer, over asyncpg."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import asyncpg
import pgqueuer

from benchmarks.program import Hit, Options, main


class PgQueuer:
    """Bulk and single: Queries.enqueue."""

    async def setup(self, dsn: str) -> None:
        await self.open(dsn)
        await self._queries.install()
        await self.close()

    async def open(self, dsn: str) -> None:
        self._connection: Any = await asyncpg.connect(dsn)
        self._queries = pgqueuer.Queries(pgqueuer.AsyncpgDriver(self._connection))

    async def close(self) -> None:
        await self._connection.close()

    async def bulk(self, count: int) -> None:
        await self._queries.enqueue(["noop"] * count, [None] * count, [0] * count)

    async def single(self, sent: float | None) -> None:
        await self._queries.enqueue("noop", None if sent is None else repr(sent).encode())

    async def work(self, dsn: str, options: Options, hit: Hit, ready: Callable[[], None]) -> None:
        queue = pgqueuer.PgQueuer.from_asyncpg_connection(await asyncpg.connect(dsn))

        @queue.entrypoint("noop")
        async def noop(job: Any) -> None:
            hit(float(job.payload) if job.payload else None)

        ready()
        await queue.run(batch_size=options["batch_size"])


if __name__ == "__main__":
    main(PgQueuer())
