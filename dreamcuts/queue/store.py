"""The worker's statements, one typed method each. Nothing else in the worker talks to Postgres."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from dreamcuts import __version__
from dreamcuts.db.address import first_line
from dreamcuts.db.jsontext import encode_json
from dreamcuts.db.pool import leave_read_only
from dreamcuts.db.sql import query
from dreamcuts.errors import CallRefused, LeaseLost
from dreamcuts.queue.models import (
    Archived,
    Completed,
    Failed,
    HandedBack,
    Heartbeat,
    Job,
    Outcome,
    Rescued,
    Settled,
)


class Look(NamedTuple):
    """What a look found: see the query of that name. `due_s` is None if no job is delayed."""

    ready: list[str]
    due_s: float | None = None
    is_limited: bool = False


class Lookout(NamedTuple):
    """A part of a claim: up to so many jobs of a type, from a place in its queue on; None: from the start."""

    type: str
    jobs: int
    after_urgency: int | None = None
    after_turn: int | None = None


KEEP_S = 60.0
"""How long a connection is kept, for a caller that wants to."""
SILENCE_S = 240.0
"""A connection on which nothing was said for so long may have been forgotten by what lies between (a NAT)."""
LEASE_LOST = "DC001"
CALL_REFUSED = ("DC002", "DC003", "DC004")


class Store:
    """The queue in Postgres, as one worker process sees it.

    Every method is one statement, and so one round trip and one transaction. They raise asyncpg's errors;
    those that need the lease raise LeaseLost.

    With `keeps_connection` it is for a single caller, who waits for each answer before asking again: the
    connection stays here for up to KEEP_S, because giving it back and taking it again costs a turn of the
    event loop.
    """

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], *, keeps_connection: bool = False) -> None:
        self._pool = pool
        self._keeps = keeps_connection
        self._kept: Any = None
        self._taken_at = 0.0
        self._used_at = 0.0

    async def let_go(self) -> None:
        """Give the connection back to the pool, if one was kept."""
        connection, self._kept = self._kept, None
        if connection is not None:
            await self._pool.release(connection)

    async def register(
        self,
        worker: UUID,
        slots: Mapping[str, int],
        lease: timedelta,
        providers: Mapping[str, str] | None = None,
    ) -> dict[str, int]:
        """Enter a new incarnation of this process; returns its slots as an operator has scaled them.

        `providers` are the types' own: see `worker.lease.only_provider`.
        """
        scaled = await self._value(
            "register_worker",
            worker=worker,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=__version__,
            types=list(slots),
            slots=list(slots.values()),
            lease=lease,
            providers=[(providers or {}).get(name, "") for name in slots],
        )
        return dict(zip(slots, scaled, strict=True))

    async def leave(self, worker: UUID, *, empty: bool) -> None:
        """End the incarnation. Not `empty`: it still holds jobs, which are to be rescued at once."""
        await self._run("leave_worker", worker=worker, empty=empty)

    async def heartbeat(
        self, worker: UUID, lease: timedelta, *, draining: bool, held: Sequence[Job]
    ) -> Heartbeat:
        """Extend the lease and learn what happened to the jobs that we believe to hold."""
        (row,) = await self._run(
            "heartbeat",
            worker=worker,
            lease=lease,
            draining=draining,
            jobs=[job.id for job in held],
            claims=[job.claim for job in held],
        )
        return Heartbeat(
            alive=row["alive"],
            taken=frozenset(row["taken"]),
            cancelled=frozenset(row["cancelled"]),
            rescue_due=row["rescue_due"],
            command=row["command"],
            command_reason=row["command_reason"],
            slots=dict(zip(row["types"] or (), row["slots"] or (), strict=True)),
        )

    async def return_unheld(self, worker: UUID, held: Sequence[Job]) -> list[UUID]:
        """Hand back what this incarnation holds in the database beyond `held`; returns those jobs."""
        return list(await self._value("return_unheld", worker=worker, held=[job.id for job in held]))

    async def look(self, types: Sequence[str]) -> Look:
        """Whether something is there for these types, without claiming it."""
        (row,) = await self._run("look", types=list(types))
        return Look(*row)

    async def promote(self, jobs: int) -> int:
        """Make ready what has come due, so many jobs at the most; returns how many it were."""
        return int(await self._value("promote_jobs", jobs=jobs))

    async def claim(
        self,
        worker: UUID,
        lookouts: Sequence[Lookout],
        *,
        waits: bool = True,
        may_take_suspect: bool = True,
    ) -> list[Job]:
        """Claim up to `jobs` jobs of each lookout's type, from its place on; the most urgent first.

        `waits`: the worker will sleep after this claim until it is woken, if only for some types.
        `may_take_suspect`: one of them may be a job with which workers have died.
        """
        rows = await self._run(
            "claim_jobs",
            worker=worker,
            types=[lookout.type for lookout in lookouts],
            slots=[lookout.jobs for lookout in lookouts],
            after_urgency=[lookout.after_urgency for lookout in lookouts],
            after_turn=[lookout.after_turn for lookout in lookouts],
            waits=waits,
            may_take_suspect=may_take_suspect,
        )
        return [Job(*row) for row in rows]  # the columns of claim_jobs are the fields of Job

    async def write(self, worker: UUID, outcomes: Sequence[Outcome]) -> list[Settled]:
        """Write outcomes of one kind (all Completed, all Failed or all HandedBack) in one statement."""
        # In the order of ids, in which the queue's functions lock jobs: no deadlock with a cancel.
        outcomes = sorted(outcomes, key=lambda outcome: outcome.job.id)
        jobs = [outcome.job.id for outcome in outcomes]
        claims = [outcome.job.claim for outcome in outcomes]
        written: dict[UUID, tuple[str, Any]] = {}
        if completed := [outcome for outcome in outcomes if isinstance(outcome, Completed)]:
            urls = [outcome.output_url for outcome in completed]
            ids = await self._value(
                "complete_jobs",
                worker=worker,
                jobs=jobs,
                claims=claims,
                results=[outcome.encoded or encode_json(outcome.result) for outcome in completed],
                output_urls=None if urls.count(None) == len(urls) else urls,
                manifests=list({outcome.job.manifest_id for outcome in completed} - {None}),
            )
            written = dict.fromkeys(ids, ("completed", None))
        elif failed := [outcome for outcome in outcomes if isinstance(outcome, Failed)]:
            rows = await self._run(
                "fail_jobs",
                worker=worker,
                jobs=jobs,
                claims=claims,
                classes=[outcome.error_class.value for outcome in failed],
                messages=[outcome.message for outcome in failed],
                details=[outcome.detail for outcome in failed],
                retry_after=[outcome.retry_after for outcome in failed],
                base_delays=[outcome.base_delay for outcome in failed],
            )
            written = {row["id"]: (row["status"], row["next_retry_at"]) for row in rows}
        elif handed_back := [outcome for outcome in outcomes if isinstance(outcome, HandedBack)]:
            ids = await self._value(
                "hand_back_jobs", worker=worker, jobs=jobs, claims=claims, reason=handed_back[0].reason
            )
            written = dict.fromkeys(ids, ("pending", None))
        return [Settled(outcome, *written.get(outcome.job.id, (None, None))) for outcome in outcomes]

    async def rescue(self) -> list[Rescued]:
        """Take the jobs of workers whose lease ran out."""
        return [Rescued(row["id"], row["status"], row["worker_id"]) for row in await self._run("rescue")]

    async def return_strays(self) -> int:
        """Make ready again what is processing although nobody runs it; returns how many jobs."""
        return int(await self._value("return_strays"))

    async def reconcile(self) -> int:
        """Mend dependencies that nobody will end; returns how many."""
        return int(await self._value("reconcile"))

    async def archive(self, after: timedelta | None, failed_after: timedelta | None, limit: int) -> Archived:
        """Move one batch of what ended long ago to the archive; None: never."""
        (row,) = await self._run("archive_jobs", after=after, failed_after=failed_after, limit=limit)
        return Archived(row["jobs"], row["more"])

    async def is_unfinished(self, types: Sequence[str]) -> bool:
        """Whether something is left that these types could still run without anybody's help."""
        return bool(await self._value("unfinished_work", types=list(types)))

    async def manifest(self, manifest: UUID) -> dict[str, Any]:
        """The manifest's `manifest_json`."""
        rows = await self._run("manifest_of_job", manifest_id=manifest)
        return dict(rows[0]["manifest_json"]) if rows else {}

    async def sibling_jobs(self, manifest: UUID) -> list[asyncpg.Record]:
        """The manifest's jobs in the order of their arrival."""
        return await self._run("sibling_jobs", manifest_id=manifest)

    async def open_calls(self, job: UUID) -> list[asyncpg.Record]:
        """The job's provider calls without an outcome, oldest first."""
        return await self._run("open_calls", job=job)

    async def made_calls(self, job: UUID) -> list[asyncpg.Record]:
        """The job's calls that succeeded at a provider with a queue of its own, latest first."""
        return await self._run("made_calls", job=job)

    async def begin_call(
        self,
        worker: UUID,
        job: Job,
        *,
        provider: str,
        endpoint: str,
        step: int,
        request: Mapping[str, Any],
        estimate_usd: float | None,
        request_hash: str | None = None,
        call: UUID | None = None,
    ) -> UUID:
        """Record the intent to call a provider, as `call`. The same id may be asked for again.

        Raises LeaseLost if the job is no longer ours, CallRefused if the call may not be made now.
        """
        begun = await self._value(
            "begin_call",
            worker=worker,
            job=job.id,
            claim=job.claim,
            provider=provider,
            endpoint=endpoint,
            step=step,
            request=dict(request),
            estimate_usd=estimate_usd,
            request_hash=request_hash,
            call=call,
        )
        return UUID(str(begun))

    async def find_reusable(self, job: UUID, request_hash: str) -> asyncpg.Record | None:
        """The job that made the same before, for the same user; None if there is none."""
        rows = await self._run("find_reusable", job=job, request_hash=request_hash)
        return rows[0] if rows else None

    async def reuse_call(
        self,
        worker: UUID,
        job: Job,
        *,
        provider: str,
        endpoint: str,
        step: int,
        request: Mapping[str, Any],
        request_hash: str,
        made_by: UUID,
        saved_usd: float | Decimal | None,
    ) -> None:
        """Enter a call that was not made into the ledger. Raises LeaseLost if the job is no longer ours."""
        await self._run(
            "reuse_call",
            worker=worker,
            job=job.id,
            claim=job.claim,
            provider=provider,
            endpoint=endpoint,
            step=step,
            request=dict(request),
            request_hash=request_hash,
            made_by=made_by,
            saved_usd=saved_usd,
        )

    async def take_abandoned_calls(
        self, worker: UUID, providers: Sequence[str], *, grace: timedelta, keep: timedelta
    ) -> list[asyncpg.Record]:
        """Open calls of jobs that have ended, to be closed by us."""
        return await self._run(
            "take_abandoned_calls", worker=worker, providers=list(providers), grace=grace, keep=keep
        )

    async def submitted_call(self, call: UUID, request_id: str, ticket: Mapping[str, Any]) -> None:
        """Store the provider's request id."""
        await self._run("submitted_call", call=call, request_id=request_id, ticket=dict(ticket))

    async def finish_call(
        self,
        call: UUID,
        status: str,
        *,
        cost_usd: float | None,
        error: str | None,
        detail: Mapping[str, Any] | None,
    ) -> None:
        """Close a provider call."""
        await self._run(
            "finish_call",
            call=call,
            status=status,
            cost_usd=cost_usd,
            error=error,
            detail=None if detail is None else dict(detail),
        )

    async def _value(self, name: str, **parameters: Any) -> Any:
        (row,) = await self._run(name, **parameters)
        return row[0]

    async def _run(self, name: str, **parameters: Any) -> list[asyncpg.Record]:
        statement = query(name)
        connection, self._kept = self._kept, None
        try:
            if connection is not None and not self._is_good(connection):
                kept, connection = connection, None
                await self._pool.release(kept)
            if connection is None:
                connection = await self._connection()
                self._taken_at = time.monotonic()
            rows: list[asyncpg.Record] = await connection.fetch(
                statement.text, *statement.arguments(parameters)
            )
            if self._keeps and self._kept is None:
                self._kept, connection = connection, None
                self._used_at = time.monotonic()
            return rows
        except (TimeoutError, asyncio.CancelledError):
            # The server may be out of reach: giving the connection back as it is would wait for the
            # answer to a cancel request, and the next try would wait on it, too.
            if connection is not None:
                connection.terminate()
            raise
        except asyncpg.ReadOnlySQLTransactionError:
            await leave_read_only(self._pool, connection)
            raise
        except asyncpg.PostgresError as error:
            if error.sqlstate == LEASE_LOST:
                raise LeaseLost(str(error)) from None
            if error.sqlstate in CALL_REFUSED:
                info = json.loads(getattr(error, "detail", None) or "{}")
                raise CallRefused(str(error.args[0]), str(error.sqlstate), info) from None
            raise
        finally:
            if connection is not None:
                await self._pool.release(connection)

    def _is_good(self, connection: Any) -> bool:
        """Whether a connection that was kept may be used again.

        Now and then it goes through the pool all the same, which knows when a connection has had its time.
        """
        now = time.monotonic()
        try:
            if now - self._used_at > SILENCE_S:
                connection.terminate()
            return not connection.is_closed() and now - self._taken_at < KEEP_S
        except asyncpg.InterfaceError:
            return False  # the server has ended it meanwhile, and the pool has taken it back

    async def _connection(self) -> Any:
        """A connection of the pool. A refusal at the door says nothing about the statement: try again."""
        try:
            return await self._pool.acquire()
        except asyncpg.PostgresError as error:  # a changed password, a database that is closed
            raise ConnectionRefusedError(first_line(error)) from error
