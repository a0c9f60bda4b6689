"""The lease of this process' incarnation: taken, kept by heartbeats, watched, lost, given up.

A worker's jobs are its own for as long as the database has heard of it within the lease. The heartbeat
extends it, has a connection of its own, and never waits for a lock, a job or another loop. When the database
was silent for a lease, others may have the jobs: what runs is stopped, and outcomes are kept until a later
heartbeat tells whether the lease was declared lost. If it was, the process comes back as a new incarnation,
with another uuid.

Of jobs, slots and outcomes this module knows nothing. It asks what is held, and tells what became of the
lease, through the callables that it is given.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from uuid import UUID, uuid4

import anyio

from dreamcuts.jobs.base import Job, JobType
from dreamcuts.queue.models import Heartbeat
from dreamcuts.queue.outage import Outage, retry_delay
from dreamcuts.queue.store import Store
from dreamcuts.worker.options import WorkerOptions
from dreamcuts.worker.patience import LOOP_ERRORS
from dreamcuts.worker.steering import Steering

log = logging.getLogger(__name__)

LEAVE_S = 5.0
"""How long saying goodbye to the database may take."""


class Lease:
    """`worker` is the uuid of this incarnation, `last_beat` the (monotonic) time from which the lease counts.

    `held()` are the jobs that a heartbeat asks about, `is_running()` says whether more are being claimed.
    `on_kept()`: the lease is there, for the first time or after all. `on_beat(beat, held)` hears each answer
    about the jobs that it was asked about. `on_silence()`: the lease is over by our clock, and others may be
    running our jobs. `on_lost(worker)`: it was declared lost; `worker` is the incarnation that had it.
    They are called in the event loop, and must not wait.
    """

    def __init__(
        self,
        types: Mapping[str, JobType],
        options: WorkerOptions,
        steering: Steering,
        outage: Outage,
        *,
        held: Callable[[], list[Job]],
        is_running: Callable[[], bool],
        on_kept: Callable[[], None],
        on_beat: Callable[[Heartbeat, Sequence[Job]], None],
        on_silence: Callable[[], None],
        on_lost: Callable[[UUID], None],
    ) -> None:
        self.worker = uuid4()
        self.is_registered = False
        self.is_suspended = False
        """Whether the lease ran out by our clock, and no heartbeat has told yet whether it still holds."""
        self.last_beat = time.monotonic()
        self._last_turn = time.monotonic()
        self._beat_now = anyio.Event()
        self._turn = anyio.Lock()
        self._has_left = False
        self._length = timedelta(seconds=options.lease)
        self._types = types
        self._options = options
        self._steering = steering
        self._outage = outage
        self._held = held
        self._is_running = is_running
        self._on_kept = on_kept
        self._on_beat = on_beat
        self._on_silence = on_silence
        self._on_lost = on_lost

    def open(self, store: Store) -> None:
        """Where it is kept; nobody else may use this store's connection."""
        self._store = store

    # How it stands

    def left(self) -> float:
        """Seconds of the lease that are left, as far as we know: the last heartbeat may have been lost."""
        return self.last_beat + self._options.lease - time.monotonic()

    def silence(self) -> float:
        """Seconds since the database last answered a heartbeat."""
        return time.monotonic() - self.last_beat

    def is_beating(self) -> bool:
        """Whether the heartbeat loop turns. True also while the database is away: no restart mends that."""
        # A turn has two statements at most, each of which gives up after a fifth of the lease.
        return time.monotonic() - self._last_turn < self._options.heartbeat + self._options.lease

    # Taking, keeping and losing it

    async def take(self) -> None:
        """Register this incarnation, with the slots that it serves. Raises what the store raises."""
        providers = {name: only_provider(job_type) for name, job_type in self._types.items()}
        asked = time.monotonic()
        slots = await self._store.register(self.worker, self._options.slots, self._length, providers)
        if self._steering.scale(slots):
            self._beat_now.set()  # the row still says what we were started with
        self.is_registered = True
        self.is_suspended = False
        self.last_beat = asked
        served = ", ".join(f"{self._types[name].short_name}:{n}" for name, n in self._steering.slots.items())
        log.info("Worker %s serves %s", self.worker, served)

    def beat_soon(self) -> None:
        """Do not wait for the next heartbeat's time."""
        self._beat_now.set()

    async def keep(self) -> None:
        """Send heartbeats until cancelled, or the lease is given up."""
        tries = 0
        while True:
            # Never later than usual: once the database is back, there is little of the lease left.
            pause = min(self._options.heartbeat, retry_delay(tries)) if tries else self._options.heartbeat
            with anyio.move_on_after(pause):
                await self._beat_now.wait()
            self._beat_now = anyio.Event()
            self._last_turn = time.monotonic()
            try:
                async with self._turn:
                    if self._has_left:
                        return
                    await self._beat()
                tries = 0
            except LOOP_ERRORS as error:
                tries += 1
                self._outage.failed(error)

    async def _beat(self) -> None:
        """One heartbeat. Raises what the store raises."""
        if not self.is_registered:
            await self.take()
            self._on_kept()
        worker = self.worker
        held = self._held()
        asked = time.monotonic()
        beat = await self._store.heartbeat(worker, self._length, draining=not self._is_running(), held=held)
        self._outage.ended()
        if beat.alive:
            self.last_beat = asked  # the lease counts from when the server got it, at the earliest
            self._go_on()
            self._on_beat(beat, held)
        else:
            self.lost(worker)

    def _go_on(self) -> None:
        if self.is_suspended:
            self.is_suspended = False
            log.info("The lease still holds; claiming again")
            self._on_kept()

    async def watch(self) -> None:
        """Stop calling providers as soon as the lease is over, whatever a heartbeat under way waits for."""
        while True:
            left = self.left()
            if left <= 0 and not self.is_suspended:
                self.is_suspended = True
                self._on_silence()
            await anyio.sleep(left if left > 0 else self._options.heartbeat)

    def lost(self, worker: UUID) -> None:
        """The incarnation `worker` was declared lost: its jobs belong to others. Come back as a new one."""
        if worker != self.worker or not self.is_registered:
            return  # the other loop heard of it first
        self.worker = uuid4()
        self.is_registered = False  # the heartbeat loop registers, and tries again while it cannot
        self._on_lost(worker)
        self._beat_now.set()

    async def leave(self, *, empty: bool) -> None:
        """Give it up. `empty`: nothing is held any more, so there is nothing to rescue."""
        self._has_left = True
        with anyio.move_on_after(LEAVE_S), contextlib.suppress(*LOOP_ERRORS):
            async with self._turn:  # a heartbeat after it would take the lease again
                await self._store.leave(self.worker, empty=empty)


def only_provider(job_type: JobType) -> str:
    """The provider that all steps of a type's chain call; '' if there is none, or more than one.

    While it is paused or at its limit, jobs of the type are not claimed: they could only wait.
    """
    names = set(job_type.providers)
    return names.pop() if len(names) == 1 else ""
