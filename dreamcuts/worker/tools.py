"""What all attempts of a worker share: storage, HTTP client, providers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import timedelta

import httpx

from dreamcuts.config import Settings
from dreamcuts.jobs.base import JobType
from dreamcuts.log import Redactor, known_secrets
from dreamcuts.providers.base import Provider
from dreamcuts.providers.registry import make_provider, provider_settings
from dreamcuts.queue.store import Store
from dreamcuts.storage import open_storage
from dreamcuts.storage.base import Storage
from dreamcuts.storage.download import shared_http_client
from dreamcuts.worker.calls import unlimited
from dreamcuts.worker.tickets import Tickets


class Providers:
    """The providers of one worker process, each made on first use and shared by all jobs."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._made: dict[str, Provider] = {}

    def get(self, name: str) -> Provider:
        """The provider registered under `name`. Raises ConfigError if it is unknown or lacks a key."""
        if name not in self._made:
            self._made[name] = make_provider(name, self._settings)
        return self._made[name]

    async def aclose(self) -> None:
        """Close all of them."""
        for provider in self._made.values():
            await provider.aclose()
        self._made.clear()


@dataclass(frozen=True, slots=True)
class Tools:
    """Made once a process by `open_tools`."""

    settings: Settings
    store: Store
    storage: Storage
    http: httpx.AsyncClient
    providers: Providers
    tickets: Tickets
    redact: Callable[[str], str]
    lease_left: Callable[[], float] = unlimited
    """Seconds left of the worker's lease, by the monotonic clock; the worker itself sets it."""
    _delays: dict[str, timedelta] = field(default_factory=dict)

    def retry_delay(self, job_type: JobType) -> timedelta:
        """The type's first retry delay: the setting if there is one, else its default."""
        if job_type.name not in self._delays:
            setting = self.settings.for_type(job_type.short_name, "RETRY_DELAY_MS")
            self._delays[job_type.name] = (
                job_type.retry_delay if setting is None else timedelta(milliseconds=setting)
            )
        return self._delays[job_type.name]


MakeTools = Callable[[Store], AbstractAsyncContextManager[Tools]]


def tools_from(settings: Settings) -> MakeTools:
    """How a worker with these settings gets its tools; they are closed when it ends."""

    @contextlib.asynccontextmanager
    async def open_tools(store: Store) -> AsyncIterator[Tools]:
        async with contextlib.AsyncExitStack() as stack:
            storage = open_storage(settings)
            stack.push_async_callback(storage.aclose)
            http = await stack.enter_async_context(shared_http_client(settings))
            providers = Providers(settings)
            stack.push_async_callback(providers.aclose)
            tickets = Tickets(store)
            stack.push_async_callback(tickets.aclose)
            yield Tools(
                settings=settings,
                store=store,
                storage=storage,
                http=http,
                providers=providers,
                tickets=tickets,
                redact=Redactor(known_secrets(settings, provider_settings())),
            )

    return open_tools
