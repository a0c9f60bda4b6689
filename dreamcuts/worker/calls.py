"""A job's rows in `dreamcut_provider_calls`, as the job sees them (the CallLog protocol)."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import anyio

from dreamcuts.errors import CallRefused, ErrorClass, JobError, ProviderError
from dreamcuts.jobs.base import Job, MadeBefore, OpenCall
from dreamcuts.jobs.reuse import identity_of, request_hash
from dreamcuts.log import redacted
from dreamcuts.providers import prices
from dreamcuts.providers.base import Ticket
from dreamcuts.providers.registry import load_providers
from dreamcuts.queue.store import Store
from dreamcuts.worker.observer import NOBODY, WorkerObserver
from dreamcuts.worker.patience import patiently
from dreamcuts.worker.tickets import Tickets

log = logging.getLogger(__name__)

LONGEST_WAIT_S = 60.0
"""How long a call waits for a limit inside the attempt; then the job goes back to the queue unharmed."""
LONGEST_ASK_DELAY_S = 4.0
CLOSE_GRACE_S = 10.0
ANSWERS_WITHIN_S = 60.0
"""How long a provider's `submit` may take that does not say so itself (`answers_within_s`)."""
ANSWER_SLACK_S = 15.0
"""Added to that, for connecting and for the way of the ticket into its row."""
LOOK_AGAIN_S = 0.05
"""Between two looks at a lease that is over, until a heartbeat is answered or the job is stopped."""
LIMIT, SPEND_LIMIT, PAUSED = "DC002", "DC003", "DC004"


def unlimited() -> float:
    """The lease of whoever has none."""
    return math.inf


class StoredCalls:
    """CallLog over Postgres. Beginning a call is fenced; what is known about one is always written down.

    A statement that fails for want of the database is tried again: between a provider's answer and its row
    lies paid work. `price_missing` is the setting of that name; `tickets` are those of the whole process;
    `lease_left` says how many seconds of the worker's lease are left.
    """

    def __init__(
        self,
        store: Store,
        worker: UUID,
        job: Job,
        price_missing: str = "allow",
        observer: WorkerObserver = NOBODY,
        tickets: Tickets | None = None,
        redact: Callable[[str], str] = str,
        lease_left: Callable[[], float] = unlimited,
    ) -> None:
        self._store = store
        self._worker = worker
        self._job = job
        self._price_missing = price_missing
        self._observer = observer
        self._tickets = tickets or Tickets(store)
        self._redact = redact
        self._lease_left = lease_left
        self._closed: set[UUID] = set()

    async def open_calls(self) -> list[OpenCall]:
        """Calls of earlier attempts that still have no outcome, oldest first.

        A ticket that this process has, and that is still on its way into its row, is there.
        """
        on_their_way = self._tickets.of(self._job.id)  # asked first: one may arrive while we read the rows
        rows = await patiently(lambda: self._store.open_calls(self._job.id))
        on_their_way |= self._tickets.of(self._job.id)
        return [_open_call(row, on_their_way.get(row["id"])) for row in rows]

    async def made_calls(self) -> list[OpenCall]:
        """Calls of earlier attempts that succeeded, and whose ticket is known; latest first."""
        calls = [_call(row) for row in await patiently(lambda: self._store.made_calls(self._job.id))]
        self._closed |= {call.id for call in calls}
        return calls

    async def begin(
        self,
        provider: str,
        endpoint: str,
        *,
        request: Mapping[str, Any],
        step: int = 0,
        estimate_usd: float | None = None,
        identity: Mapping[str, Any] | None = None,
    ) -> UUID:
        """Record the intent, before the request goes out; wait for a limit. Raises LeaseLost, JobError."""
        estimate = _amount(estimate_usd)
        if estimate is None and self._price_missing == "refuse":
            self._check_price(provider, endpoint)
        hashed = request_hash(provider, endpoint, identity_of(request, identity, self._job.payload))
        wanted = uuid4()  # one id for all tries: an answer may be lost although the call was admitted
        deadline = anyio.current_time() + LONGEST_WAIT_S
        asked = 0
        while True:
            try:
                call = await self._ask(wanted, provider, endpoint, request, step, estimate, hashed)
                self._observer.call_began(self._job, call, provider, endpoint)
                return call
            except CallRefused as refused:
                if refused.kind != LIMIT:
                    raise _job_error(refused, provider) from None
                asked += 1
                delay = _ask_delay(refused, asked)
                if anyio.current_time() + delay > deadline:
                    raise _job_error(refused, provider) from None
            await anyio.sleep(delay)

    async def may_send(self, call: UUID) -> None:
        """Return when the request of `call` may leave: at once, unless this process slept past its lease.

        Then others may have the job by now, and have paid for it. The next heartbeat tells: it is answered,
        and the job is still ours, or the job is stopped while it waits here.
        """
        if self._lease_left() > 0:
            return
        log.warning("Job %s: the lease ran out before its request was sent", self._job.job_id)
        while self._lease_left() <= 0:  # noqa: ASYNC110  (it is over by the clock, which sets no event)
            await anyio.sleep(LOOK_AGAIN_S)

    async def made_before(
        self, provider: str, endpoint: str, identity: Mapping[str, Any]
    ) -> MadeBefore | None:
        """A finished job of the same user (or manifest) that made the same request; None if there is none."""
        hashed = request_hash(provider, endpoint, identity)
        row = await patiently(lambda: self._store.find_reusable(self._job.id, hashed))
        if row is None:
            return None
        cost = None if row["usd"] is None else float(row["usd"])
        return MadeBefore(
            row["job"], row["manifest_id"], row["job_id"], row["result"] or {}, row["output_url"], cost
        )

    async def reused(
        self,
        provider: str,
        endpoint: str,
        made: MadeBefore,
        *,
        request: Mapping[str, Any],
        identity: Mapping[str, Any],
        step: int = 0,
        saved_usd: float | None = None,
    ) -> None:
        """Enter a call that was not made because `made` is there. Raises LeaseLost."""
        await patiently(
            lambda: self._store.reuse_call(
                self._worker,
                self._job,
                provider=provider,
                endpoint=endpoint,
                step=step,
                request=request,
                request_hash=request_hash(provider, endpoint, identity),
                made_by=made.job,
                saved_usd=_amount(saved_usd),
            )
        )

    async def submitted(self, call: UUID, ticket: Ticket) -> None:
        """Record the provider's request id. It is recorded also if the job is stopped meanwhile."""
        await self._tickets.keep(self._job.id, call, ticket)

    async def finish(
        self,
        call: UUID,
        status: str,
        *,
        cost_usd: float | None = None,
        error: str | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Close the call. One of `made_calls` is closed already, and stays as it is."""
        if call in self._closed:
            return
        cost = _amount(cost_usd)
        # Whatever a provider answered may hold the key that it was sent.
        said = None if error is None else self._redact(error)
        told = None if detail is None else redacted(dict(detail), self._redact)
        await patiently(lambda: self._store.finish_call(call, status, cost_usd=cost, error=said, detail=told))
        self._observer.call_ended(self._job, call, status, cost)

    def _check_price(self, provider: str, endpoint: str) -> None:
        if prices.price_of(provider, endpoint) is None:
            raise JobError(
                f"The price of {provider} {endpoint} is not known, and PRICE_MISSING is refuse. "
                "Add it to the price table, or set PRICE_MISSING=allow.",
                error_class=ErrorClass.SPEND_LIMIT,
                try_next=True,
            )

    async def _ask(
        self,
        call: UUID,
        provider: str,
        endpoint: str,
        request: Mapping[str, Any],
        step: int,
        estimate: float | None,
        hashed: str,
    ) -> UUID:
        """Ask once. A job that is stopped meanwhile leaves no call behind: its request never went out."""

        async def ask() -> UUID:
            return await patiently(
                lambda: self._store.begin_call(
                    self._worker,
                    self._job,
                    provider=provider,
                    endpoint=endpoint,
                    step=step,
                    request=request,
                    estimate_usd=estimate,
                    request_hash=hashed,
                    call=call,
                )
            )

        asking = asyncio.ensure_future(ask())
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            with anyio.CancelScope(shield=True):
                await asyncio.wait({asking}, timeout=CLOSE_GRACE_S)
                if not asking.done():
                    asking.cancel()
                elif not asking.cancelled() and asking.exception() is None:
                    with anyio.move_on_after(CLOSE_GRACE_S):
                        await self.finish(
                            asking.result(), "cancelled", error="stopped before the request was sent"
                        )
            raise


def _call(row: Mapping[str, Any]) -> OpenCall:
    return OpenCall(
        id=row["id"],
        provider=row["provider"],
        endpoint=row["endpoint"],
        request=row["request"],
        ticket=None if row["request_id"] is None else Ticket(row["request_id"], row["ticket"]),
        step=row["step"],
    )


def _open_call(row: Mapping[str, Any], on_its_way: Ticket | None) -> OpenCall:
    call = _call(row)
    return replace(
        call,
        ticket=call.ticket or on_its_way,
        claim=row["claim"],
        answer_due_s=max(0.0, _answers_within(call.provider) - row["age_s"]) if row["worker_lives"] else 0.0,
        wanted=row["wanted"],
    )


def _answers_within(provider: str) -> float:
    """Until which age of an intent its worker, if it lives, may still be waiting for the provider's answer.

    0 for a provider that hands out no tickets: an attempt that was stopped has dropped its call.
    """
    made = load_providers().get(provider)
    if made is None or not hasattr(made, "submit"):
        return 0.0
    return float(getattr(made, "answers_within_s", ANSWERS_WITHIN_S)) + ANSWER_SLACK_S


def _job_error(refused: CallRefused, provider: str) -> JobError:
    """What a refusal means for the job."""
    info = {"provider": provider, **refused.info}
    message = f"{refused}."
    if refused.kind == SPEND_LIMIT:
        return JobError(message, error_class=ErrorClass.SPEND_LIMIT, try_next=True, detail=info)
    wait = float(info.get("wait_s") or 1)
    if refused.kind == LIMIT:
        return JobError(
            message,
            error_class=ErrorClass.RATE_LIMITED,
            retry_after=wait * random.uniform(1, 1.5) + random.uniform(0, 5),
            detail=info,
        )
    return ProviderError(
        message,
        provider=provider,
        error_class=ErrorClass.PAUSED,
        # Spread out, so that not all of them come back in one moment.
        retry_after=wait + random.uniform(0, min(30.0, 2 + wait / 5)),
        try_next=True,
        detail=info,
    )


def _ask_delay(refused: CallRefused, asked: int) -> float:
    """Seconds until it is worth asking again: when a call leaves the minute, or a little longer each time."""
    wait = float(refused.info.get("wait_s") or 1)
    if refused.info.get("reason") == "per_minute":
        return wait + random.uniform(0.05, 0.5)
    return random.uniform(0.5, 1.0) * min(LONGEST_ASK_DELAY_S, 0.4 * 1.5**asked)


def _amount(usd: float | None) -> float | None:
    """An amount that the ledger can take; None for none, and for what is no amount."""
    return None if usd is None or not math.isfinite(usd) or usd < 0 else usd
