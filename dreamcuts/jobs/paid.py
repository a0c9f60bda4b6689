"""The engine for paid calls: nothing is paid twice for work that a provider can still hand over.

Every job type that spends money goes through here. The rules:

- The intent is recorded before a request goes out, and the outcome after it (`dreamcut_provider_calls`).
- A queued call (fal, Shotstack) is closed only when its file is stored. A job that is claimed again, after a
  crash, a deploy or a failed download, picks the open call up by its ticket and goes on polling. So does one
  whose call succeeded, but whose own outcome was lost before it was written.
- A call without a ticket was lost between its intent and its answer: it is closed as `unknown`.
- A direct call (ElevenLabs) cannot be resumed; a crash during one leaves it to be closed as `unknown`.
- Cancellation leaves an open call open. Submitting is finished first, so that its ticket is not lost.

A chain is a list of steps, each with its provider and model; a step that cannot do the job gives way to the
next, and the result says which step made the asset and why the others did not. Where a provider is paused, or
refuses the account, the chain goes on with a step of another one, if it has one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import anyio

from dreamcuts.errors import ConfigError, ErrorClass, InvalidRequest, JobError, ProviderError
from dreamcuts.jobs.base import JobContext, OpenCall
from dreamcuts.jobs.queued import QueuedStep, cancel_call, close_failed, close_unsent
from dreamcuts.jobs.reuse import request_hash, reuse_if_made
from dreamcuts.jobs.steps import Collect, Collected, Outcome, Request, Skip, Step
from dreamcuts.storage.paths import unsigned

__all__ = [
    "Collect",
    "Collected",
    "Outcome",
    "Request",
    "Skip",
    "Step",
    "cancel_call",
    "cancel_open_calls",
    "close_lost_calls",
    "direct_call",
    "reuse_if_made",
    "run_chain",
]

T = TypeVar("T")

_FINAL = (ErrorClass.CONTENT_REJECTED, ErrorClass.SPEND_LIMIT, ErrorClass.INVALID_REQUEST)
"""Refusals, in the order in which they name a chain whose every step refused."""
_CLOSED = (ErrorClass.AUTH, ErrorClass.QUOTA, ErrorClass.PAUSED)
"""Trouble of the whole provider: its other models need not be asked."""
_LOOK_AGAIN_S = 1.0
"""Between two looks at a call whose answer another task or worker is still waiting for."""


async def run_chain(
    ctx: JobContext,
    steps: Sequence[Step],
    *,
    poll_s: float,
    collect: Collect[T],
    limit_s: float | None = None,
) -> Outcome[T]:
    """Run a chain of queued calls until one step's output is collected.

    Picks up an open call of an earlier attempt, at the step where it was. `poll_s` is the time between two
    status questions in seconds; the setting PROVIDER_POLL_S overrides it. A request that is not done after
    `limit_s` seconds of one attempt is cancelled, so that it is not billed, and gives way. Raises the last
    step's error, or, if several steps refused, an error that gives all their reasons.
    """
    open_call = await _resumable(ctx, steps)
    fallbacks: list[dict[str, str]] = []
    failures: list[JobError] = []
    closed: set[str] = set()
    first = 0
    if open_call is not None:
        first = _step_of(open_call, steps)
        assert open_call.ticket is not None
        fallbacks = [dict(entry) for entry in open_call.ticket.detail.get("fallbacks", [])]
    for index in range(first, len(steps)):
        step = steps[index]
        if open_call is None and isinstance(step.plan, Skip):
            failures.append(JobError(step.plan.reason, error_class=step.plan.error_class))
            fallbacks.append(_gave_way(step, f"skipped: {step.plan.reason}"))
            continue
        if open_call is None and step.provider in closed:
            fallbacks.append(_gave_way(step, f"skipped: {step.provider} takes no calls now"))
            continue
        run = QueuedStep(ctx, step, index, poll_s, limit_s, fallbacks)
        try:
            collected, ticket = await run.finish_with(collect, open_call)
        except JobError as error:
            if error.error_class in _CLOSED:
                closed.add(step.provider)
            if not _moves_on(ctx, error, steps[index + 1 :], closed):
                raise _exhausted([*failures, error], [*fallbacks, _gave_way(step, str(error))]) from error
            ctx.log.info("%s gave way: %s", step.endpoint, error)
            failures.append(error)
            fallbacks.append(_gave_way(step, str(error)))
            open_call = None
            continue
        notes = list(step.plan.notes) if isinstance(step.plan, Request) else []
        return Outcome(collected.value, step, ticket.request_id, collected.cost_usd, fallbacks, notes)
    raise _exhausted(failures, fallbacks)


async def direct_call(
    ctx: JobContext,
    provider: str,
    endpoint: str,
    request: dict[str, Any],
    call: Callable[[], Awaitable[T]],
    *,
    estimate_usd: float | None = None,
    cost_usd: Callable[[T], float | None] | None = None,
    step: int = 0,
    identity: Mapping[str, Any] | None = None,
) -> T:
    """Make one direct call, recorded before and after. Returns what `call` returns.

    `request` is what is kept of the request (no secrets); `cost_usd` works out the cost of the answer, else
    the estimate counts. Call `close_lost_calls` once before the first direct call of a job. `identity` is
    what makes two requests the same, where that is not `request`: what `reuse_if_made` is given.
    """
    same = {} if identity is None else {"identity": identity}
    call_id = await ctx.calls.begin(
        provider, endpoint, request=request, step=step, estimate_usd=estimate_usd, **same
    )
    try:
        await ctx.calls.may_send(call_id)  # nothing may come between this and the request
    except asyncio.CancelledError:
        await close_unsent(ctx, call_id)
        raise
    try:
        answer = await call()
    except JobError as error:
        await close_failed(ctx, call_id, error)
        raise
    except Exception as error:
        await ctx.calls.finish(
            call_id, "unknown", error=f"{type(error).__name__} while the call was under way"
        )
        raise
    cost = cost_usd(answer) if cost_usd else estimate_usd
    await ctx.calls.finish(call_id, "succeeded", cost_usd=cost)
    return answer


async def close_lost_calls(ctx: JobContext) -> list[OpenCall]:
    """Close calls of earlier attempts whose answer was lost, as `unknown`. Returns the others.

    An answer that is not lost yet is waited for: an attempt that was stopped while it submitted, because its
    job was cancelled, is still about to learn the ticket when the job is retried at once.
    """
    if ctx.job.claim <= 1:
        return []  # a first claim has no earlier attempt, and this saves it a round trip
    calls = await ctx.calls.open_calls()
    while due := max((call.answer_due_s for call in calls if call.ticket is None), default=0.0):
        await anyio.sleep(min(due, _LOOK_AGAIN_S))
        calls = await ctx.calls.open_calls()
    resumable: list[OpenCall] = []
    for call in calls:
        if call.ticket is None:
            ctx.log.warning("A call to %s was lost; it may have been billed", call.endpoint)
            await ctx.calls.finish(call.id, "unknown", error="the worker stopped before the answer arrived")
        else:
            resumable.append(call)
    return resumable


async def cancel_open_calls(ctx: JobContext) -> int:
    """Ask the providers to drop the job's open calls, and close them. Returns how many there were.

    For a cancelled job. A provider still bills a request that it had already finished; a call without a
    ticket is closed as `unknown`. If the job was retried meanwhile, its calls are left to its next claim.
    """
    calls = [call for call in await ctx.calls.open_calls() if call.claim <= ctx.job.claim and not call.wanted]
    for call in calls:
        try:
            status, text = await cancel_call(
                ctx.provider(call.provider), call.endpoint, call.ticket, "the job was cancelled"
            )
        except ConfigError as error:
            status, text = "unknown", f"could not be cancelled: {error}"
        await ctx.calls.finish(call.id, status, error=text)
    return len(calls)


async def _resumable(ctx: JobContext, steps: Sequence[Step]) -> OpenCall | None:
    """The open call to go on with; others (there should be none) are left to expire and closed."""
    usable: OpenCall | None = None
    for call in await close_lost_calls(ctx):
        if usable is None and any(_fits(call, step) for step in steps):
            usable = call
        else:
            await ctx.calls.finish(
                call.id, "unknown", error="no step of the job's chain makes this call any more"
            )
    if usable is None and ctx.job.claim > 1:
        for call in await ctx.calls.made_calls():
            if any(_makes(call, step) for step in steps):
                return call  # its worker was lost between the provider's success and the job's
    return usable


def _fits(call: OpenCall, step: Step) -> bool:
    return (call.provider, call.endpoint) == (step.provider, step.endpoint)


def _makes(call: OpenCall, step: Step) -> bool:
    """Whether the step would send what the call has sent."""
    if not (_fits(call, step) and isinstance(step.plan, Request)):
        return False
    sent = request_hash(call.provider, call.endpoint, unsigned(call.request))
    return sent == request_hash(step.provider, step.endpoint, unsigned(step.plan.body))


def _step_of(call: OpenCall, steps: Sequence[Step]) -> int:
    if call.step < len(steps) and _fits(call, steps[call.step]):
        return call.step
    return next(index for index, step in enumerate(steps) if _fits(call, step))


def _moves_on(ctx: JobContext, error: JobError, left: Sequence[Step], closed: set[str]) -> bool:
    """Whether the chain goes on now to the steps that are left; `closed` are providers that take no calls.

    A provider that is paused or refuses the account gives way to another at once, and so does a refusal. A
    passing trouble is retried once through the queue first: the next model costs more or is worse, and most
    such troubles pass. A request whose outcome is not known may still be carried out, and never moves on: two
    models would be paid.
    """
    if isinstance(error, ProviderError) and error.outcome_unknown:
        return False
    if error.error_class in _CLOSED:
        return any(isinstance(step.plan, Request) and step.provider not in closed for step in left)
    if not left or not error.try_next:
        return False
    if error.error_class in _FINAL:
        return True
    return ctx.job.attempt >= min(2, ctx.job.max_attempts)


def _exhausted(failures: Sequence[JobError], reasons: Sequence[dict[str, str]]) -> JobError:
    """The error of a chain that ended: the only one as it is, several as one with all reasons.

    If any step failed in passing, so did the chain: another attempt may well succeed.
    """
    if not failures:
        return InvalidRequest("The job's chain of models is empty.")
    last = failures[-1]
    if len(reasons) <= 1 and len(failures) == 1:
        return last
    if last.error_class not in _FINAL:
        last.detail["fallbacks"] = [dict(entry) for entry in reasons[:-1]]
        return last
    passing = [failure for failure in failures if failure.error_class not in _FINAL]
    kinds = {failure.error_class for failure in failures}
    refused = next((kind for kind in _FINAL if kind in kinds), last.error_class)
    return JobError(
        "No model could do this job. "
        + "; ".join(f"{entry['endpoint']}: {entry['reason']}" for entry in reasons),
        error_class=passing[-1].error_class if passing else refused,
        retry_after=passing[-1].retry_after if passing else None,
        detail={
            **(passing[-1] if passing else last).detail,
            "fallbacks": [dict(entry) for entry in reasons],
        },
    )


def _gave_way(step: Step, reason: str) -> dict[str, str]:
    return {"provider": step.provider, "endpoint": step.endpoint, "reason": reason}
