"""The claim loop: asks the queue for jobs as slots are free, and sleeps while there is no reason to ask.

claiming.py decides what to ask for, slots.py runs what comes. Here is when: after a notification, a freed
slot, an outcome that was written, or the next poll; not while the lease is in doubt, nor while outcomes pile
up, nor once the worker drains.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import anyio

from dreamcuts.errors import LeaseLost
from dreamcuts.jobs.base import Job
from dreamcuts.queue.models import Settled
from dreamcuts.queue.outage import Outage, retry_delay
from dreamcuts.queue.outbox import Outbox
from dreamcuts.queue.store import Store
from dreamcuts.worker.claiming import Appetite
from dreamcuts.worker.ending import Ending
from dreamcuts.worker.lease import Lease
from dreamcuts.worker.observer import WorkerObserver
from dreamcuts.worker.options import WorkerOptions
from dreamcuts.worker.patience import LOOP_ERRORS
from dreamcuts.worker.slots import Slots

log = logging.getLogger(__name__)

PROMOTED_AT_ONCE = 1000
"""Delayed jobs that are made ready in one transaction, at most."""
MOST_PROMOTIONS = 10
"""Such transactions after one look, at most."""
CLAIM_GRACE_S = 5.0
"""How long a claim under way may take once the worker drains."""


class ClaimLoop:
    """Claims under `lease` for `slots`, until `ending` has begun. `held()` are the jobs that are here."""

    def __init__(
        self,
        options: WorkerOptions,
        slots: Slots,
        lease: Lease,
        ending: Ending,
        outage: Outage,
        observer: WorkerObserver,
        *,
        held: Callable[[], list[Job]],
    ) -> None:
        self._types = list(slots.lanes)
        self._options = options
        self._slots = slots
        self._lease = lease
        self._ending = ending
        self._outage = outage
        self._observer = observer
        self._held = held
        self._appetite = Appetite(slots, options.poll_interval)
        self._changed = anyio.Event()
        self._unsure = False
        self._waits_for_outbox = False
        self._suspected = False
        self._scope: anyio.CancelScope | None = None

    def open(self, store: Store, outbox: Outbox, hears: Callable[[], bool]) -> None:
        """Where jobs come from, and their outcomes go to. `hears()`: notifications arrive."""
        self._store = store
        self._outbox = outbox
        self._hears = hears

    # Reasons to go on

    def wake(self) -> None:
        """Something has changed: look whether there is a reason to claim."""
        self._changed.set()

    def scaled(self) -> None:
        """There are other slots."""
        self._appetite.heard()
        self.wake()

    def heard(self, job_type: str) -> None:
        """A notification: something of the type, or of any if it is '', may be ready."""
        if not job_type or job_type in self._types:
            self._appetite.heard(job_type)
            self._appetite.look_soon()
            self.wake()

    def has_room(self, name: str, at_once: bool) -> None:
        """A slot of the type is free."""
        if not at_once:
            self._appetite.one_ended()
        if self._ending.has_begun or self._options.until_idle or self._appetite.wants(name):
            self.wake()

    def settled(self, settled: Settled) -> None:
        """An outcome was written, or refused."""
        if self._waits_for_outbox:
            self._waits_for_outbox = False
            self.wake()
        if not self._hears() or settled.outcome.job.is_suspect:
            self._appetite.heard()  # of what it freed, nobody else will tell
            self.wake()
        elif settled.next_retry_at is not None:
            self._appetite.look_soon()  # for when it comes due
            self.wake()
        elif self._options.until_idle:
            self.wake()

    # Reasons not to

    def forget(self) -> None:
        """The incarnation that made the last claim is lost: what it brought is rescued."""
        self._unsure = False

    def end_soon(self) -> None:
        """The worker drains: do not wait for the claim under way for long."""
        if self._scope is not None:
            self._scope.deadline = anyio.current_time() + CLAIM_GRACE_S

    # The loop

    async def run(self) -> None:
        """Claim until the worker drains, or, if it works until it is idle, nothing is left to do."""
        tries = 0
        while not self._ending.has_begun:
            self._changed = anyio.Event()
            worker = self._lease.worker
            try:
                if await self._turn() is not None:
                    tries = 0
                    continue  # perhaps there is room for more
                if self._options.until_idle and await self._is_idle():
                    return
            except LeaseLost:
                self._lease.lost(worker)
                continue
            except LOOP_ERRORS as error:
                tries += 1
                self._unsure = True
                self._outage.failed(error)
                with anyio.move_on_after(retry_delay(tries)):
                    await self._ending.wait_hurried()
                continue
            tries = 0
            with anyio.move_on_after(self._appetite.seconds_to_look()):
                await self._changed.wait()

    async def _turn(self) -> int | None:
        """Look and claim, as far as there is reason to; returns how many jobs a claim brought."""
        if not self._may_claim():
            await self._changed.wait()
            return None
        with anyio.CancelScope() as self._scope:
            await self._look()
            return await self.claim()
        return None  # draining; what a claim brought without our hearing of it is handed back when we leave

    def _may_claim(self) -> bool:
        return self._options.claim and self._lease.is_registered and not self._lease.is_suspended

    async def _look(self) -> None:
        """See for ourselves whether something is ready, if it is time to."""
        if self._appetite.seconds_to_look() > 0:
            return
        # That it answers is no sign of the end of an outage: so does a database that takes no writes.
        found = await self._store.look(self._appetite.unknown())
        self._appetite.looked(found, hears=self._hears())
        if found.due_s is not None and found.due_s <= 0 and not self._appetite.will_promote():
            # We have no room for it, or enough to do; others may not, and are woken.
            for _ in range(MOST_PROMOTIONS):
                if await self._store.promote(PROMOTED_AT_ONCE) < PROMOTED_AT_ONCE:
                    break

    async def claim(self) -> int | None:
        """Make one claim, if there is reason to; returns how many jobs it brought."""
        worker = self._lease.worker
        if self._unsure:
            # The last claim may have been committed although its answer never came: those jobs would be
            # ours for as long as we live, and nobody would run them.
            if returned := await self._store.return_unheld(worker, self._held()):
                log.warning("Handed back %d jobs whose claim was not answered", len(returned))
            self._unsure = False
        # Claims are quicker than outcomes: without this, what is done and not written would grow without end.
        self._waits_for_outbox = self._outbox.is_behind()
        asked = None if self._ending.has_begun or self._waits_for_outbox else self._appetite.ask()
        if asked is None:
            return None
        claimed = await self._store.claim(
            worker, asked.lookouts, waits=asked.waits, may_take_suspect=not self._holds_a_suspect()
        )
        self._observer.claimed(len(claimed), time.monotonic() - asked.at)
        self._outage.ended()
        if worker != self._lease.worker:
            return 0  # lost meanwhile: they are being rescued
        self._appetite.got(asked, claimed)
        self._suspected = self._suspected or any(job.is_suspect for job in claimed)
        self._slots.admit(worker, claimed)
        if self._lease.is_suspended or self._ending.has_begun:
            self._slots.return_waiting("claimed by a worker that stopped")  # while the answer was on its way
        return len(claimed)

    def _holds_a_suspect(self) -> bool:
        """Whether a job is here, or its outcome not written yet, with which workers have died."""
        # Looked through only while there is one: this is asked at every claim.
        self._suspected = self._suspected and any(job.is_suspect for job in self._held())
        return self._suspected

    async def _is_idle(self) -> bool:
        if not self._appetite.is_stilled() or not self._slots.is_empty() or self._outbox.held():
            return False
        return not await self._store.is_unfinished(self._types)
