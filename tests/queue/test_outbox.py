"""Outcomes reach Postgres once, in batches, whatever they hold and whatever happens to the database."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from uuid import UUID, uuid4

import anyio
import psycopg
import pytest

from dreamcuts.errors import ErrorClass
from dreamcuts.queue.models import Completed, Failed, HandedBack, Job, Outcome, Settled
from dreamcuts.queue.outage import Outage
from dreamcuts.queue.outbox import Outbox
from dreamcuts.queue.store import Lookout, Store
from tests.support import Queue, until

pytestmark = pytest.mark.anyio


class Watched(Store):
    """The real store, which also notes what each statement held, and may be made to wait."""

    def __init__(self, store: Store) -> None:
        super().__init__(store._pool)
        self.batches: list[list[str]] = []
        self.go_on = anyio.Event()
        self.go_on.set()

    async def write(self, worker: UUID, outcomes: Sequence[Outcome]) -> list[Settled]:
        self.batches.append([outcome.job.job_id for outcome in outcomes])
        await self.go_on.wait()
        return await super().write(worker, outcomes)


class Bench:
    """A worker's incarnation with claimed jobs, and its outbox."""

    def __init__(self, store: Store) -> None:
        self.store = Watched(store)
        self.worker = uuid4()
        self.settled: dict[str, str | None] = {}
        self.outbox = Outbox(self.store, Outage(), self._settled)

    def _settled(self, settled: Settled) -> None:
        self.settled[settled.outcome.job.job_id] = settled.status

    async def claim(self, queue: Queue, *names: str, **columns: object) -> list[Job]:
        for name in names:
            queue.add(None, name, **columns)
        await self.store.register(self.worker, {"work": 1000}, timedelta(minutes=1))
        return await self.store.claim(self.worker, [Lookout("work", 1000)])

    def put(self, *outcomes: Outcome) -> None:
        for outcome in outcomes:
            self.outbox.put(self.worker, outcome)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.outbox.run)
            with anyio.fail_after(30):
                yield
                await self.outbox.wait_empty()
            tasks.cancel_scope.cancel()


@pytest.fixture
def bench(store: Store) -> Bench:
    return Bench(store)


def status(queue: Queue, job: Job) -> str:
    return str(queue.job(job.id)["status"])


async def test_while_one_batch_is_written_the_next_gathers(bench: Bench, queue: Queue) -> None:
    jobs = await bench.claim(queue, *(f"j{number:02d}" for number in range(50)))
    bench.store.go_on = anyio.Event()
    async with bench.running():
        bench.put(Completed(jobs[0], {}))
        while not bench.store.batches:
            await anyio.lowlevel.checkpoint()
        assert bench.store.batches == [["j00"]]  # an idle outbox does not wait for more
        bench.put(*(Completed(job, {"n": 1}) for job in jobs[1:]))
        assert len(bench.outbox.held()) == 50
        bench.store.go_on.set()
    assert [len(batch) for batch in bench.store.batches] == [1, 49]
    assert set(bench.settled.values()) == {"completed"} and len(bench.settled) == 50
    assert bench.outbox.held() == []


async def test_kinds_and_incarnations_go_apart(bench: Bench, queue: Queue) -> None:
    jobs = await bench.claim(queue, *"abcd")
    stranger = uuid4()
    bench.put(Completed(jobs[0], {}), Failed(jobs[1], ErrorClass.TRANSIENT, "x"))
    bench.put(HandedBack(jobs[2], "draining"))
    bench.outbox.put(stranger, Completed(jobs[3], {}))
    async with bench.running():
        pass
    assert bench.settled == {"a": "completed", "b": "pending", "c": "pending", "d": None}
    assert status(queue, jobs[3]) == "processing"  # fenced: the stranger does not hold it


async def test_outcomes_of_a_lost_incarnation_are_dropped(bench: Bench, queue: Queue) -> None:
    jobs = await bench.claim(queue, "a", "b")
    bench.put(Completed(jobs[0], {}))
    bench.outbox.put(uuid4(), Completed(jobs[1], {}))
    assert bench.outbox.drop(bench.worker) == 1
    assert [job.job_id for job in bench.outbox.held()] == ["b"]


async def test_what_was_being_written_at_the_end_is_still_held(bench: Bench, queue: Queue) -> None:
    """So that a worker which is cut short does not say that it leaves nothing behind."""
    (job,) = await bench.claim(queue, "a")
    bench.store.go_on = anyio.Event()
    bench.put(Completed(job, {}))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bench.outbox.run)
        await until(lambda: bench.store.batches)
        tasks.cancel_scope.cancel()
    assert bench.outbox.held() == [job]


async def test_the_database_goes_away_and_outcomes_are_kept(
    bench: Bench, queue: Queue, database: str, postgres_server: object
) -> None:
    jobs = await bench.claim(queue, "a", "b")
    name = database.rsplit("/", 1)[1]
    with psycopg.connect(database.rsplit("/", 1)[0] + "/postgres", autocommit=True) as outside:
        outside.execute(f'alter database "{name}" allow_connections false')
        outside.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name])
        bench.put(*(Completed(job, {"kept": True}) for job in jobs))
        async with bench.running():
            await until(lambda: bench.outbox._outage._since is not None)
            assert [job.job_id for job in bench.outbox.held()] == ["a", "b"]
            outside.execute(f'alter database "{name}" allow_connections true')
    assert bench.settled == {"a": "completed", "b": "completed"}
    with psycopg.connect(database) as again:
        assert Queue(again).job(jobs[0].id)["result"] == {"kept": True}


@pytest.mark.parametrize(
    ("result", "stored"),
    [
        ({"text": "a\x00b"}, {"text": "a�b"}),
        ({"half": "\ud83d!"}, {"half": "?!"}),
        ({"deep": [{"k\x00": ("x\x00",)}]}, {"deep": [{"k�": ["x�"]}]}),
        ({"not an escape": "\\u0000"}, {"not an escape": "\\u0000"}),
        ({"emoji": "🎬", "number": 2**70}, {"emoji": "🎬", "number": 2**70}),
    ],
)
async def test_what_postgres_cannot_hold_is_replaced(
    bench: Bench, queue: Queue, result: dict[str, object], stored: dict[str, object]
) -> None:
    (job,) = await bench.claim(queue, "a")
    bench.put(Completed(job, result, "https://x/\x00\ud83d"))
    async with bench.running():
        pass
    row = queue.job(job.id)
    assert row["status"] == "completed" and row["result"] == stored
    assert row["output_url"] == "https://x/�?"


def _endless() -> dict[str, object]:
    loop: dict[str, object] = {}
    loop["again"] = loop
    return loop


def _deep(levels: int) -> dict[str, object]:
    found: dict[str, object] = {}
    for _ in range(levels):
        found = {"d": found}
    return found


@pytest.mark.parametrize(
    "result",
    [{"x": object()}, {"x": float("nan")}, {"x": {1, 2}}, {("a",): 1}, _endless(), _deep(100_000)],
    ids=["object", "nan", "set", "key", "loop", "deep"],
)
async def test_a_result_that_is_not_json_fails_that_job_as_a_bug(
    bench: Bench, queue: Queue, result: dict[str, object]
) -> None:
    bad, good = await bench.claim(queue, "bad", "good", max_attempts=1)
    bench.put(Completed(bad, result), Completed(good, {}))
    async with bench.running():
        pass
    row = queue.job(bad.id)
    assert (row["status"], row["error_class"]) == ("failed", "bug")
    assert row["error_message"].startswith("The result is not JSON: ")
    assert status(queue, good) == "completed"


async def test_one_outcome_that_postgres_refuses_does_not_hurt_its_batch(bench: Bench, queue: Queue) -> None:
    jobs = await bench.claim(queue, "a", "poisoned", "c", max_attempts=1)
    number = 10**4000  # fits JSON and Python, and 40 of its kind in a row do not fit Postgres' numeric
    poison = {"n": int("9" * 4000), "big": number}
    queue.run(
        "alter table dreamcut_jobs add constraint test_poison check (result is null or not result ? 'big')"
    )
    bench.put(*(Completed(job, poison if job.job_id == "poisoned" else {}) for job in jobs))
    async with bench.running():
        pass
    assert bench.settled == {"a": "completed", "poisoned": "failed", "c": "completed"}
    row = queue.job(jobs[1].id)
    assert row["error_class"] == "bug" and "The result cannot be stored" in row["error_message"]
    assert bench.outbox.has_lost_outcomes is False


async def test_an_error_s_detail_is_given_up_before_the_error(bench: Bench, queue: Queue) -> None:
    (job,) = await bench.claim(queue, "a", max_attempts=1)
    queue.run("alter table dreamcut_job_attempts add constraint test_poison check (not detail ? 'poison')")
    bench.put(Failed(job, ErrorClass.TRANSIENT, "it broke", {"poison": 1}))
    async with bench.running():
        pass
    assert status(queue, job) == "failed"
    assert queue.history(job.id)[0]["detail"] == {}


async def test_an_outcome_that_cannot_be_written_at_all_is_said_to_be_lost(
    bench: Bench, queue: Queue
) -> None:
    (job,) = await bench.claim(queue, "a")
    queue.run("alter table dreamcut_job_attempts add constraint test_poison check (false) not valid")
    bench.put(Failed(job, ErrorClass.TRANSIENT, "it broke"))
    async with bench.running():
        pass
    assert bench.outbox.has_lost_outcomes is True and bench.settled == {"a": None}


async def test_ten_megabytes_of_result(bench: Bench, queue: Queue) -> None:
    (job,) = await bench.claim(queue, "a")
    bench.put(Completed(job, {"captions": "word " * 2_000_000}))
    async with bench.running():
        pass
    assert queue.value("select length(result ->> 'captions') from dreamcut_jobs") == 10_000_000


async def test_an_endless_message_is_cut(bench: Bench, queue: Queue) -> None:
    (job,) = await bench.claim(queue, "a", max_attempts=1)
    bench.put(Failed(job, ErrorClass.BUG, "x" * 100_000 + "\x00", {"bad": object()}))
    async with bench.running():
        pass
    row = queue.job(job.id)
    assert len(row["error_message"]) == 4000 and row["error_message"].endswith("…")
    assert queue.history(job.id)[0]["detail"] == {"note": "the detail of this error was not JSON"}


@pytest.mark.parametrize("retry_after", [0.0, -1.0, 1e308, float("inf"), float("nan")])
async def test_any_retry_after_can_be_written(bench: Bench, queue: Queue, retry_after: float) -> None:
    (job,) = await bench.claim(queue, "a")
    bench.put(Failed(job, ErrorClass.RATE_LIMITED, "slow down", retry_after=retry_after))
    async with bench.running():
        pass
    assert bench.settled == {"a": "pending"}
