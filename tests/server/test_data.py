"""Reading for the dashboard and /metrics: what becomes of reads that nobody waits for any more."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import anyio
import pytest

from dreamcuts.errors import DatabaseError
from dreamcuts.server import data
from dreamcuts.server.data import Reader
from tests.support import DEADLINE_S

NAMES = ("metrics_depth", "metrics_lag", "metrics_workers", "metrics_stalled")
NOWHERE = "postgresql://nobody@127.0.0.1:1/none"


def run_and_listen(main: Any) -> list[str]:
    """Run the coroutine function as a server's thread does; what asyncio complained of, also at its end."""
    complaints: list[str] = []

    async def listening() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: complaints.append(f"{context['message']}: {context.get('exception')}")
        )
        await main()

    asyncio.run(listening())
    gc.collect()  # a failure that nobody asked for is complained of when its task is thrown away
    return complaints


async def start(reader: Reader) -> list[asyncio.Task[Any]]:
    """Reads that wait for a database that is away."""
    waiting = [asyncio.ensure_future(reader.shared(name)) for name in NAMES]
    pool = reader._pool
    assert pool is not None
    with anyio.fail_after(DEADLINE_S):
        while pool.get_stats().get("requests_waiting", 0) < len(NAMES):  # noqa: ASYNC110 (it sets no event)
            await asyncio.sleep(0)
    return waiting


def test_reads_that_a_closed_page_left_behind_end_with_the_reader() -> None:
    async def main() -> None:
        reader = Reader(NOWHERE)
        async with reader.opened():
            waiting = await start(reader)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not [task for task in left if "Reader" in repr(task)]

    assert run_and_listen(main) == []


def test_who_waits_while_the_reader_closes_hears_that_the_server_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(data, "CONNECT_S", DEADLINE_S)  # or it might hear first that the database is away
    monkeypatch.setattr(data, "STATEMENT_S", DEADLINE_S)

    async def main() -> None:
        reader = Reader(NOWHERE)
        async with reader.opened():
            waiting = await start(reader)
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert [str(error) for error in found] == ["The server is stopping."] * len(NAMES)
        with pytest.raises(DatabaseError, match="is stopping"):
            await reader.shared(NAMES[0])

    assert run_and_listen(main) == []


def test_a_failure_that_nobody_waited_for_is_not_complained_of() -> None:
    async def main() -> None:
        reader = Reader(NOWHERE)
        async with reader.opened():
            (first, *rest) = await start(reader)
            for task in rest:
                task.cancel()
            with pytest.raises(DatabaseError, match="does not answer"):
                await first
            await asyncio.wait([entry[1] for entry in reader._kept.values()])
            reader._kept.clear()
            gc.collect()

    assert run_and_listen(main) == []
