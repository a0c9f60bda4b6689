"""Chancy, with its asynchronous executor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from chancy import Chancy, Queue, Worker, job

from benchmarks.program import Hit, Options, main

_hits: list[Hit] = []


@job(queue="default")
async def noop(*, sent: float | None = None) -> None:
    """Found by its name: the worker imports this module, a second time when it also runs as a program."""
    for hit in _hits:
        hit(sent)


class ChancyQueue:
    """Bulk: push_many. Single: push."""

    async def setup(self, dsn: str) -> None:
        async with Chancy(dsn) as chancy:
            await chancy.migrate()

    async def open(self, dsn: str) -> None:
        self._chancy = Chancy(dsn)
        await self._chancy.__aenter__()

    async def close(self) -> None:
        await self._chancy.__aexit__(None, None, None)

    async def bulk(self, count: int) -> None:
        async for _ in self._chancy.push_many([_noop()] * count, batch_size=count):
            pass

    async def single(self, sent: float | None) -> None:
        await self._chancy.push(_noop() if sent is None else _noop().with_kwargs(sent=sent))

    async def work(self, dsn: str, options: Options, hit: Hit, ready: Callable[[], None]) -> None:
        from benchmarks.programs import chancy_queue

        chancy_queue._hits.append(hit)
        async with Chancy(dsn) as chancy:
            queue = Queue(
                name="default",
                concurrency=options["concurrency"],
                executor=Chancy.Executor.Async,
                polling_interval=1,
                eager_polling=True,
            )
            await chancy.declare(queue, upsert=True)
            async with Worker(chancy, register_signal_handlers=False):
                ready()
                await asyncio.Event().wait()


def _noop() -> Any:
    """The job under the name by which a worker can import it, also when this module runs as a program."""
    from benchmarks.programs import chancy_queue

    return chancy_queue.noop.job


if __name__ == "__main__":
    main(ChancyQueue())
