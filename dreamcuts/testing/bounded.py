"""The real worker, for one job of a test: it claims a bounded number of times, and can be interrupted."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID

import anyio

from dreamcuts.config import Settings
from dreamcuts.jobs.base import JobType
from dreamcuts.providers.base import Provider
from dreamcuts.queue.store import Store
from dreamcuts.worker.claim_loop import ClaimLoop
from dreamcuts.worker.options import WorkerOptions
from dreamcuts.worker.tools import MakeTools, Providers, Tools, tools_from
from dreamcuts.worker.worker import Worker

HOPELESS_S = 30.0
"""How much longer than its time a worker may take to stop: its job does not heed its cancellation."""


class BoundedWorker(Worker):
    """A worker that serves one job type, one job at a time, and claims at most `claims` times.

    Ends when nothing is left to do, when its claims are used up, or after `timeout_s` seconds. With
    `stop_when_submitted` it hands its job back right after it stored the id of a request to a queued
    provider.
    """

    def __init__(
        self,
        job_type: JobType,
        settings: Settings,
        providers: Mapping[str, type[Provider]],
        *,
        claims: int,
        timeout_s: float,
        stop_when_submitted: bool = False,
    ) -> None:
        options = WorkerOptions(
            slots={job_type.name: 1},
            poll_interval=settings.poll_interval_s,
            shutdown_timeout=timeout_s,
            until_idle=True,
            listen=False,
            connections=2,
            claim_ahead=False,
        )
        on_submitted = self._interrupt if stop_when_submitted else None
        tools = _tools(settings, providers, on_submitted)
        super().__init__(
            settings.secret("DATABASE_URL"),
            {job_type.name: job_type},
            options,
            tools,
            claim_loop=partial(_BoundedClaims, most=claims, on_used_up=self.drain),
        )
        self._timeout_s = timeout_s
        self.timed_out = False
        self.interrupted = False

    async def run_to_end(self) -> None:
        """Work; raises what the worker raises, by itself and not in a group."""
        try:
            with anyio.move_on_after(self._timeout_s + HOPELESS_S):
                async with anyio.create_task_group() as group:
                    group.start_soon(self._stop_in_time)
                    await self.run()
                    group.cancel_scope.cancel()
        except BaseExceptionGroup as several:
            error: BaseException = several
            while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
                error = error.exceptions[0]
            raise error from None

    async def _stop_in_time(self) -> None:
        await anyio.sleep(self._timeout_s)
        self.timed_out = True
        self._stop_at_once()

    def _interrupt(self) -> None:
        self.interrupted = True
        self._stop_at_once()

    def _stop_at_once(self) -> None:
        self.drain()
        self.drain()  # the second one hands the job back


class _BoundedClaims(ClaimLoop):
    """Claims at most `most` jobs; `on_used_up()` hears when they are over."""

    def __init__(self, *given: Any, most: int, on_used_up: Callable[[], None], **named: Any) -> None:
        super().__init__(*given, **named)
        self._left = most
        self._on_used_up = on_used_up

    async def claim(self) -> int | None:
        if self._left <= 0:
            if self._slots.is_empty():  # a drain would hand back what has not begun
                self._on_used_up()
            return None
        claimed = await super().claim()
        self._left -= claimed or 0
        return claimed


class _WatchedStore(Store):
    """The worker's store, which tells when a request's id was stored."""

    def __init__(self, store: Store, on_submitted: Callable[[], None]) -> None:
        super().__init__(store._pool)
        self._on_submitted = on_submitted

    async def submitted_call(self, call: UUID, request_id: str, ticket: Mapping[str, Any]) -> None:
        await super().submitted_call(call, request_id, ticket)
        self._on_submitted()


class _GivenProviders(Providers):
    """The providers that a test gave, and behind them the installed ones."""

    def __init__(self, settings: Settings, given: Mapping[str, type[Provider]]) -> None:
        super().__init__(settings)
        self._given = given

    def get(self, name: str) -> Provider:
        """The provider of that name."""
        if name in self._given and name not in self._made:
            self._made[name] = make_given(self._given[name], self._settings)
        return super().get(name)


def make_given(cls: type[Provider], settings: Settings) -> Provider:
    """A provider of a class that is not installed. Raises ConfigError if a setting is missing."""
    settings.require((needed, f"the provider {cls.name}") for needed in cls.settings_needed)
    return cls.from_settings(settings)


def _tools(
    settings: Settings, given: Mapping[str, type[Provider]], on_submitted: Callable[[], None] | None
) -> MakeTools:
    open_tools = tools_from(settings)

    @contextlib.asynccontextmanager
    async def opened(store: Store) -> AsyncIterator[Tools]:
        watched = store if on_submitted is None else _WatchedStore(store, on_submitted)
        async with open_tools(watched) as tools, contextlib.AsyncExitStack() as stack:
            providers = _GivenProviders(settings, given)
            stack.push_async_callback(providers.aclose)
            yield replace(tools, providers=providers)

    return opened
