"""What a provider is: a service outside that takes a request and, for money, makes an asset.

There are two shapes. A *direct* provider (ElevenLabs) answers in one long request that cannot be resumed.
A *queued* provider (fal, Shotstack) hands out a ticket at once; whoever holds the ticket can poll it, so a
job that is claimed again after a crash goes on with the open request instead of paying for a new one.

A provider knows nothing of jobs, Postgres or storage. It raises ProviderError with the right ErrorClass and
nothing else; its SDK's own retries are switched off, because the queue retries.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self

from dreamcuts.config import Settings


@dataclass(frozen=True, slots=True)
class Ticket:
    """A request that a queued provider accepted.

    `request_id` is the provider's own id. `detail` is a small JSON object with what else is needed to find
    the request again (fal's status, response and cancel URLs); it is stored with the id.
    """

    request_id: str
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pending:
    """The request is still queued or running. `note` is for people, e.g. "queue position 3"."""

    note: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    """The request succeeded. `output` is the provider's JSON answer.

    `units` is the number of billed units where the provider reports it.
    """

    output: dict[str, Any]
    units: float | None = None


class Provider(Protocol):
    """Common to all providers; found through the entry-point group `dreamcuts.providers`."""

    name: ClassVar[str]
    settings_needed: ClassVar[tuple[str, ...]]
    """Names of the settings without which the provider cannot work, e.g. `("FAL_KEY",)`."""
    # Optional, and read only where they are there:
    #   cancels: ClassVar[bool] = True   False: `cancel` does nothing, an open request runs on and is billed
    #   answers_within_s: ClassVar[float] = 60   how long `submit` may take; for so long another attempt waits
    #   async def check(self) -> str     try the key without paying; returns what was found, for people

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Make the provider. Opens no connection yet."""
        ...

    async def aclose(self) -> None:
        """Close the provider's connections."""
        ...


class QueuedProvider(Provider, Protocol):
    """A provider with a queue of its own, whose requests can be picked up again."""

    async def submit(self, endpoint: str, request: dict[str, Any]) -> Ticket:
        """Send the request, once. Raises ProviderError, with `outcome_unknown` if it may have arrived."""
        ...

    async def poll(self, endpoint: str, ticket: Ticket) -> Pending | Done:
        """Ask once how the request stands. Raises ProviderError if the request failed."""
        ...

    async def cancel(self, endpoint: str, ticket: Ticket) -> None:
        """Ask the provider to drop the request, so that it is not billed. Never raises."""
        ...
