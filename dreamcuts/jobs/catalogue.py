"""Which models a job type knows, and the chain of them that a payload asks for.

A payload names a model by its short name (`model`) or by its endpoint id (`endpoint`), and may bring its own
`fallbackProviders`. A known id is used as given; a retired one is mapped to its successor with a note; an
unknown one is refused with the known ones named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from dreamcuts.errors import ErrorClass, InvalidRequest
from dreamcuts.jobs.paid import Request, Skip, Step

_QUEUE_PREFIXES = ("https://queue.fal.run/", "https://fal.run/", "https://fal.ai/models/")


class FallbackEntry(BaseModel):
    """One entry of a payload's `fallbackProviders`."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="allow")

    provider: str | None = None
    endpoint: str | None = None
    cost: float | None = None
    quality: str | None = None
    fps: float | None = None
    max_duration: float | None = Field(None, description="Longest audio in seconds that this entry may get")


@dataclass(frozen=True, slots=True)
class Choice:
    """A step that a payload asks for: its endpoint and short name, or why the entry names none."""

    endpoint: str
    model: str
    notes: tuple[str, ...] = ()
    entry: FallbackEntry | None = None
    problem: str | None = None


Build = Callable[[Choice], Request | Skip]


@dataclass(frozen=True)
class Catalogue:
    """The models of a job type: short name to endpoint, retired endpoint to successor, the default chain."""

    what: str
    models: Mapping[str, str]
    default: Sequence[str]
    retired: Mapping[str, str] = field(default_factory=dict)

    def choices(
        self, model: str | None, endpoint: str | None, fallbacks: Sequence[FallbackEntry] | None
    ) -> list[Choice]:
        """The chain for a payload, each endpoint once. Raises InvalidRequest for an unknown first choice."""
        if endpoint or model:
            first = self.choose(endpoint, model, field="endpoint" if endpoint else "model")
        else:
            first = self.choose(self.models[self.default[0]], None)
        chain = [first]
        if fallbacks is None:
            chain += [self.choose(self.models[name], None) for name in self.default]
        else:
            for entry in fallbacks:
                try:
                    chosen = self.choose(entry.endpoint, entry.provider, field="fallbackProviders")
                except InvalidRequest as error:
                    name = entry.endpoint or entry.provider or "?"
                    chosen = Choice(name, entry.provider or name, problem=str(error))
                chain.append(replace(chosen, entry=entry))
        seen: dict[str, Choice] = {}
        for choice in chain:
            seen.setdefault(choice.endpoint, choice)
        return list(seen.values())

    def choose(self, endpoint: str | None, model: str | None, *, field: str = "endpoint") -> Choice:
        """The model of an endpoint id, else of a short name. Raises InvalidRequest if neither is known."""
        names: dict[str, str] = {}
        for name, path in self.models.items():
            names.setdefault(path, name)
        for given in (endpoint, model):
            path = _path(given)
            if path in self.retired:
                now = self.retired[path]
                return Choice(now, names[now], (f"{path} is retired; {now} was asked instead.",))
            if path in names:
                return Choice(path, names[path])
            if given and given.strip().lower() in self.models:
                return self.choose(self.models[given.strip().lower()], None)
        given = endpoint or model or ""
        known = ", ".join(f"{name} ({path})" for path, name in names.items())
        raise InvalidRequest(f"{field}: {given!r} is no {self.what} model. Known: {known}.")

    def steps(
        self, choices: Sequence[Choice], build: Build, *, cost_limit: float | None, provider: str = "fal"
    ) -> list[Step]:
        """The steps of a chain. Those over the job's costLimit (US dollars) are skipped with that reason."""
        steps = []
        for choice in choices:
            plan: Request | Skip
            if choice.problem:
                plan = Skip(choice.problem)
            else:
                plan = _within_limit(build(choice), choice, cost_limit)
            if isinstance(plan, Request):
                plan = replace(plan, notes=(*choice.notes, *plan.notes))
            steps.append(Step(provider, choice.endpoint, choice.model, plan))
        return steps


def _within_limit(plan: Request | Skip, choice: Choice, cost_limit: float | None) -> Request | Skip:
    if not isinstance(plan, Request) or cost_limit is None or plan.estimate_usd is None:
        return plan
    if plan.estimate_usd <= cost_limit:
        return plan
    return Skip(
        f"would cost about ${plan.estimate_usd:.2f}, over the job's costLimit of ${cost_limit:.2f}",
        ErrorClass.SPEND_LIMIT,
    )


def _path(given: str | None) -> str:
    """An endpoint id without the address that some payloads put before it."""
    path = (given or "").strip()
    for prefix in _QUEUE_PREFIXES:
        path = path.removeprefix(prefix)
    return path.strip("/")
