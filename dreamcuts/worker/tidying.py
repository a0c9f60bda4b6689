"""Moving what ended long ago out of the way: a step that any worker takes, one at a time in a database.

Each batch is a transaction of its own and short; after it the step rests as long as it worked. It locks
nothing that a claim or an outcome needs.
"""

from __future__ import annotations

import logging
import random
import time
from datetime import timedelta

import anyio
import asyncpg

from dreamcuts.db.address import first_line
from dreamcuts.db.pool import RETRY_ERRORS
from dreamcuts.queue.store import Store

log = logging.getLogger(__name__)

EVERY_S = 60.0
LONGEST_RUN_S = 20.0
"""How long a worker goes on when there is more to move; another one may take over."""
BATCH = 100
"""Manifests, and jobs without a manifest, in one transaction."""


async def keep_tidy(
    store: Store, after: timedelta | None, failed_after: timedelta | None, *, every_s: float = EVERY_S
) -> None:
    """Archive jobs until cancelled: those completed `after` ago, failed `failed_after` ago; None: never.

    A database that is away is for the other loops to report. A role that may not make tables archives
    nothing: `dreamcuts db archive` does, run by the tables' owner.
    """
    if after is None and failed_after is None:
        return
    while True:
        await anyio.sleep(every_s * random.uniform(0.5, 1.5))
        try:
            if moved := await archive_due(store, after, failed_after):
                log.info("Archived %d jobs that ended long ago", moved)
        except RETRY_ERRORS as error:
            log.debug("The archive has to wait: %s", first_line(error))
        except asyncpg.InsufficientPrivilegeError as error:
            log.warning(
                "This role cannot archive old jobs (%s): run `dreamcuts db archive`", first_line(error)
            )
            return
        except asyncpg.PostgresError as error:
            log.warning("Old jobs could not be archived: %s", first_line(error))


async def archive_due(
    store: Store, after: timedelta | None, failed_after: timedelta | None, *, longest_s: float = LONGEST_RUN_S
) -> int:
    """Move what is due, in batches, for `longest_s` seconds at most; returns the number of jobs moved."""
    started = time.monotonic()
    moved = 0
    while time.monotonic() - started < longest_s:
        begun = time.monotonic()
        batch = await store.archive(after, failed_after, BATCH)
        moved += batch.jobs
        if not batch.more:
            break
        await anyio.sleep(time.monotonic() - begun)
    return moved
