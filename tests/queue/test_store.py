"""A connection that a store keeps: its end goes unnoticed, and it does not stay for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from dreamcuts.db.pool import open_pool
from dreamcuts.queue import store as store_module
from dreamcuts.queue.store import Look, Store
from tests.support import Queue, wait_until

pytestmark = pytest.mark.anyio

SESSIONS = (
    "select pid from pg_stat_activity where application_name = 'dreamcuts' and datname = current_database()"
)
IDLE = f"{SESSIONS} and state = 'idle'"


@pytest.fixture
async def pool(database: str, anyio_backend: str) -> AsyncIterator[asyncpg.Pool[asyncpg.Record]]:
    made = await open_pool(database, size=2)
    yield made
    made.terminate()


@pytest.fixture
def keeper(pool: asyncpg.Pool[asyncpg.Record]) -> Store:
    return Store(pool, keeps_connection=True)


async def test_a_session_that_the_server_ended_while_it_was_idle_is_replaced_unnoticed(
    keeper: Store, queue: Queue
) -> None:
    nothing = await keeper.look(["work"])
    (session,) = queue.rows(IDLE)
    queue.run("select pg_terminate_backend(%s)", session["pid"])
    kept = keeper._kept
    with pytest.raises(asyncpg.InterfaceError):  # the pool hears of it, and takes the connection back
        while True:
            kept.is_closed()
            await asyncio.sleep(0.01)
    assert await keeper.look(["work"]) == nothing == Look([], None, False)
    (other,) = queue.rows(IDLE)
    assert other["pid"] != session["pid"]


@pytest.mark.parametrize(("limit", "stays"), [("KEEP_S", True), ("SILENCE_S", False)])
async def test_it_goes_through_the_pool_now_and_then_and_ends_when_it_was_silent_for_long(
    keeper: Store, queue: Queue, monkeypatch: pytest.MonkeyPatch, limit: str, stays: bool
) -> None:
    await keeper.look(["work"])
    kept = keeper._kept
    await keeper.look(["work"])
    assert keeper._kept is kept
    (session,) = queue.rows(IDLE)
    monkeypatch.setattr(store_module, limit, -1.0)
    await keeper.look(["work"])
    assert keeper._kept is not kept
    wait_until(lambda: len(queue.rows(SESSIONS)) == 1, "the old session's end")
    assert (queue.value(SESSIONS) == session["pid"]) is stays


async def test_two_callers_at_once_leave_no_connection_behind(
    keeper: Store, pool: asyncpg.Pool[asyncpg.Record]
) -> None:
    await asyncio.gather(*(keeper.look(["work"]) for _ in range(6)))
    assert pool.get_size() - pool.get_idle_size() == 1  # the one that is kept
    await keeper.let_go()
    assert pool.get_size() == pool.get_idle_size()
