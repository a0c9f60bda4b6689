"""The points between claim and finish at which a worker is killed, for each provider with a queue of its own.

A worker is held at a point by the outside world, never by a hook in its code: the sandbox delays or does not
answer, or we hold a lock in Postgres that the worker's next statement waits for. Then it is killed, and
another worker carries the job to its end; the sandbox's bills for that job are counted. test_kill_points.py
goes through all points once, `make chaos` through each KILLS times.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from dreamcuts.db.migrate import migrate
from dreamcuts.sandbox import Sandbox
from dreamcuts.sandbox.images import save
from tests.chaos.jobtypes import IMAGE, RENDER
from tests.chaos.ledger import NamedBilling
from tests.chaos.machine import DURABLE, CrashingPostgres, WorkerProcess, copy_sources
from tests.chaos.plan import (
    FILM,
    MADE,
    RENDER_STATUS,
    RENDER_SUBMIT,
    RESULT,
    RETRIES,
    STATUS,
    SUBMIT,
    manifest_json,
    marked,
)
from tests.support import Queue, wait_until

UPLOAD = r"^POST /storage/v1/object/"
PROVIDERS = ("fal", "shotstack")
SLOTS = {"fal": f"{IMAGE}:2", "shotstack": f"{RENDER}:2"}
SUBMITS = {"fal": SUBMIT, "shotstack": RENDER_SUBMIT}
POLLS = {"fal": STATUS, "shotstack": RENDER_STATUS}
POLL_S = {"fal": "0.05", "shotstack": "0.3"}
"""Shotstack takes 150 requests a minute, polls among them."""
LEASE_S = "60"
"""No worker but the killed one loses its lease, however the machine stalls."""
LOCK_CALLS = "lock table dreamcut_provider_calls in share row exclusive mode"


@dataclass
class Stage:
    """A database, a sandbox and a provider; `start` starts a worker process that serves its jobs."""

    dsn: str
    queue: Queue
    sandbox: Sandbox
    provider: str
    start: Callable[[str], WorkerProcess]
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.billing = self.sandbox.state.billing = NamedBilling()
        self.picture = self.sandbox.state.files / "lantern.png"
        save("a lantern by the river", 1, 64, 64, self.picture)

    def worker(self) -> WorkerProcess:
        """A worker that is ready to claim."""
        worker = self.start(SLOTS[self.provider])
        worker.wait_for("serves")
        return worker

    def expire(self, worker: WorkerProcess) -> None:
        """Let the lease of a process that is gone be over: how long that takes is not what this is about."""
        self.queue.run(
            "update dreamcut_workers set lease_expires_at = now() - interval '1 second' where pid = %s",
            worker.pid,
        )

    def add(self) -> UUID:
        """A job for the provider."""
        name = f"g0_j{next(self._numbers)}"
        if self.provider == "shotstack":
            picture = f"{self.sandbox.url}/files/{self.picture.name}?{marked(name)}"
            manifest = self.queue.manifest(manifest_json=Jsonb(manifest_json(picture)))
            kind, payload = RENDER, FILM
        else:
            manifest = self.queue.manifest()
            kind, payload = IMAGE, {
                "prompt": f"a lighthouse, {marked(name)}",
                "imageSize": {"width": 64, "height": 64},
                "fallbackProviders": [],
            }  # fmt: skip
        return self.queue.add(manifest, name, type=kind, payload=Jsonb(payload), retry_policy=Jsonb(RETRIES))

    def name(self, job: UUID) -> str:
        return str(self.queue.job(job)["job_id"])

    def bills(self, job: UUID) -> int:
        """How often the provider billed the job, once it has nothing more to do."""
        wait_until(lambda: not self.sandbox.state._tasks, "the requests that still run in the sandbox")
        return Counter(bill.job_id for bill in self.billing.paid())[self.name(job)]

    def calls(self, job: UUID) -> list[str]:
        """What the ledger says of each of its calls, oldest first."""
        rows = self.queue.rows(
            "select status from dreamcut_provider_calls where job = %s order by created_at", job
        )
        return [row["status"] for row in rows]

    def requests(self, provider: str, pattern: str) -> int:
        found = self.sandbox.requests.entries(provider)
        return sum(1 for entry in found if re.search(pattern, f"{entry.method} {entry.path}"))

    def submits(self) -> int:
        return self.requests(self.provider, SUBMITS[self.provider])

    def wait_for_a_request(self, provider: str, pattern: str) -> None:
        wait_until(lambda: self.requests(provider, pattern), f"a request {pattern} to {provider}")

    def wait_for_a_lock(self, statement: str) -> list[int]:
        """Backends of workers that wait for a lock in a statement of that name."""
        return wait_until(lambda: self._waiting(statement), f"{statement} to wait for the lock")

    def _waiting(self, statement: str) -> list[int]:
        rows = self.queue.rows(
            "select pid from pg_stat_activity where application_name = 'dreamcuts'"
            " and wait_event_type = 'Lock' and query like %s",
            f"%{statement}%",
        )
        return [row["pid"] for row in rows]

    def cut_off(self, backends: list[int]) -> None:
        """End the statements of a killed worker, which Postgres would else carry out once they can go on."""
        for pid in backends:
            self.queue.rows("select pg_terminate_backend(%s, 5000)", pid)

    def finish(self, worker: WorkerProcess, job: UUID) -> dict[str, Any]:
        """Wait until this worker has carried the job to its end; returns its row."""
        wait_until(lambda: self.queue.job(job)["completed_at"] or worker.is_over(), "the end of the job")
        row = self.queue.job(job)
        assert row["completed_at"], worker.text()
        assert row["status"] == "completed", (row["error_class"], row["error_message"])
        assert self.queue.inconsistencies() == []
        return row


@contextmanager
def locked(dsn: str, statement: str, *values: Any) -> Iterator[psycopg.Connection[Any]]:
    """Hold a lock for the time of the block."""
    with psycopg.connect(dsn) as holder:
        holder.execute(statement.encode(), values)
        yield holder
        holder.rollback()


def before_the_submit(stage: Stage, worker: WorkerProcess) -> UUID:
    with locked(stage.dsn, LOCK_CALLS):
        job = stage.add()
        backends = stage.wait_for_a_lock("begin_call")
        worker.kill()
        stage.cut_off(backends)
    return job


def submit_has_not_arrived(stage: Stage, worker: WorkerProcess) -> UUID:
    return _during(stage, worker, stage.provider, SUBMITS[stage.provider])


@contextmanager
def answered_but_not_stored(stage: Stage) -> Iterator[tuple[UUID, list[int]]]:
    """A worker has the provider's answer to its submit, and waits to store the id in it."""
    stage.sandbox.fail("delay", provider=stage.provider, pattern=SUBMITS[stage.provider], seconds=1.0)
    job = stage.add()
    stage.wait_for_a_request(stage.provider, SUBMITS[stage.provider])
    with locked(stage.dsn, LOCK_CALLS):
        yield job, stage.wait_for_a_lock("submitted_call")


def before_the_id_is_stored(stage: Stage, worker: WorkerProcess) -> UUID:
    with answered_but_not_stored(stage) as (job, backends):
        worker.kill()
        stage.cut_off(backends)  # as if the statement had never reached Postgres
    return job


def id_on_its_way(stage: Stage, worker: WorkerProcess) -> UUID:
    with answered_but_not_stored(stage) as (job, _):
        worker.kill()
    return job


def id_stored(stage: Stage, worker: WorkerProcess) -> UUID:
    job = stage.add()
    wait_until(lambda: stage.calls(job) == ["submitted"], "the id to be stored")
    worker.kill()
    return job


def while_polling(stage: Stage, worker: WorkerProcess) -> UUID:
    return _during(stage, worker, stage.provider, POLLS[stage.provider])


def while_fetching_the_result(stage: Stage, worker: WorkerProcess) -> UUID:
    return _during(stage, worker, "fal", RESULT)


def during_the_download(stage: Stage, worker: WorkerProcess) -> UUID:
    return _during(stage, worker, "files", MADE)


def during_the_upload(stage: Stage, worker: WorkerProcess) -> UUID:
    return _during(stage, worker, "supabase", UPLOAD)


def before_the_finish(stage: Stage, worker: WorkerProcess) -> UUID:
    """The call is closed and paid, the file is stored; only the job's own outcome is not written yet."""
    polled = POLLS[stage.provider]
    stage.sandbox.fail("delay", provider=stage.provider, pattern=polled, seconds=1.0)
    job = stage.add()
    stage.wait_for_a_request(stage.provider, polled)
    lock = "select 1 from dreamcut_production_manifest where id = %s for no key update"
    with locked(stage.dsn, lock, stage.queue.job(job)["manifest_id"]):
        backends = stage.wait_for_a_lock("complete_jobs")
        assert stage.calls(job) == ["succeeded"]
        worker.kill()
        stage.cut_off(backends)
    return job


def _during(stage: Stage, worker: WorkerProcess, provider: str, pattern: str) -> UUID:
    """Kill while a request is under way that gets no answer."""
    stage.sandbox.fail("hang", provider=provider, pattern=pattern)
    job = stage.add()
    stage.wait_for_a_request(provider, pattern)
    worker.kill()
    return job


@dataclass(frozen=True)
class Point:
    """`reach` adds a job, waits until the worker is at the point with it, and kills it."""

    name: str
    reach: Callable[[Stage, WorkerProcess], UUID]
    bills: int = 1
    ledger: tuple[str, ...] = ("succeeded",)
    providers: tuple[str, ...] = PROVIDERS


POINTS = (
    Point("before the submit", before_the_submit),
    Point("after the intent, before the submit arrived", submit_has_not_arrived, 1, ("unknown", "succeeded")),
    # The one window that remains: neither provider takes a key of ours. Paid twice, and the ledger says so.
    Point("after the submit, before the id is stored", before_the_id_is_stored, 2, ("unknown", "succeeded")),
    # From here on nothing is lost: the statement is carried out without its worker.
    Point("while the id is on its way to Postgres", id_on_its_way),
    Point("after the id is stored", id_stored),
    Point("while polling", while_polling),
    # Shotstack's answer to a poll is the result.
    Point("while fetching the result", while_fetching_the_result, providers=("fal",)),
    Point("after the result, during the download", during_the_download),
    Point("during the upload", during_the_upload),
    Point("before the finish", before_the_finish),
)
ALL = tuple((point, provider) for point in POINTS for provider in point.providers)


def kill_once(stage: Stage, point: Point, worker: WorkerProcess) -> tuple[WorkerProcess, int]:
    """Kill this worker at the point; returns the one that finished the job, and the bills for it."""
    stage.sandbox.requests.clear()
    job = point.reach(stage, worker)
    stage.expire(worker)
    successor = stage.worker()
    row = stage.finish(successor, job)
    assert row["claims"] == 2
    assert tuple(stage.calls(job)) == point.ledger, point.name
    return successor, stage.bills(job)


def kill_many_times(kills: int, say: Callable[[str], None]) -> bool:
    """Go through every point `kills` times, and say what each costs; true if that is what it should."""
    say(f"kill points, {kills} kills at each:")
    fine = True
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dreamcuts-kills-")))
        sources = copy_sources(folder / "sources")
        server = stack.enter_context(CrashingPostgres(prefer="system", settings=DURABLE))
        for number, (point, provider) in enumerate(ALL):
            bills = _many_kills(server, folder / str(number), sources, point, provider, kills)
            right = bills == [point.bills] * kills
            fine = fine and right
            say(
                f"  {'ok ' if right else 'BAD'} {provider}, {point.name}: {sum(bills)} bills for"
                f" {kills} jobs, {point.bills} expected for each"
            )
    return fine


def _many_kills(
    server: CrashingPostgres, folder: Path, sources: Path, point: Point, provider: str, kills: int
) -> list[int]:
    """The bills for each of the jobs. Who finishes a job is the next to be killed."""
    name = folder.name
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(f'create database "kills_{name}"')
    dsn = server.dsn(f"kills_{name}")
    migrate(dsn)
    folder.mkdir()
    started: list[WorkerProcess] = []
    with (
        Sandbox.running(folder=folder / "sandbox") as sandbox,
        psycopg.connect(dsn, autocommit=True) as connection,
    ):
        environment = {
            **sandbox.environment(),
            "DATABASE_URL": dsn,
            "LEASE_S": LEASE_S,
            "HEARTBEAT_S": "0.3",
            "POLL_INTERVAL_S": "0.1",
            "PROVIDER_POLL_S": POLL_S[provider],
        }

        def start(slots: str) -> WorkerProcess:
            log = folder / f"worker-{len(started)}.log"
            started.append(WorkerProcess(slots, environment, log, sources=sources))
            return started[-1]

        stage = Stage(dsn, Queue(connection), sandbox, provider, start)
        bills = []
        try:
            worker = stage.worker()
            for _ in range(kills):
                worker, billed = kill_once(stage, point, worker)
                bills.append(billed)
        finally:
            for process in started:
                process.kill()
    return bills
