"""Which models a job type knows, and the chain of them that a payload asks for.

A payload names a model by its short name (`model`) or by its endpoint id (`endpoint`), and may bring its own
`fallbackProviders`. A known id is used as given; a retired one is mapped to its successor with a note; an
unknown one is refused with the known ones named, when the payload is validated: before anything is queued.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from dreamcuts.errors import ErrorClass, InvalidRequest
from dreamcuts.jobs.paid import Request, Skip, Step
from dreamcuts.providers.registry import load_providers
from dreamcuts.wording import dollars

_QUEUE_PREFIXES = ("https://queue.fal.run/", "https://fal.run/", "https://fal.ai/models/")


class FallbackEntry(BaseModel):
    """One entry of a payload's `fallbackProviders`."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="allow")

    provider: str | None = None
    endpoint: str | None = None
    cost: float | None = Field(None, description="US dollars, where no price of the endpoint is known")
    quality: str | None = None
    fps: float | None = None
    max_duration: float | None = Field(
        None, description="Longest speech or clip in seconds that this entry may get"
    )


@dataclass(frozen=True, slots=True)
class Choice:
    """A step that a payload asks for: its endpoint and short name, or why the entry names none."""

    endpoint: str
    model: str
    notes: tuple[str, ...] = ()
    entry: FallbackEntry | None = None
    problem: str | None = None
    provider: str | None = None


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
                chain.append(replace(self._entry_choice(entry), entry=entry))
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
        raise InvalidRequest(f"{field}: {self._unknown(endpoint or model or '')}.")

    def known(self, given: str | None) -> str | None:
        """For a payload's `model` or `endpoint`. Raises ValueError, which names the known ones."""
        if given:
            self._must_know(given)
        return given

    def known_entry(self, entry: FallbackEntry) -> FallbackEntry:
        """For an entry of `fallbackProviders`. Raises ValueError for one that nothing could ever serve.

        Where it names an endpoint, that decides, and `provider` is a mere name. An endpoint of another
        registered provider is let through.
        """
        if not self._is_of_another_provider(entry):
            self._must_know(entry.endpoint or entry.provider or "")
        return entry

    def _must_know(self, given: str) -> None:
        try:
            self.choose(given, None)
        except InvalidRequest:
            raise ValueError(self._unknown(given)) from None

    def _unknown(self, given: str) -> str:
        names: dict[str, str] = {}
        for name, path in self.models.items():
            names.setdefault(path, name)
        known = ", ".join(f"{name} ({path})" for path, name in names.items())
        return f"{given!r} is no {self.what} model. Known: {known}"

    def _entry_choice(self, entry: FallbackEntry) -> Choice:
        name = entry.endpoint or entry.provider or "?"
        try:
            return self.choose(entry.endpoint or entry.provider, None, field="fallbackProviders")
        except InvalidRequest as error:
            if not self._is_of_another_provider(entry):
                return Choice(name, entry.provider or name, problem=str(error))
            problem = f"is an endpoint of {entry.provider}; {self.what} jobs call fal only"
            return Choice(name, name, problem=problem, provider=entry.provider)

    def _is_of_another_provider(self, entry: FallbackEntry) -> bool:
        other = entry.provider if entry.endpoint and entry.provider != "fal" else None
        return bool(other) and other in load_providers()

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
                plan = _within_limit(_as_entry_says(build(choice), choice.entry), cost_limit)
            if isinstance(plan, Request):
                plan = replace(plan, notes=(*choice.notes, *plan.notes))
            steps.append(Step(choice.provider or provider, choice.endpoint, choice.model, plan))
        return steps


def over_longest(choice: Choice, seconds: float | None, what: str) -> Skip | None:
    """Why a fallback entry with a `maxDuration` does not get a speech or clip of so many seconds, if so."""
    longest = choice.entry.max_duration if choice.entry else None
    if not longest or not seconds or seconds <= longest:
        return None
    return Skip(f"the {what} is {seconds:.1f} s, over its maxDuration of {longest:g} s")


def not_taken(choice: Choice, given: Mapping[str, object]) -> list[str]:
    """Notes on the payload's fields (camelCase) that a model has no use for; None counts as not given."""
    return [
        f"{choice.model} takes no {name}; it was left out."
        for name, value in given.items()
        if value is not None
    ]


def _as_entry_says(plan: Request | Skip, entry: FallbackEntry | None) -> Request | Skip:
    """A plan with what a fallback entry says about it: its cost, where no price is known, and notes."""
    if entry is None or not isinstance(plan, Request):
        return plan
    estimate = entry.cost if plan.estimate_usd is None else plan.estimate_usd
    notes = tuple(
        f"fallbackProviders: {name} {value} has no effect; it was left out."
        for name, value in (("quality", entry.quality), ("fps", entry.fps and f"{entry.fps:g}"))
        if value is not None
    )
    return replace(plan, estimate_usd=estimate, notes=(*plan.notes, *notes))


def _within_limit(plan: Request | Skip, cost_limit: float | None) -> Request | Skip:
    if not isinstance(plan, Request) or cost_limit is None or plan.estimate_usd is None:
        return plan
    if plan.estimate_usd <= cost_limit:
        return plan
    return Skip(
        f"would cost about {dollars(plan.estimate_usd)}, over the job's costLimit of {dollars(cost_limit)}",
        ErrorClass.SPEND_LIMIT,
    )


def _path(given: str | None) -> str:
    """An endpoint id without the address that some payloads put before it."""
    path = (given or "").strip()
    for prefix in _QUEUE_PREFIXES:
        path = path.removeprefix(prefix)
    return path.strip("/")
