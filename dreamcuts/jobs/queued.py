"""One queued call under way: submit or pick up, poll until done, collect, close."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast
from uuid import UUID

import anyio

from dreamcuts.errors import ConfigError, ErrorClass, InvalidRequest, JobError, ProviderError
from dreamcuts.jobs.base import JobContext, OpenCall
from dreamcuts.jobs.reuse import reuse_if_made
from dreamcuts.jobs.steps import Collect, Collected, Request, Skip, Step
from dreamcuts.providers.base import Done, Pending, Provider, QueuedProvider, Ticket
from dreamcuts.providers.rules import REQUEST_GONE

T = TypeVar("T")

SUBMIT_GRACE_S = 10.0
"""How long a cancelled job waits for the answer to a submission that is on its way."""
CLOSE_GRACE_S = 10.0
"""How long a cancelled job takes at most to close a call that it has not sent."""
ASK_AGAIN = 5
"""Failed status questions in a row before the attempt ends; the call stays open for the next one."""
_MAX_ASK_DELAY_S = 30.0
_PASSING = (ErrorClass.TRANSIENT, ErrorClass.RATE_LIMITED, ErrorClass.OVERLOADED)
_late: set[asyncio.Future[Any]] = set()
"""Submissions whose job did not wait any longer. asyncio alone would not keep them."""


class _TooSlow(ProviderError):
    """A request took longer than its step allows."""


@dataclass(slots=True)
class QueuedStep:
    """One step under way: submit or pick up, poll until done, collect, close."""

    ctx: JobContext
    step: Step
    index: int
    poll_s: float
    limit_s: float | None
    fallbacks: list[dict[str, str]]

    async def finish_with(
        self, collect: Collect[T], open_call: OpenCall | None
    ) -> tuple[Collected[T], Ticket]:
        provider = self._provider()
        if open_call is not None and open_call.ticket is not None:
            call_id, ticket = open_call.id, open_call.ticket
            self.ctx.log.info("Picking up request %s at %s", ticket.request_id, self.step.endpoint)
        else:
            call_id, ticket = await self._begin_and_submit(provider)
        try:
            done = await self._wait(provider, ticket, fresh=open_call is None)
            collected = await collect(self.step, done)
        except _TooSlow as error:
            status, text = await cancel_call(provider, self.step.endpoint, ticket, str(error))
            await self.ctx.calls.finish(call_id, status, error=text)
            raise
        except JobError as error:
            if isinstance(error, ProviderError) and error.code == REQUEST_GONE:
                await self.ctx.calls.finish(call_id, "unknown", error=str(error))
                if open_call is None or isinstance(self.step.plan, Skip):
                    raise
                self.ctx.log.warning("Request %s has expired; submitting it anew", ticket.request_id)
                return await self.finish_with(collect, None)
            if not _stays_open(error):
                await close_failed(self.ctx, call_id, error)
            raise
        await self.ctx.calls.finish(call_id, "succeeded", cost_usd=collected.cost_usd)
        return collected, ticket

    def _provider(self) -> QueuedProvider:
        try:
            return cast(QueuedProvider, self.ctx.provider(self.step.provider))
        except ConfigError as error:
            if self.index == 0:
                raise
            raise InvalidRequest(
                f"{self.step.provider} cannot be used here: {error}", try_next=True
            ) from error

    async def _begin_and_submit(self, provider: QueuedProvider) -> tuple[UUID, Ticket]:
        plan = self.step.plan
        assert isinstance(plan, Request)
        await reuse_if_made(
            self.ctx,
            self.step.provider,
            self.step.endpoint,
            request=plan.body,
            takes_seed=plan.takes_seed,
            step=self.index,
            estimate_usd=plan.estimate_usd,
        )
        # Begun outside of what a cancellation waits for: a call may wait long for a limit.
        call_id = await self.ctx.calls.begin(
            self.step.provider,
            self.step.endpoint,
            request=plan.body,
            step=self.index,
            estimate_usd=plan.estimate_usd,
        )
        sent = anyio.Event()
        try:
            return await _uncancelled(self._submit_and_record(call_id, provider, plan, sent), sent)
        except asyncio.CancelledError:
            if not sent.is_set():
                await close_unsent(self.ctx, call_id)
            raise

    async def _submit_and_record(
        self, call_id: UUID, provider: QueuedProvider, plan: Request, sent: anyio.Event
    ) -> tuple[UUID, Ticket]:
        await self.ctx.calls.may_send(call_id)  # nothing may come between this and the request
        sent.set()
        try:
            ticket = await provider.submit(self.step.endpoint, plan.body)
        except JobError as error:
            await close_failed(self.ctx, call_id, error)
            raise
        except Exception as error:
            await self.ctx.calls.finish(
                call_id, "unknown", error=f"{type(error).__name__} while the request was under way"
            )
            raise
        if self.fallbacks:
            ticket = replace(ticket, detail={**ticket.detail, "fallbacks": list(self.fallbacks)})
        await self.ctx.calls.submitted(call_id, ticket)
        return call_id, ticket

    async def _wait(self, provider: QueuedProvider, ticket: Ticket, *, fresh: bool) -> Done:
        """Poll until the request is done. A question that fails is asked again, a few times.

        A `fresh` request that the provider does not know yet may only be slow to appear.
        """
        interval = self.ctx.settings.provider_poll_s or self.poll_s
        deadline = anyio.current_time() + self.limit_s if self.limit_s else float("inf")
        failed = 0
        note = ""
        while True:
            delay = interval
            try:
                answer = await provider.poll(self.step.endpoint, ticket)
            except ProviderError as error:
                failed += 1
                again = _ask_again(error) or (fresh and error.code == REQUEST_GONE)
                if not again or failed >= ASK_AGAIN:
                    raise
                delay = min(error.retry_after or interval * 2**failed, _MAX_ASK_DELAY_S)
                self.ctx.log.info("Could not ask for %s, asking again: %s", ticket.request_id, error)
            else:
                if isinstance(answer, Done):
                    return answer
                failed = 0
                note = self._tell(answer, note)
            if anyio.current_time() + delay > deadline:
                raise _TooSlow(
                    f"{self.step.endpoint} was not done after {self.limit_s:g} s and was cancelled",
                    provider=self.step.provider,
                    error_class=ErrorClass.TIMED_OUT,
                    try_next=True,
                )
            await anyio.sleep(delay)

    def _tell(self, answer: Pending, last: str) -> str:
        if answer.note and answer.note != last:
            self.ctx.log.debug("%s: %s", self.step.endpoint, answer.note)
        return answer.note


async def close_failed(ctx: JobContext, call_id: UUID, error: JobError) -> None:
    """Close a call that failed, with what slows down or pauses its provider: the error's class."""
    unknown = isinstance(error, ProviderError) and error.outcome_unknown
    known: dict[str, Any] = {"class": error.error_class.value}
    if isinstance(error, ProviderError):
        known |= {"status": error.status, "code": error.code}
    if error.try_next:
        known["tryNext"] = True  # the model's trouble, not the provider's
    detail = {name: value for name, value in known.items() if value is not None} | error.detail
    await ctx.calls.finish(call_id, "unknown" if unknown else "failed", error=str(error), detail=detail)


async def close_unsent(ctx: JobContext, call_id: UUID) -> None:
    """Close a call whose job is stopped before the request was sent."""
    with anyio.move_on_after(CLOSE_GRACE_S, shield=True):
        await ctx.calls.finish(call_id, "cancelled", error="stopped before the request was sent")


async def cancel_call(provider: Provider, endpoint: str, ticket: Ticket | None, why: str) -> tuple[str, str]:
    """Ask a provider to drop an open call. Returns the status and the text to close it with.

    What cannot be cancelled, or may be carried out already, is `unknown`: it may be billed.
    """
    if ticket is None:
        return "unknown", f"{why}, before the answer arrived"
    if not getattr(provider, "cancels", True):
        return "unknown", f"{why}; {provider.name} cannot cancel a request: it runs to its end and is billed"
    await cast(QueuedProvider, provider).cancel(endpoint, ticket)
    return "cancelled", why


def _stays_open(error: JobError) -> bool:
    """Whether the request may still be handed over: asking failed, or fetching what it made did."""
    if isinstance(error, ProviderError):
        return error.outcome_unknown
    return error.error_class in _PASSING and not error.try_next


def _ask_again(error: ProviderError) -> bool:
    return error.outcome_unknown and error.error_class in _PASSING


async def _uncancelled(work: Coroutine[Any, Any, T], sent: anyio.Event) -> T:
    """Run `work` to its end even if the caller is cancelled meanwhile, once its request is `sent`.

    The caller waits for it for at most SUBMIT_GRACE_S. An answer that comes later is still recorded, as long
    as the process lives: the job's next claim waits for it.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not sent.is_set():
            task.cancel()
        _late.add(task)
        task.add_done_callback(_is_over)
        with anyio.CancelScope(shield=True):
            await asyncio.wait({task}, timeout=SUBMIT_GRACE_S)
        raise


def _is_over(task: asyncio.Future[Any]) -> None:
    _late.discard(task)
    if not task.cancelled():
        task.exception()  # taken here, so that asyncio does not report it as never retrieved
