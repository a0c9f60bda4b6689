"""Tickets on their way into Postgres: what is paid must not be forgotten while the database is away.

A ticket stands between a provider's answer and its row. It is kept here for as long as the process lives,
whatever becomes of the job that got it: the job may be stopped, handed back, and claimed again before the
database takes the ticket.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from uuid import UUID

import anyio
import asyncpg

from dreamcuts.db.address import first_line
from dreamcuts.db.pool import RETRY_ERRORS
from dreamcuts.providers.base import Ticket
from dreamcuts.queue.outage import retry_delay
from dreamcuts.queue.store import Store

log = logging.getLogger(__name__)

LONGEST_DELAY_S = 1.0
"""Shorter than what an outcome waits between its tries: the ticket should be there first."""
FLUSH_S = 5.0
_TRY_AGAIN = (*RETRY_ERRORS, asyncpg.SyntaxOrAccessError)
"""Also a function that a migration is replacing."""


@dataclass(frozen=True, slots=True)
class _Kept:
    job: UUID
    ticket: Ticket
    storing: asyncio.Task[None]


class Tickets:
    """The tickets of one worker process that are not stored yet."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: dict[UUID, _Kept] = {}

    def has(self, job: UUID) -> bool:
        """Whether a ticket of the job is not in its row yet."""
        return bool(self._kept) and any(kept.job == job for kept in self._kept.values())

    def of(self, job: UUID) -> dict[UUID, Ticket]:
        """The job's tickets that are not in their rows yet, by call."""
        return {call: kept.ticket for call, kept in self._kept.items() if kept.job == job}

    async def keep(self, job: UUID, call: UUID, ticket: Ticket) -> None:
        """Store a ticket, and return when it is. It is kept and stored also if the caller is cancelled.

        Raises what Postgres says to a ticket that it can never take.
        """
        storing = asyncio.ensure_future(self._persist(call, ticket))
        self._kept[call] = _Kept(job, ticket, storing)
        storing.add_done_callback(lambda task: self._forget(call, task))
        await asyncio.shield(storing)

    async def stored(self, job: UUID) -> None:
        """Return when no ticket of the job is on its way any more."""
        while waiting := {kept.storing for kept in self._kept.values() if kept.job == job}:
            await asyncio.wait(waiting)

    async def aclose(self, limit_s: float = FLUSH_S) -> None:
        """Store what is left, for at most `limit_s` seconds. What remains stands in the log alone."""
        if not self._kept:
            return
        with anyio.CancelScope(shield=True):
            await asyncio.wait({kept.storing for kept in self._kept.values()}, timeout=limit_s)
            left = dict(self._kept)
            for call, kept in left.items():
                log.error(
                    "Request %s of call %s could not be stored: the job's next attempt will not know it",
                    kept.ticket.request_id,
                    call,
                )
                kept.storing.cancel()
            if left:
                await asyncio.wait({kept.storing for kept in left.values()})

    async def _persist(self, call: UUID, ticket: Ticket) -> None:
        tries = 0
        while True:
            try:
                await self._store.submitted_call(call, ticket.request_id, ticket.detail)
                return
            except (ValueError, TypeError) as error:  # asyncpg could not encode a value; it never will
                self._give_up(call, ticket, error)
                raise
            except _TRY_AGAIN as error:
                tries += 1
                if tries == 1:
                    # With the request's id: should this process die now, nothing else would tell it.
                    log.warning(
                        "Request %s of call %s is accepted, but cannot be stored yet (%s); trying again",
                        ticket.request_id,
                        call,
                        first_line(error),
                    )
                await anyio.sleep(min(retry_delay(tries), LONGEST_DELAY_S))
            except asyncpg.PostgresError as error:
                self._give_up(call, ticket, error)
                raise

    def _give_up(self, call: UUID, ticket: Ticket, error: Exception) -> None:
        reason = f"{type(error).__name__}: {first_line(error)}"
        log.error("Request %r of call %s cannot be stored: %s", ticket.request_id, call, reason)

    def _forget(self, call: UUID, task: asyncio.Task[None]) -> None:
        self._kept.pop(call, None)
        if not task.cancelled():
            task.exception()  # taken here: whoever waited for it may be gone
