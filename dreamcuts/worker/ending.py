"""The end of a worker: how long its jobs may go on once it drains, and its outcomes may take to be written.

A drain has begun when nothing more is claimed. Jobs then have the shutdown timeout to finish; after it, or
once somebody is in a hurry, they are told to stop. What still runs when their grace is over is left to the
rescue.
"""

from __future__ import annotations

import logging

import anyio

from dreamcuts.queue.outbox import Outbox
from dreamcuts.worker.slots import Slots

log = logging.getLogger(__name__)

STOP_GRACE_S = 15.0
"""How long jobs that were told to stop may take, before the worker leaves them to the rescue."""
LAST_GRACE_S = 1.0
"""How long they may take once they are told a second time."""
WRITE_S = 5.0
"""How long writing the last outcomes may take at the least; the shutdown timeout if that is longer."""


class Ending:
    """Whether the worker drains, and how it does. `timeout_s` is the shutdown timeout."""

    def __init__(self, slots: Slots, timeout_s: float) -> None:
        self.has_begun = False
        self._slots = slots
        self._timeout_s = timeout_s
        self._begun = anyio.Event()
        self._hurried = anyio.Event()

    def begin(self) -> None:
        """From now on nothing is claimed."""
        self.has_begun = True
        self._begun.set()

    def hurry(self) -> None:
        """Jobs are to stop at once, and their outcomes to be written soon or never."""
        self._hurried.set()

    async def wait_begun(self) -> None:
        """Return when the worker drains."""
        await self._begun.wait()

    async def wait_hurried(self) -> None:
        """Return when somebody is in a hurry."""
        await self._hurried.wait()

    async def finish_jobs(self) -> None:
        """Let running jobs finish within the shutdown timeout, then tell them to stop."""
        with anyio.move_on_after(self._timeout_s):
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
        await self.wait_hurried()
        scope.cancel()

    async def write_outcomes(self, outbox: Outbox) -> None:
        """Return when the last outcomes are written, or it has taken too long."""
        limit = WRITE_S if self._hurried.is_set() else max(self._timeout_s, WRITE_S)
        with anyio.move_on_after(limit) as timer:
            await outbox.wait_empty()
        if timer.cancelled_caught:
            log.error("%d outcomes could not be written; their jobs will be rescued", len(outbox.held()))
