"""Closing the calls of jobs that have ended: nobody else will, and a provider may still be working for them.

A running job's own worker cancels its call (worker/attempt.py). What is left are calls of jobs that were
cancelled while they waited for their next attempt, and calls that a job which ended otherwise left open. The
latter are kept for an hour: a retry by hand may still fetch what is paid.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import anyio

from dreamcuts.db.pool import RETRY_ERRORS
from dreamcuts.jobs.paid import cancel_call
from dreamcuts.providers.base import Ticket
from dreamcuts.providers.registry import load_providers
from dreamcuts.queue.outage import Outage
from dreamcuts.worker.patience import patiently
from dreamcuts.worker.tools import Tools

log = logging.getLogger(__name__)

GRACE = timedelta(seconds=30)
"""Time for a cancelled job's own worker to cancel its call."""
KEEP = timedelta(hours=1)
EVERY_S = 60.0


async def keep_closing_abandoned_calls(tools: Tools, worker: Callable[[], UUID], outage: Outage) -> None:
    """Close abandoned calls now and then, until cancelled; `worker` gives the incarnation of the moment.

    A loop of its own: a provider that is slow to answer must not keep the worker from its heartbeat.
    """
    while True:
        await anyio.sleep(EVERY_S * random.uniform(0.8, 1.2))
        try:
            await close_abandoned_calls(tools, worker())
        except RETRY_ERRORS as error:
            outage.failed(error)
        except Exception as error:  # tidying up is no reason to stop a worker
            log.warning("Abandoned calls could not be closed: %s: %s", type(error).__name__, error)


async def close_abandoned_calls(
    tools: Tools, worker: UUID, *, grace: timedelta = GRACE, keep: timedelta = KEEP
) -> int:
    """Cancel and close open calls of jobs that have ended; returns how many. Any worker may, at any time.

    Calls of providers for which this worker has no key are left to others.
    """
    reachable = [
        name
        for name, provider in load_providers().items()
        if all(tools.settings.has(needed) for needed in provider.settings_needed)
    ]
    rows = await tools.store.take_abandoned_calls(worker, reachable, grace=grace, keep=keep)
    for row in rows:
        call: UUID = row["id"]
        ticket = None if row["request_id"] is None else Ticket(row["request_id"], row["ticket"])
        provider = tools.providers.get(row["provider"])
        status, error = await cancel_call(provider, row["endpoint"], ticket, "the job has ended")
        await patiently(
            lambda call=call, status=status, error=error: tools.store.finish_call(  # type: ignore[misc]
                call, status, cost_usd=None, error=error, detail=None
            )
        )
        log.info("Closed the open call %s at %s %s: %s", call, row["provider"], row["endpoint"], error)
    return len(rows)
