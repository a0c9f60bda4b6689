"""What the tests of the queue, the schema and the worker share: a small hand on the queue, and waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID, uuid4

import anyio
import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

T = TypeVar("T")

DEADLINE_S = 30.0
PROCESS_DEADLINE_S = 90.0
"""For what a process says: a busy machine takes its time to start one."""
LEASE_LOST = "DC001"


@dataclass(frozen=True)
class Held:
    """A claimed job, as its worker knows it."""

    id: UUID
    job_id: str
    claims: int
    attempts: int


class Queue:
    """The queue as a producer, a worker or an operator uses it, over one psycopg connection."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection

    # Reading

    def row(self, sql: str, *values: Any) -> dict[str, Any]:
        rows = self.rows(sql, *values)
        assert len(rows) == 1, f"{len(rows)} rows"
        return rows[0]

    def rows(self, sql: str, *values: Any) -> list[dict[str, Any]]:
        with self.connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(sql, values).fetchall()

    def value(self, sql: str, *values: Any) -> Any:
        (found,) = self.row(sql, *values).values()
        return found

    def run(self, sql: str, *values: Any) -> int:
        return self.connection.execute(sql, values).rowcount

    def job(self, job: UUID) -> dict[str, Any]:
        return self.row("select * from dreamcut_jobs where id = %s", job)

    def of_manifest(self, manifest: UUID) -> dict[str, Any]:
        return self.row("select * from dreamcut_production_manifest where id = %s", manifest)

    def states(self, manifest: UUID) -> dict[str, str]:
        """The finer state of each job of a manifest, by job_id."""
        found = self.rows("select job_id, state from dreamcut_job_states where manifest_id = %s", manifest)
        return {row["job_id"]: row["state"] for row in found}

    def history(self, job: UUID) -> list[dict[str, Any]]:
        return self.rows("select * from dreamcut_job_attempts where job = %s order by claim", job)

    # Producing

    def manifest(self, **columns: Any) -> UUID:
        return self._insert("dreamcut_production_manifest", {"manifest_json": Jsonb({}), **columns})

    def add(
        self,
        manifest: UUID | None,
        job_id: str | None = None,
        depends_on: Sequence[str] = (),
        type: str = "work",
        **columns: Any,
    ) -> UUID:
        names = {} if job_id is None else {"job_id": job_id}
        return self._insert(
            "dreamcut_jobs",
            {"manifest_id": manifest, "type": type, "depends_on": list(depends_on), **names, **columns},
        )

    def graph(self, edges: Mapping[str, Sequence[str]], **columns: Any) -> tuple[UUID, dict[str, UUID]]:
        """A manifest with jobs by job_id, each with what it depends on; inserted in the given order."""
        manifest = self.manifest()
        return manifest, {name: self.add(manifest, name, needs, **columns) for name, needs in edges.items()}

    def _insert(self, table: str, columns: Mapping[str, Any]) -> UUID:
        statement = psycopg.sql.SQL("insert into {} ({}) values ({}) returning id").format(
            psycopg.sql.Identifier(table),
            psycopg.sql.SQL(", ").join(map(psycopg.sql.Identifier, columns)),
            psycopg.sql.SQL(", ").join([psycopg.sql.Placeholder()] * len(columns)),
        )
        row = self.connection.execute(statement, list(columns.values())).fetchone()
        assert row is not None
        return UUID(str(row[0]))

    # Working

    def worker(self, types: Sequence[str] = ("work",), lease_s: float = 60) -> UUID:
        """A new incarnation."""
        worker = uuid4()
        self.run(
            "select dreamcut_register_worker(%s, 'host', 1, '0', %s, %s, make_interval(secs => %s))",
            worker,
            list(types),
            [10] * len(types),
            lease_s,
        )
        return worker

    def claim(
        self, worker: UUID, slots: int = 1, type: str = "work", may_take_suspect: bool = True
    ) -> list[Held]:
        return self.claim_types(worker, {type: slots}, may_take_suspect)

    def claim_types(
        self, worker: UUID, slots: Mapping[str, int], may_take_suspect: bool = True
    ) -> list[Held]:
        found = self.rows(
            "select * from dreamcut_claim_jobs(%s, %s, %s, p_may_take_suspect => %s)",
            worker,
            list(slots),
            list(slots.values()),
            may_take_suspect,
        )
        return [Held(row["id"], row["job_id"], row["claims"], row["attempts"]) for row in found]

    def claim_one(self, worker: UUID, type: str = "work") -> Held:
        (held,) = self.claim(worker, 1, type)
        return held

    def complete(self, worker: UUID, *held: Held, url: str | None = None) -> list[UUID]:
        """The jobs that were written."""
        done: list[UUID] = self.value(
            "select dreamcut_complete_jobs(%s, %s, %s, %s, %s::text[])",
            worker,
            [job.id for job in held],
            [job.claims for job in held],
            [Jsonb({"made": job.job_id}) for job in held],
            [url or f"https://assets.example/{job.job_id}" for job in held],
        )
        return done

    def fail(
        self,
        worker: UUID,
        *held: Held,
        error_class: str = "transient",
        message: str = "it broke",
        retry_after: float | None = None,
        base_s: float = 3600,
        detail: Mapping[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """What became of each. The backoff is anything up to `base_s`: a short one may be over at once."""
        return self.rows(
            "select * from dreamcut_fail_jobs(%s, %s, %s, %s, %s, %s, %s::float8[], %s::interval[])",
            worker,
            [job.id for job in held],
            [job.claims for job in held],
            [error_class for _ in held],
            [message for _ in held],
            [Jsonb(detail or {}) for _ in held],
            [retry_after for _ in held],
            [f"{base_s} seconds" for _ in held],
        )

    def hand_back(self, worker: UUID, *held: Held, reason: str = "draining") -> list[UUID]:
        back: list[UUID] = self.value(
            "select dreamcut_hand_back_jobs(%s, %s, %s, %s)",
            worker,
            [job.id for job in held],
            [job.claims for job in held],
            reason,
        )
        return back

    def heartbeat(self, worker: UUID, *held: Held, lease_s: float = 60) -> dict[str, Any]:
        return self.row(
            "select * from dreamcut_heartbeat(%s, make_interval(secs => %s), false, %s::uuid[], %s::int[])",
            worker,
            lease_s,
            [job.id for job in held],
            [job.claims for job in held],
        )

    def rescue(self) -> list[dict[str, Any]]:
        return self.rows("select * from dreamcut_rescue()")

    def expire(self, worker: UUID) -> None:
        """Let the lease of a worker be over."""
        self.run(
            "update dreamcut_workers set lease_expires_at = now() - interval '1 second' where id = %s", worker
        )

    def come_due(self) -> None:
        """Let the time of all delayed jobs come."""
        self.run(
            "update dreamcut_jobs set next_retry_at = now() - interval '1 second'"
            " where next_retry_at is not null"
        )

    def finish(self, *names: str, worker: UUID | None = None, type: str = "work") -> None:
        """Claim until these jobs are held, and complete them; what else was claimed goes back."""
        worker = worker or self.worker([type])
        held = self.claim(worker, 10_000, type)
        chosen = [job for job in held if job.job_id in names]
        assert sorted(job.job_id for job in chosen) == sorted(names)
        self.complete(worker, *chosen)
        self.hand_back(worker, *(job for job in held if job.job_id not in names))

    # Operating

    def cancel(self, *jobs: UUID) -> list[UUID]:
        return list(self.value("select dreamcut_cancel_jobs(%s)", list(jobs)))

    def retry(self, *jobs: UUID) -> list[UUID]:
        return list(self.value("select dreamcut_retry_jobs(%s)", list(jobs)))

    def release(self, *jobs: UUID) -> list[UUID]:
        return list(self.value("select dreamcut_release_jobs(%s)", list(jobs)))

    def reconcile(self) -> int:
        return int(self.value("select dreamcut_reconcile()"))

    # What must always be true

    def inconsistencies(self) -> list[dict[str, Any]]:
        """Everything in which the derived columns differ from what the rows themselves say."""
        return self.rows(INCONSISTENCIES)


INCONSISTENCIES = """
    select 'unmet_dependencies' as what, job.job_id as where_, job.unmet_dependencies as is_,
        count(wait.job) as should
    from dreamcut_jobs job left join dreamcut_job_dependencies wait on wait.job = job.id
    group by job.id having job.unmet_dependencies <> count(wait.job)
    union all
    select 'open_jobs', manifest.id::text, manifest.open_jobs,
        count(job.id) filter (where job.status in ('pending', 'processing'))
    from dreamcut_production_manifest manifest left join dreamcut_jobs job on job.manifest_id = manifest.id
    group by manifest.id
    having manifest.open_jobs <> count(job.id) filter (where job.status in ('pending', 'processing'))
    union all
    select 'jobs by status', manifest.id::text, counted.is_, counted.should
    from dreamcut_production_manifest manifest
    cross join lateral (
        select count(*) filter (where job.status = 'completed') as completed,
            count(*) filter (where job.status = 'failed') as failed,
            count(*) filter (where job.status = 'cancelled') as cancelled, count(*) as total
        from dreamcut_jobs job where job.manifest_id = manifest.id
    ) jobs
    cross join lateral (values
        (manifest.completed_jobs, jobs.completed), (manifest.failed_jobs, jobs.failed),
        (manifest.cancelled_jobs, jobs.cancelled), (manifest.total_jobs, jobs.total)
    ) as counted (is_, should)
    where manifest.archived_at is null and counted.is_ <> counted.should
    union all
    select 'cause', wait.depends_on, 0, 0
    from dreamcut_job_dependencies wait
    left join dreamcut_jobs cause on cause.manifest_id = wait.manifest_id and cause.job_id = wait.depends_on
    where wait.cause is distinct from cause.id
    union all
    select 'waits for a job that has ended', job.job_id, 0, 0
    from dreamcut_job_dependencies wait
    join dreamcut_jobs job on job.id = wait.job
    join dreamcut_jobs cause on cause.manifest_id = wait.manifest_id and cause.job_id = wait.depends_on
    where cause.status = 'completed'
        or cause.status in ('failed', 'cancelled')
            and (job.status = 'pending' or job.metadata ->> 'onDependencyFailure' = 'run')
    union all
    select 'runs without a dependency', job.job_id, 0, 0
    from dreamcut_jobs job
    join dreamcut_jobs cause on cause.manifest_id = job.manifest_id and cause.job_id = any (job.depends_on)
    where job.status = 'processing' and cause.status in ('pending', 'processing')
    union all
    select 'manifest is over too early or too late: ' || manifest.status, manifest.id::text, 0, 0
    from dreamcut_production_manifest manifest
    where (manifest.status in ('done', 'failed')) is distinct from (manifest.open_jobs = 0)
        and exists (select 1 from dreamcut_jobs job where job.manifest_id = manifest.id)
"""


def wait_until(
    condition: Callable[[], T], what: str = "the condition", *, deadline_s: float = DEADLINE_S
) -> T:
    """Wait until `condition()` is true and return what it returned; fails after the deadline."""
    deadline = time.monotonic() + deadline_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {deadline_s} s for {what}"
        time.sleep(0.005)
    return found


async def until(condition: Callable[[], object]) -> None:
    """`wait_until` for tests that share their event loop with what they wait for."""
    with anyio.fail_after(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 (it may be true of the database, which sets no event)
            await anyio.sleep(0.01)


class Blocked:
    """A statement on a connection of its own that has to wait for somebody's lock.

    `with Blocked(dsn, lambda queue: queue.complete(...)) as statement:` goes on as soon as Postgres says that
    the statement waits; `statement.result()` waits for its end.
    """

    def __init__(self, dsn: str, call: Callable[[Queue], Any]) -> None:
        self._connection = psycopg.connect(dsn, autocommit=True)
        self._watch = psycopg.connect(dsn, autocommit=True)
        self._call = call
        self._found: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Blocked:
        self._thread.start()
        try:
            wait_until(self.is_blocked_or_over, "the statement to wait for a lock")
            assert self._thread.is_alive(), f"it did not wait: {self._found!r} {self._error!r}"
        except BaseException:
            self.__exit__()
            raise
        return self

    def is_blocked_or_over(self) -> bool:
        return not self._thread.is_alive() or is_blocked(self._watch, self._connection.info.backend_pid)

    def result(self) -> Any:
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), "the statement still waits"
        if self._error is not None:
            raise self._error
        return self._found

    def _run(self) -> None:
        try:
            self._found = self._call(Queue(self._connection))
        except BaseException as error:
            self._error = error

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self._connection.cancel()
        self._thread.join(DEADLINE_S)
        self._connection.close()
        self._watch.close()


def is_blocked(connection: psycopg.Connection[Any], pid: int) -> bool:
    """Whether the backend waits for another one's lock."""
    row = connection.execute("select cardinality(pg_blocking_pids(%s)) > 0", [pid]).fetchone()
    return bool(row and row[0])


def ids(held: Iterable[Held]) -> list[UUID]:
    return [job.id for job in held]


def ids_of(rows: Iterable[Mapping[str, Any]]) -> list[UUID]:
    return [row["id"] for row in rows]


def names(held: Iterable[Held]) -> list[str]:
    return [job.job_id for job in held]
