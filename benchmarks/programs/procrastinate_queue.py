"""Procrastinate, over psycopg."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import procrastinate

from benchmarks.program import Hit, Options, main


def _app(dsn: str, size: int, hit: Hit | None = None) -> tuple[Any, Any]:
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=dsn, min_size=2, max_size=size))

    @app.task(name="noop")
    async def noop(sent: float | None = None) -> None:
        if hit is not None:
            hit(sent)

    return app, noop


class Procrastinate:
    """Bulk: batch_defer_async. Single: defer_async."""

    async def setup(self, dsn: str) -> None:
        app, _ = _app(dsn, 4)
        async with app.open_async():
            await app.schema_manager.apply_schema_async()

    async def open(self, dsn: str) -> None:
        self._app, self._noop = _app(dsn, 4)
        await self._app.open_async()

    async def close(self) -> None:
        await self._app.close_async()

    async def bulk(self, count: int) -> None:
        await self._noop.batch_defer_async(*[{} for _ in range(count)])

    async def single(self, sent: float | None) -> None:
        await self._noop.defer_async(**({} if sent is None else {"sent": sent}))

    async def work(self, dsn: str, options: Options, hit: Hit, ready: Callable[[], None]) -> None:
        app, _ = _app(dsn, options["concurrency"] + 5, hit)
        async with app.open_async():
            ready()
            await app.run_worker_async(
                concurrency=options["concurrency"], wait=True, install_signal_handlers=False
            )


if __name__ == "__main__":
    main(Procrastinate())
