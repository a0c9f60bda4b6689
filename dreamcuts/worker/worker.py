"""The worker: claims jobs as slots are free, runs them, reports outcomes in batches.

Six loops share one process:

    claim        room in the slots -> dreamcut_claim_jobs; sleeps until a notification, a freed slot, or the
                 next poll (claiming.py says what to ask for, slots.py runs what comes)
    heartbeat    extends the lease of this incarnation and learns of jobs that were cancelled or taken; on a
                 connection of its own, and never waits for a lock, a job or another loop
    outbox       writes outcomes in batches
    time         stops jobs that take too long
    maintenance  rescues the jobs of workers whose lease ran out, mends what nobody else will
    listener     wakes the claim loop; only a hint

A worker whose lease was declared lost drops everything it holds and comes back as a new incarnation. One
whose database is away for longer than its lease stops its jobs (their provider calls stay open, to be picked
up) and keeps what it would have written until it learns whether the lease still holds.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import anyio
import anyio.abc
import asyncpg

from dreamcuts.db.address import first_line
from dreamcuts.db.pool import RETRY_ERRORS, open_pool
from dreamcuts.errors import DatabaseError, LeaseLost
from dreamcuts.jobs.base import Job, JobType
from dreamcuts.queue.listener import Listener
from dreamcuts.queue.models import Completed, Failed, Heartbeat, Outcome, Settled
from dreamcuts.queue.outage import Outage, retry_delay
from dreamcuts.queue.outbox import Outbox
from dreamcuts.queue.store import Store
from dreamcuts.worker.abandoned import keep_closing_abandoned_calls
from dreamcuts.worker.claiming import Appetite
from dreamcuts.worker.maintenance import Maintenance
from dreamcuts.worker.observer import NOBODY, WorkerObserver
from dreamcuts.worker.options import WorkerOptions
from dreamcuts.worker.slots import Slots
from dreamcuts.worker.status import WorkerStatus
from dreamcuts.worker.steering import Command, Steering
from dreamcuts.worker.tidying import keep_tidy
from dreamcuts.worker.tools import MakeTools
from dreamcuts.worker.watchdog import LoopWatchdog

log = logging.getLogger(__name__)

LOOP_ERRORS = (*RETRY_ERRORS, asyncpg.PostgresError)
"""What the loops outlive, and running jobs with them: also a function that a migration is replacing."""
STOP_GRACE_S = 15.0
"""How long jobs that were told to stop may take, before the worker leaves them to the rescue."""
LAST_GRACE_S = 1.0
"""How long they may take once they are told a second time."""
CLAIM_GRACE_S = 5.0
"""How long a claim under way may take once the worker drains."""
WRITE_S = 5.0
"""How long writing the last outcomes may take at the least; the shutdown timeout if that is longer."""
LEAVE_S = 5.0
"""How long saying goodbye to the database may take."""
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
    ) -> None:
        self._dsn = dsn
        self._types = {name: job_types[name] for name in options.slots}
        self._options = options
        self._steering = Steering(options.slots)
        self._make_tools = make_tools
        self._observer = observer
        self._lease = timedelta(seconds=options.lease)
        self._id = uuid4()
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
        self._appetite = Appetite(self._slots, options.poll_interval)
        self._counts: Counter[str] = Counter()
        self._draining = False
        self._hurry = anyio.Event()
        self._changed = anyio.Event()
        self._beat_now = anyio.Event()
        self._last_beat = time.monotonic()
        self._last_turn = time.monotonic()
        self._suspended = False
        self._claim_unsure = False
        self._waits_for_outbox = False
        self._suspected = False
        self._claim_scope: anyio.CancelScope | None = None
        self._listener: Listener | None = None
        self._is_registered = False
        self._registered = anyio.Event()
        self._drain_begun = anyio.Event()

    # Asked from outside

    def drain(self) -> None:
        """Claim no more, finish what runs within the shutdown timeout, hand back the rest. Twice: at once."""
        if self._draining:
            self._hurry.set()
        self._begin_drain()

    def is_running(self) -> bool:
        """False once the worker claims no more jobs."""
        return not self._draining

    def wants_restart(self) -> bool:
        """Whether an operator asked for a fresh process in place of this one, once it has drained."""
        return self._steering.wants_restart

    def is_beating(self) -> bool:
        """Whether the heartbeat loop turns. True also while the database is away: no restart mends that."""
        # A turn has two statements at most, each of which gives up after a fifth of the lease.
        return time.monotonic() - self._last_turn < self._options.heartbeat + self._options.lease

    async def wait_registered(self) -> None:
        """Return when the worker has taken its place in the database and heeds signals."""
        await self._registered.wait()

    async def wait_draining(self) -> None:
        """Return when the worker claims no more jobs."""
        await self._drain_begun.wait()

    def database_silence(self) -> float:
        """Seconds since the database last answered a heartbeat."""
        return time.monotonic() - self._last_beat

    def lease_seconds(self) -> float:
        """Seconds without a heartbeat after which others take this worker's jobs."""
        return self._options.lease

    def lease_left(self) -> float:
        """Seconds of the lease that are left, as far as we know: the last heartbeat may have been lost."""
        return self._last_beat + self._options.lease - time.monotonic()

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
            self._pulse = Store(pulse)
            keeps = options.connections > 2  # or none would be left for the jobs
            self._claims = Store(pool, keeps_connection=keeps)
            stack.push_async_callback(self._claims.let_go)
            outcomes = Store(pool, keeps_connection=keeps)
            stack.push_async_callback(outcomes.let_go)
            self._outbox = Outbox(outcomes, self._outage, self._settled)
            self._maintenance = Maintenance(self._store, self._outage)
            tools = await stack.enter_async_context(self._make_tools(self._store))
            self._tools = replace(tools, lease_left=self.lease_left)
            try:
                await self._register()
            except RETRY_ERRORS as error:
                raise DatabaseError(f"Postgres went away at the start: {first_line(error)}.") from None
            async with anyio.create_task_group() as loops:
                if handle_signals:
                    await loops.start(self._obey_signals)
                self._registered.set()
                loops.start_soon(self._beat)
                loops.start_soon(self._watch_lease)
                loops.start_soon(keep_tidy, self._store, options.archive_after, options.archive_failed_after)
                loops.start_soon(self._outbox.run)
                loops.start_soon(self._slots.keep_time)
                loops.start_soon(self._maintenance.run)
                loops.start_soon(keep_closing_abandoned_calls, self._tools, lambda: self._id, self._outage)
                if options.listen and not options.pooled:
                    self._listener = Listener(
                        self._dsn, on_jobs=self._heard_jobs, on_worker=self._heard_worker
                    )
                    loops.start_soon(self._listener.run)
                async with anyio.create_task_group() as jobs:
                    self._slots.open(jobs, self._tools)
                    await self._claim_while_wanted()
                    await self._finish_jobs()
                    if not self._slots.is_empty():
                        await self._leave_behind()
                await self._write_outcomes()
                loops.cancel_scope.cancel()
            await self._leave()

    async def _register(self) -> None:
        providers = {name: only_provider(job_type) for name, job_type in self._types.items()}
        asked = time.monotonic()
        slots = await self._pulse.register(self._id, self._options.slots, self._lease, providers)
        if self._steering.scale(slots):
            self._beat_now.set()  # the row still says what we were started with
        self._is_registered = True
        self._suspended = False
        self._last_beat = asked
        served = ", ".join(f"{self._types[name].short_name}:{n}" for name, n in self._steering.slots.items())
        log.info("Worker %s serves %s", self._id, served)

    async def _obey_signals(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for number in signals:
                name = signal.Signals(number).name
                self._steering.wants_restart = False  # whoever sends a signal wants an end
                if self._draining:
                    log.warning("%s again: handing back %d jobs at once", name, len(self._slots.attempts))
                else:
                    log.info(
                        "%s: draining; %d jobs may finish within %.0f s",
                        name,
                        len(self._slots.attempts),
                        self._options.shutdown_timeout,
                    )
                self.drain()

    # Claiming

    async def _claim_while_wanted(self) -> None:
        tries = 0
        while not self._draining:
            self._changed = anyio.Event()
            worker = self._id
            try:
                if await self._turn() is not None:
                    tries = 0
                    continue  # perhaps there is room for more
                if self._options.until_idle and await self._is_idle():
                    log.info("Nothing is left to do")
                    self._begin_drain()
                    return
            except LeaseLost:
                self._lease_lost(worker)
                continue
            except LOOP_ERRORS as error:
                tries += 1
                self._claim_unsure = True
                self._outage.failed(error)
                with anyio.move_on_after(retry_delay(tries)):
                    await self._hurry.wait()
                continue
            tries = 0
            with anyio.move_on_after(self._appetite.seconds_to_look()):
                await self._changed.wait()

    async def _turn(self) -> int | None:
        """Look and claim, as far as there is reason to; returns how many jobs a claim brought."""
        if not self._may_claim():
            await self._changed.wait()
            return None
        with anyio.CancelScope() as self._claim_scope:
            await self._look()
            return await self._claim()
        return None  # draining; what a claim brought without our hearing of it is handed back when we leave

    async def _look(self) -> None:
        """See for ourselves whether something is ready, if it is time to."""
        if self._appetite.seconds_to_look() > 0:
            return
        # That it answers is no sign of the end of an outage: so does a database that takes no writes.
        found = await self._claims.look(list(self._types))
        hears = self._listener is not None and self._listener.hears
        self._appetite.looked(found, hears=hears)
        if found.due_s is not None and found.due_s <= 0 and not any(map(self._slots.room, self._types)):
            await self._claims.promote()  # we have no room for it; who has is woken

    def _may_claim(self) -> bool:
        return self._options.claim and self._is_registered and not self._is_suspended()

    async def _claim(self) -> int | None:
        """Make one claim, if there is reason to; returns how many jobs it brought."""
        worker = self._id
        if self._claim_unsure:
            # The last claim may have been committed although its answer never came: those jobs would be
            # ours for as long as we live, and nobody would run them.
            if returned := await self._claims.return_unheld(worker, self._held()):
                log.warning("Handed back %d jobs whose claim was not answered", len(returned))
            self._claim_unsure = False
        # Claims are quicker than outcomes: without this, what is done and not written would grow without end.
        self._waits_for_outbox = self._outbox.is_behind()
        asked = None if self._draining or self._waits_for_outbox else self._appetite.ask()
        if asked is None:
            return None
        claimed = await self._claims.claim(
            worker, asked.lookouts, waits=asked.waits, may_take_suspect=not self._holds_a_suspect()
        )
        self._observer.claimed(len(claimed), time.monotonic() - asked.at)
        self._outage.ended()
        if worker != self._id:
            return 0  # lost meanwhile: they are being rescued
        self._appetite.got(asked, claimed)
        self._suspected = self._suspected or any(job.is_suspect for job in claimed)
        self._slots.admit(worker, claimed)
        if self._is_suspended() or self._draining:
            self._slots.return_waiting("claimed by a worker that stopped")  # while the answer was on its way
        return len(claimed)

    def _holds_a_suspect(self) -> bool:
        """Whether a job is here, or its outcome not written yet, with which workers have died."""
        # Looked through only while there is one: this is asked at every claim.
        self._suspected = self._suspected and any(job.is_suspect for job in self._held())
        return self._suspected

    def _over(self, worker: UUID, outcome: Outcome) -> None:
        """A job of an incarnation of this process came to an outcome."""
        if worker == self._id:
            self._outbox.put(worker, outcome)

    def _has_room(self, name: str, at_once: bool) -> None:
        """A slot of the type is free."""
        if not at_once:
            self._appetite.one_ended()
        if self._draining or self._options.until_idle or self._appetite.wants(name):
            self._wake()

    async def _is_idle(self) -> bool:
        if not self._appetite.is_stilled() or not self._slots.is_empty() or self._outbox.held():
            return False
        return not await self._claims.is_unfinished(list(self._types))

    def _settled(self, settled: Settled) -> None:
        self._counts[settled.status or "refused"] += 1
        self._observer.settled(settled)
        self._say(settled)
        if self._waits_for_outbox:
            self._waits_for_outbox = False
            self._wake()
        if self._listener is None or not self._listener.hears or settled.outcome.job.is_suspect:
            self._appetite.heard()  # of what it freed, nobody else will tell
            self._wake()
        elif settled.next_retry_at is not None:
            self._appetite.look_soon()  # for when it comes due
            self._wake()
        elif self._options.until_idle:
            self._wake()

    def _say(self, settled: Settled) -> None:
        outcome = settled.outcome
        level = logging.WARNING if settled.status is None or isinstance(outcome, Failed) else logging.INFO
        if not log.isEnabledFor(level):
            return
        job = outcome.job
        tag = {"tag": self._types[job.type].short_name, "job_id": job.job_id}
        if settled.status is None:
            log.warning("Job %s was no longer ours; its outcome is dropped", job.job_id, extra=tag)
        elif isinstance(outcome, Completed):
            log.info("Job %s completed", job.job_id, extra=tag)
        elif isinstance(outcome, Failed):
            again = (
                f"; again at {settled.next_retry_at:%H:%M:%S}" if settled.next_retry_at is not None else ""
            )
            log.warning(
                "Job %s: attempt %d of %d: %s: %s%s",
                job.job_id,
                job.attempt,
                job.max_attempts,
                outcome.error_class.value,
                outcome.message,
                again,
                extra=tag,
            )
        else:
            log.info("Job %s is handed back", job.job_id, extra=tag)

    # The lease

    async def _beat(self) -> None:
        tries = 0
        while True:
            # Never later than usual: once the database is back, there is little of the lease left.
            pause = min(self._options.heartbeat, retry_delay(tries)) if tries else self._options.heartbeat
            with anyio.move_on_after(pause):
                await self._beat_now.wait()
            self._beat_now = anyio.Event()
            self._last_turn = time.monotonic()
            try:
                if not self._is_registered:
                    await self._register()
                    self._wake()
                worker = self._id
                held = self._held()
                asked = time.monotonic()
                beat = await self._pulse.heartbeat(worker, self._lease, draining=self._draining, held=held)
                self._outage.ended()
                tries = 0
                if beat.alive:
                    self._last_beat = asked  # the lease counts from when the server got it, at the earliest
                    self._heed(beat, {job.id: job.claim for job in held})
                else:
                    self._lease_lost(worker)
            except LOOP_ERRORS as error:
                tries += 1
                self._outage.failed(error)

    def _heed(self, beat: Heartbeat, asked: Mapping[UUID, int]) -> None:
        if self._suspended:
            self._suspended = False
            log.info("The lease still holds; claiming again")
            self._wake()
        for job in beat.taken:
            # Under the claim that we asked about: what we claimed again since is ours.
            self._slots.stop(job, asked[job], "cancelled" if job in beat.cancelled else "taken")
        if beat.slots and self._steering.scale(beat.slots):
            self._appetite.heard()
            self._wake()
        if command := self._steering.asked(self._id, beat):
            self._obey(command)
        # After an outage every lease has run out. Who is back first leaves the others the time to say that
        # they live: what they hold is running, or finished and only to be written.
        if beat.rescue_due and self._outage.seconds_since() > self._options.lease:
            self._maintenance.rescue_soon()

    def _obey(self, command: Command) -> None:
        if command is Command.DRAIN_NOW:
            self._hurry.set()
        self._begin_drain()

    async def _watch_lease(self) -> None:
        """Stop calling providers as soon as the lease is over, whatever a heartbeat under way waits for."""
        while True:
            left = self._last_beat + self._options.lease - time.monotonic()
            if left <= 0 and not self._suspended:
                self._suspend()
            await anyio.sleep(left if left > 0 else self._options.heartbeat)

    def _is_suspended(self) -> bool:
        return self._suspended

    def _suspend(self) -> None:
        """Without a heartbeat for a lease, others may be running our jobs."""
        self._suspended = True
        running = len(self._slots.attempts)
        log.warning("No heartbeat for %.0f s: stopping %d jobs", self._options.lease, running)
        self._slots.stop_all("handed_back")  # written if the lease turns out to hold, dropped if not

    def _lease_lost(self, worker: UUID) -> None:
        """The incarnation `worker` was declared lost: its jobs belong to others. Come back as a new one."""
        if worker != self._id or not self._is_registered:
            return  # the other loop heard of it first
        self._id = uuid4()
        self._is_registered = False  # the heartbeat loop registers, and tries again while it cannot
        self._claim_unsure = False
        dropped = self._outbox.drop(worker)
        stopped = len(self._slots.attempts)
        self._slots.stop_all("taken")
        log.warning(
            "Worker %s lost its lease: %d jobs stopped, %d outcomes dropped", worker, stopped, dropped
        )
        self._beat_now.set()

    def _held(self) -> list[Job]:
        newest: dict[UUID, Job] = {}
        for job in (*self._slots.held(self._id), *self._outbox.held()):
            if job.id not in newest or newest[job.id].claim < job.claim:
                newest[job.id] = job
        return list(newest.values())

    # Ending

    def _begin_drain(self) -> None:
        self._draining = True
        self._drain_begun.set()
        if self._claim_scope is not None:
            self._claim_scope.deadline = anyio.current_time() + CLAIM_GRACE_S
        self._slots.return_waiting("handed back by a worker that drains")
        self._wake()

    def _start_anew(self) -> None:
        """A job does not stop although its time is over: only another process has that slot again."""
        if not self._draining:
            self._steering.wants_restart = True  # it may stop yet; who drains in order is not started again
            self._begin_drain()

    async def _finish_jobs(self) -> None:
        """Let running jobs finish within the shutdown timeout, then tell them to stop."""
        with anyio.move_on_after(self._options.shutdown_timeout):
            async with anyio.create_task_group() as waiting:
                waiting.start_soon(self._cut_short, waiting.cancel_scope)
                await self._slots.until_done()
                waiting.cancel_scope.cancel()
        for grace in (STOP_GRACE_S, LAST_GRACE_S):
            # Told again, a job no longer waits for the database to take what the provider answered.
            self._slots.stop_all("handed_back")
            with anyio.move_on_after(grace):
                await self._slots.until_done()

    async def _cut_short(self, scope: anyio.CancelScope) -> None:
        await self._hurry.wait()
        scope.cancel()

    async def _leave_behind(self) -> None:
        """Jobs do not stop, in a thread perhaps: write what there is, give up the lease, end the process."""
        left = [attempt for attempt in self._slots.attempts.values() if not attempt.is_given_up]
        if left:
            names = ", ".join(sorted(attempt.job.job_id for attempt in left))
            log.error("Jobs do not stop and will be rescued: %s", names)
        await self._write_outcomes()
        await self._leave()
        if self._options.end_process is not None:
            self._options.end_process()

    async def _leave(self) -> None:
        empty = not self._held() and not self._outbox.has_lost_outcomes
        with anyio.move_on_after(LEAVE_S), contextlib.suppress(*LOOP_ERRORS):
            await self._pulse.leave(self._id, empty=empty)

    async def _write_outcomes(self) -> None:
        limit = WRITE_S if self._hurry.is_set() else max(self._options.shutdown_timeout, WRITE_S)
        with anyio.move_on_after(limit) as timer:
            await self._outbox.wait_empty()
        if timer.cancelled_caught:
            log.error(
                "%d outcomes could not be written; their jobs will be rescued", len(self._outbox.held())
            )

    # Wake-up calls

    def _wake(self) -> None:
        self._changed.set()

    def _heard_jobs(self, job_type: str) -> None:
        if not job_type or job_type in self._types:
            self._appetite.heard(job_type)
            self._appetite.look_soon()
            self._wake()

    def _heard_worker(self, worker: str) -> None:
        if worker == str(self._id):
            self._beat_now.set()


def only_provider(job_type: JobType) -> str:
    """The provider that all steps of a type's chain call; '' if there is none, or more than one.

    While it is paused or at its limit, jobs of the type are not claimed: they could only wait.
    """
    names = set(job_type.providers)
    return names.pop() if len(names) == 1 else ""


async def _close_pool(pool: asyncpg.Pool[asyncpg.Record]) -> None:
    with anyio.move_on_after(CLOSE_S, shield=True) as timer:
        await pool.close()
    if timer.cancelled_caught:
        pool.terminate()
