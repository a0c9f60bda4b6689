"""The data of a chain of paid calls: its steps, what they send, and what became of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from dreamcuts.errors import ErrorClass
from dreamcuts.providers import prices
from dreamcuts.providers.base import Done

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """What a step sends: the provider's JSON input, its likely price, and what was mapped or dropped.

    `unit_usd` is the price of a billed unit where the input changes it (a clip without sound is cheaper).
    `takes_seed` says that the model can be made to repeat itself, whether or not `body` holds a seed.
    """

    body: dict[str, Any]
    estimate_usd: float | None = None
    notes: tuple[str, ...] = ()
    unit_usd: float | None = None
    takes_seed: bool = False


@dataclass(frozen=True, slots=True)
class Skip:
    """A step that cannot do this job, and why; no call is made."""

    reason: str
    error_class: ErrorClass = ErrorClass.INVALID_REQUEST


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a chain. `plan` is what it would send, or why it is skipped.

    `model` is the step's name for people.
    """

    provider: str
    endpoint: str
    model: str
    plan: Request | Skip

    def cost_usd(self, done: Done) -> float | None:
        """What a finished request cost: by the units that the provider billed, else as estimated."""
        if not isinstance(self.plan, Request):
            return prices.billed(self.provider, self.endpoint, done.units)
        by_units = prices.billed(self.provider, self.endpoint, done.units, unit_usd=self.plan.unit_usd)
        return self.plan.estimate_usd if by_units is None else by_units


@dataclass(frozen=True, slots=True)
class Collected(Generic[T]):
    """What a step's output became: `value` is the caller's, `cost_usd` goes to the ledger."""

    value: T
    cost_usd: float | None = None


Collect = Callable[[Step, Done], Awaitable[Collected[T]]]
"""Downloads, checks and stores what a finished request made.

Raises JobError: one with `try_next` means that the output is no good, a transient one that fetching failed.
"""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """A chain that succeeded. `fallbacks` lists the steps that gave way: `{provider, endpoint, reason}`."""

    value: T
    step: Step
    request_id: str
    cost_usd: float | None
    fallbacks: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_result(self) -> dict[str, Any]:
        """The outcome as it stands in a job's result, in the producer's camelCase."""
        data: dict[str, Any] = {
            "provider": self.step.provider,
            "endpoint": self.step.endpoint,
            "model": self.step.model,
            "requestId": self.request_id,
            "fallbacks": self.fallbacks,
            "notes": self.notes,
        }
        if self.cost_usd is not None:
            data["costUsd"] = round(self.cost_usd, 6)
        return data
