"""The network to Postgres goes silent without a word: no reset, no end, no answer."""

from __future__ import annotations

import anyio
import pytest

from dreamcuts.jobs.base import JobContext, Result
from dreamcuts.providers.base import Ticket
from dreamcuts.worker import calls, claim_loop, ending, lease, tickets
from dreamcuts.worker import worker as worker_module
from tests.support import Queue, until
from tests.worker.conftest import Start
from tests.worker.play import Play, PlayPayload
from tests.worker.proxy import SilentProxy
from tests.worker.test_running import do

pytestmark = pytest.mark.anyio

LEASE_S = 12.0
SOON_S = 20.0
"""Far below the 60 s after which a statement gives up by itself, and above all that is waited for here."""


class Paying(Play):
    """Comes to its call, or to its request's id, when the database is silent already."""

    async def _begin_late(self, ctx: JobContext, payload: PlayPayload) -> Result:
        await self.go.wait()
        self.runs.append("late")
        await ctx.calls.begin("no_such_provider", "x", request={})
        return Result()

    async def _submit_late(self, ctx: JobContext, payload: PlayPayload) -> Result:
        call = await ctx.calls.begin("no_such_provider", "x", request={})
        self.runs.append("begun")
        await self.go.wait()
        self.runs.append("late")
        await ctx.calls.submitted(call, Ticket("req-1", {}))
        return Result()


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim_loop, "CLAIM_GRACE_S", 0.3)
    monkeypatch.setattr(ending, "WRITE_S", 0.3)
    monkeypatch.setattr(ending, "STOP_GRACE_S", 1.0)
    monkeypatch.setattr(lease, "LEAVE_S", 0.3)
    monkeypatch.setattr(worker_module, "CLOSE_S", 0.3)
    monkeypatch.setattr(calls, "CLOSE_GRACE_S", 0.3)
    monkeypatch.setattr(tickets.Tickets.aclose, "__defaults__", (0.3,))


async def test_a_heartbeat_finds_a_new_connection_within_the_lease(
    start: Start, queue: Queue, play: Play, database: str
) -> None:
    """A failover without a reset: connections that exist are silent for ever, new ones work at once."""
    job = queue.add(None, payload=do("wait"))
    async with SilentProxy.before(database) as proxy, start(dsn=proxy.dsn, lease=LEASE_S) as worker:
        await until(lambda: play.active == 1)
        first, before = worker._lease.worker, worker._lease.last_beat
        await until(lambda: worker._lease.last_beat > before)
        proxy.silence()
        gone = anyio.current_time()
        await until(lambda: worker._lease.last_beat > gone)
        assert worker._lease.last_beat < gone + LEASE_S
        assert (worker._lease.worker, play.ended, worker._lease.is_suspended) == (first, [], False)
        await until(lambda: queue.value("select heartbeat_at > now() - interval '1 s' from dreamcut_workers"))
        worker.drain()
        worker.drain()
        with anyio.fail_after(SOON_S):
            await until(lambda: queue.value("select lease_expires_at <= now() from dreamcut_workers"))
    assert queue.job(job)["claims"] == 1


@pytest.mark.parametrize("what", ["wait", "begin_late", "submit_late"])
async def test_a_drain_ends_although_nothing_answers(
    start: Start, queue: Queue, database: str, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    play = Paying()
    job = queue.add(None, payload=do(what))
    async with SilentProxy.before(database) as proxy:
        async with start(dsn=proxy.dsn, types=(play,), shutdown_timeout=1.0) as worker:
            await until(lambda: play.active == 1 and (what != "submit_late" or "begun" in play.runs))
            proxy.silence(everything=True)
            if what != "wait":
                play.go.set()
                await until(lambda: "late" in play.runs)
            worker.drain()
            began = anyio.current_time()
        took = anyio.current_time() - began
    assert took < SOON_S
    assert "Jobs do not stop" not in caplog.text
    if what == "submit_late":
        assert "req-1" in caplog.text  # nothing else would tell of what is paid
    # Nothing is said about the job that is not so: it is processing until the lease is over.
    assert queue.job(job)["status"] == "processing"
    queue.expire(queue.job(job)["worker_id"])
    assert [row["id"] for row in queue.rescue()] == [job]
