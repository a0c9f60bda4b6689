"""The worker: claims jobs as slots are free, runs them, reports outcomes in batches.

Six loops share one process, each with a module of its own:

    claim        room in the slots -> dreamcut_claim_jobs; sleeps until a notification, a freed slot, or the
                 next poll (claim_loop.py; claiming.py says what to ask for, slots.py runs what comes)
    heartbeat    extends the lease of this incarnation and learns of jobs that were cancelled or taken; on a
                 connection of its own, and never waits for a lock, a job or another loop (lease.py)
    outbox       writes outcomes in batches (queue/outbox.py)
    time         stops jobs that take too long (slots.py)
    maintenance  rescues the jobs of workers whose lease ran out, mends what nobody else will (maintenance.py)
    listener     wakes the claim loop; only a hint (queue/listener.py)

Here they are put together, and what one of them learns is passed on to the others. When the process is to
end, ending.py says how long jobs and outcomes get.

A worker whose lease was declared lost drops everything it holds and comes back as a new incarnation. One
whose database is away for longer than its lease stops its jobs (their provider calls stay open, to be picked
up) and keeps what it would have written until it learns whether the lease still holds.
"""

from __future__ import annotations

import contextlib
import logging
import signal
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from uuid import UUID

import anyio
import anyio.abc
import asyncpg

from dreamcuts.db.address import first_line
from dreamcuts.db.pool import RETRY_ERRORS, open_pool
from dreamcuts.errors import DatabaseError
from dreamcuts.jobs.base import Job, JobType
from dreamcuts.queue.listener import Listener
from dreamcuts.queue.models import Heartbeat, Outcome, Settled
from dreamcuts.queue.outage import Outage
from dreamcuts.queue.outbox import Outbox
from dreamcuts.queue.store import Store
from dreamcuts.worker.abandoned import keep_closing_abandoned_calls
from dreamcuts.worker.claim_loop import ClaimLoop
from dreamcuts.worker.ending import Ending
from dreamcuts.worker.lease import Lease
from dreamcuts.worker.maintenance import Maintenance
from dreamcuts.worker.observer import NOBODY, WorkerObserver
from dreamcuts.worker.options import WorkerOptions
from dreamcuts.worker.outcome_log import log_outcome
from dreamcuts.worker.slots import Slots
from dreamcuts.worker.status import WorkerStatus
from dreamcuts.worker.steering import Command, Steering
from dreamcuts.worker.tidying import keep_tidy
from dreamcuts.worker.tools import MakeTools
from dreamcuts.worker.watchdog import LoopWatchdog

log = logging.getLogger(__name__)

CLOSE_S = 5.0
"""How long the connections of a pool may take to end."""


class Worker:
    """One worker process. `run()` returns when it was told to drain, or is idle and should end then."""

    def __init__(
        self,
        dsn: str,
        job_types: Mapping[str, JobType],
        options: WorkerOptions,
        make_tools: MakeTools,
        observer: WorkerObserver = NOBODY,
        *,
        claim_loop: Callable[..., ClaimLoop] = ClaimLoop,
    ) -> None:
        self._dsn = dsn
        self._types = {name: job_types[name] for name in options.slots}
        self._options = options
        self._steering = Steering(options.slots)
        self._make_tools = make_tools
        self._observer = observer
        self._outage = Outage()
        self._slots = Slots(
            self._types,
            self._steering,
            observer,
            self._over,
            self._has_room,
            on_stubborn=self._start_anew,
            claim_ahead=options.claim_ahead,
        )
        self._lease = Lease(
            self._types,
            options,
            self._steering,
            self._outage,
            held=self._held,
            is_running=self.is_running,
            on_kept=self._go_on,
            on_beat=self._heed,
            on_silence=self._suspend,
            on_lost=self._drop_all,
        )
        self._ending = Ending(self._slots, options.shutdown_timeout)
        self._claim_loop = claim_loop(
            options, self._slots, self._lease, self._ending, self._outage, observer, held=self._held
        )
        self._counts: Counter[str] = Counter()
        self._listener: Listener | None = None
        self._registered = anyio.Event()

    # Asked from outside

    def drain(self) -> None:
        """Claim no more, finish what runs within the shutdown timeout, hand back the rest. Twice: at once."""
        if self._ending.has_begun:
            self._ending.hurry()
        self._begin_drain()

    def is_running(self) -> bool:
        """False once the worker claims no more jobs."""
        return not self._ending.has_begun

    def wants_restart(self) -> bool:
        """Whether an operator asked for a fresh process in place of this one, once it has drained."""
        return self._steering.wants_restart

    def is_beating(self) -> bool:
        """Whether the heartbeat loop turns. True also while the database is away: no restart mends that."""
        return self._lease.is_beating()

    async def wait_registered(self) -> None:
        """Return when the worker has taken its place in the database and heeds signals."""
        await self._registered.wait()

    async def wait_draining(self) -> None:
        """Return when the worker claims no more jobs."""
        await self._ending.wait_begun()

    def database_silence(self) -> float:
        """Seconds since the database last answered a heartbeat."""
        return self._lease.silence()

    def lease_seconds(self) -> float:
        """Seconds without a heartbeat after which others take this worker's jobs."""
        return self._options.lease

    def worker_statuses(self) -> list[WorkerStatus]:
        """How each job type stands."""
        return [
            WorkerStatus(
                name=job_type.short_name,
                is_running=self.is_running(),
                active_jobs=self._slots.active(name),
                max_concurrent_jobs=self._steering.slots[name],
                provider=job_type.providers[0] if job_type.providers else "",
                features=job_type.features,
            )
            for name, job_type in self._types.items()
        ]

    @property
    def counts(self) -> Mapping[str, int]:
        """Outcomes written so far, by what became of the job (completed, failed, pending, ...)."""
        return self._counts

    # The life of the process

    async def run(self, *, handle_signals: bool = False) -> None:
        """Work until drained or idle. Raises DatabaseError if Postgres cannot be reached at the start."""
        options = self._options
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(LoopWatchdog(hopeless=options.lease * 1.5, end=options.end_process))
            pool = await open_pool(self._dsn, size=options.connections, pooled=options.pooled)
            stack.push_async_callback(_close_pool, pool)
            # The heartbeat has its own: whatever the others wait for, the lease must not run out meanwhile.
            pulse = await open_pool(
                self._dsn, size=1, pooled=options.pooled, statement_s=max(options.lease / 5, 1.0)
            )
            stack.push_async_callback(_close_pool, pulse)
            self._store = Store(pool)
            self._lease.open(Store(pulse))
            keeps = options.connections > 2  # or none would be left for the jobs
            claims = Store(pool, keeps_connection=keeps)
            stack.push_async_callback(claims.let_go)
            outcomes = Store(pool, keeps_connection=keeps)
            stack.push_async_callback(outcomes.let_go)
            self._outbox = Outbox(outcomes, self._outage, self._settled)
            self._claim_loop.open(claims, self._outbox, self._hears)
            self._maintenance = Maintenance(self._store, self._outage)
            tools = await stack.enter_async_context(self._make_tools(self._store))
            self._tools = replace(tools, lease_left=self._lease.left)
            try:
                await self._lease.take()
            except RETRY_ERRORS as error:
                raise DatabaseError(f"Postgres went away at the start: {first_line(error)}.") from None
            async with anyio.create_task_group() as loops:
                if handle_signals:
                    await loops.start(self._obey_signals)
                self._registered.set()
                loops.start_soon(self._lease.keep)
                loops.start_soon(self._lease.watch)
                loops.start_soon(keep_tidy, self._store, options.archive_after, options.archive_failed_after)
                loops.start_soon(self._outbox.run)
                loops.start_soon(self._slots.keep_time)
                loops.start_soon(self._maintenance.run)
                loops.start_soon(
                    keep_closing_abandoned_calls, self._tools, lambda: self._lease.worker, self._outage
                )
                if options.listen and not options.pooled:
                    self._listener = Listener(
                        self._dsn, on_jobs=self._claim_loop.heard, on_worker=self._heard_worker
                    )
                    loops.start_soon(self._listener.run)
                async with anyio.create_task_group() as jobs:
                    self._slots.open(jobs, self._tools)
                    await self._claim_loop.run()
                    if not self._ending.has_begun:
                        log.info("Nothing is left to do")
                        self._begin_drain()
                    await self._ending.finish_jobs()
                    if not self._slots.is_empty():
                        await self._leave_behind()
                await self._ending.write_outcomes(self._outbox)
                loops.cancel_scope.cancel()
            await self._leave()

    async def _obey_signals(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for number in signals:
                name = signal.Signals(number).name
                self._steering.wants_restart = False  # whoever sends a signal wants an end
                if self._ending.has_begun:
                    log.warning("%s again: handing back %d jobs at once", name, len(self._slots.attempts))
                else:
                    log.info(
                        "%s: draining; %d jobs may finish within %.0f s",
                        name,
                        len(self._slots.attempts),
                        self._options.shutdown_timeout,
                    )
                self.drain()

    # What the slots and the outbox tell

    def _over(self, worker: UUID, outcome: Outcome) -> None:
        """A job of an incarnation of this process came to an outcome."""
        if worker == self._lease.worker:
            self._outbox.put(worker, outcome)

    def _has_room(self, name: str, at_once: bool) -> None:
        """A slot of the type is free."""
        self._claim_loop.has_room(name, at_once)

    def _settled(self, settled: Settled) -> None:
        self._counts[settled.status or "refused"] += 1
        self._observer.settled(settled)
        log_outcome(settled, self._types[settled.outcome.job.type].short_name)
        self._claim_loop.settled(settled)

    # What the lease asks and tells

    def _held(self) -> list[Job]:
        """The jobs of this incarnation, until their outcomes are written; each under its newest claim."""
        newest: dict[UUID, Job] = {}
        for job in (*self._slots.held(self._lease.worker), *self._outbox.held()):
            if job.id not in newest or newest[job.id].claim < job.claim:
                newest[job.id] = job
        return list(newest.values())

    def _go_on(self) -> None:
        """The lease is there, for the first time or after all."""
        self._claim_loop.wake()

    def _heed(self, beat: Heartbeat, held: Sequence[Job]) -> None:
        """Do what a heartbeat brings: other slots, a command, word of jobs that were cancelled or taken."""
        asked = {job.id: job.claim for job in held}
        for job in beat.taken:
            # Under the claim that we asked about: what we claimed again since is ours.
            self._slots.stop(job, asked[job], "cancelled" if job in beat.cancelled else "taken")
        if beat.slots and self._steering.scale(beat.slots):
            self._claim_loop.scaled()
        if command := self._steering.asked(self._lease.worker, beat):
            if command is Command.DRAIN_NOW:
                self._ending.hurry()
            self._begin_drain()
        # After an outage every lease has run out. Who is back first leaves the others the time to say that
        # they live: what they hold is running, or finished and only to be written.
        if beat.rescue_due and self._outage.seconds_since() > self._options.lease:
            self._maintenance.rescue_soon()

    def _suspend(self) -> None:
        """Without a heartbeat for a lease, others may be running our jobs."""
        running = len(self._slots.attempts)
        log.warning("No heartbeat for %.0f s: stopping %d jobs", self._options.lease, running)
        self._slots.stop_all("handed_back")  # written if the lease turns out to hold, dropped if not

    def _drop_all(self, worker: UUID) -> None:
        """The incarnation `worker` lost its lease: others have its jobs."""
        self._claim_loop.forget()
        dropped = self._outbox.drop(worker)
        stopped = len(self._slots.attempts)
        self._slots.stop_all("taken")
        log.warning(
            "Worker %s lost its lease: %d jobs stopped, %d outcomes dropped", worker, stopped, dropped
        )

    # Ending

    def _begin_drain(self) -> None:
        self._ending.begin()
        self._claim_loop.end_soon()
        self._slots.return_waiting("handed back by a worker that drains")
        self._claim_loop.wake()

    def _start_anew(self) -> None:
        """A job does not stop although its time is over: only another process has that slot again."""
        if not self._ending.has_begun:
            self._steering.wants_restart = True  # it may stop yet; who drains in order is not started again
            self._begin_drain()

    async def _leave_behind(self) -> None:
        """Jobs do not stop, in a thread perhaps: write what there is, give up the lease, end the process."""
        left = [attempt for attempt in self._slots.attempts.values() if not attempt.is_given_up]
        if left:
            names = ", ".join(sorted(attempt.job.job_id for attempt in left))
            log.error("Jobs do not stop and will be rescued: %s", names)
        await self._ending.write_outcomes(self._outbox)
        await self._leave()
        if self._options.end_process is not None:
            self._options.end_process()

    async def _leave(self) -> None:
        await self._lease.leave(empty=not self._held() and not self._outbox.has_lost_outcomes)

    # Notifications

    def _hears(self) -> bool:
        return self._listener is not None and self._listener.hears

    def _heard_worker(self, worker: str) -> None:
        if worker in ("", str(self._lease.worker)):
            self._lease.beat_soon()


async def _close_pool(pool: asyncpg.Pool[asyncpg.Record]) -> None:
    with anyio.move_on_after(CLOSE_S, shield=True) as timer:
        await pool.close()
    if timer.cancelled_caught:
        pool.terminate()
