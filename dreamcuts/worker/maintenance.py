"""What a worker does for all: rescue, and mend what nobody else will."""

from __future__ import annotations

import logging
import random
import time

import anyio

from dreamcuts.queue.outage import Outage, retry_delay
from dreamcuts.queue.store import Store
from dreamcuts.worker.patience import LOOP_ERRORS

log = logging.getLogger(__name__)

RECONCILE_EVERY_S = 60.0
STRAYS_EVERY_S = 300.0


class Maintenance:
    """Rescues when a heartbeat says so, and mends now and then. Its statements may wait, and wait here."""

    def __init__(self, store: Store, outage: Outage) -> None:
        self._store = store
        self._outage = outage
        self._rescue_due = anyio.Event()

    def rescue_soon(self) -> None:
        """Some worker's lease ran out."""
        self._rescue_due.set()

    async def run(self) -> None:
        """Until cancelled."""
        reconcile_at = time.monotonic() + RECONCILE_EVERY_S * random.uniform(0.8, 1.2)
        strays_at = time.monotonic() + STRAYS_EVERY_S * random.uniform(0.8, 1.2)
        while True:
            with anyio.move_on_after(max(min(reconcile_at, strays_at) - time.monotonic(), 0.0)):
                await self._rescue_due.wait()
            now = time.monotonic()
            try:
                if self._rescue_due.is_set():
                    self._rescue_due = anyio.Event()
                    for rescued in await self._store.rescue():
                        log.warning(
                            "Rescued job %s from worker %s: %s", rescued.job, rescued.worker, rescued.status
                        )
                if now >= reconcile_at:
                    reconcile_at = now + RECONCILE_EVERY_S * random.uniform(0.8, 1.2)
                    if mended := await self._store.reconcile():
                        log.warning("Mended the dependents of %d jobs", mended)
                if now >= strays_at:
                    strays_at = now + STRAYS_EVERY_S * random.uniform(0.8, 1.2)
                    if strays := await self._store.return_strays():
                        log.warning("Handed back %d jobs that no worker ran", strays)
            except LOOP_ERRORS as error:
                self._outage.failed(error)
                await anyio.sleep(retry_delay(1))
