"""What every provider promises, as a check that a plugin's author runs against his provider's stand-in.

    check_provider(
        AcmeProvider,
        {"ACME_API_KEY": "test-key", "ACME_BASE_URL": stand_in.url},
        endpoint="acme/one",
        request={"prompt": "a lighthouse"},
        bad_request={"prompt": ""},
        bad_settings={"ACME_API_KEY": "wrong"},
        unreachable={"ACME_BASE_URL": "http://127.0.0.1:9"},
    )

Each request goes out for real, to wherever the settings say. All that is wrong is told at once.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import anyio

from dreamcuts.config import Settings
from dreamcuts.errors import ConfigError, ErrorClass, ProviderError
from dreamcuts.providers.base import Done, Pending, Provider, QueuedProvider, Ticket
from dreamcuts.providers.registry import provider_problems
from dreamcuts.providers.rules import REQUEST_GONE
from dreamcuts.testing.bounded import make_given
from dreamcuts.testing.settings import IsolatedSettings

DONE_WITHIN_S = 30.0
POLL_S = 0.05

Call = Callable[[Any], Awaitable[Any]]
_QUEUED = ("submit", "poll", "cancel")


@dataclass(slots=True)
class ProviderCheck:
    """What was looked at, and what was not because the caller gave nothing for it."""

    passed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def note(self, what: str, problem: str | None) -> None:
        """Enter one finding."""
        if problem is None:
            self.passed.append(what)
        else:
            self.problems.append(f"{what}: {problem}")


async def check_provider_async(
    provider: type[Provider],
    settings: Mapping[str, Any],
    *,
    endpoint: str = "",
    request: Mapping[str, Any] | None = None,
    call: Call | None = None,
    bad_request: Mapping[str, Any] | None = None,
    bad_call: Call | None = None,
    bad_settings: Mapping[str, Any] | None = None,
    unreachable: Mapping[str, Any] | None = None,
    gone: Ticket | None = None,
    done_within_s: float = DONE_WITHIN_S,
) -> ProviderCheck:
    """Hold a provider to its protocol; returns what was checked.

    A queued provider is given an `endpoint` and a `request` that it accepts; of a direct one, `call` makes
    one good call: `lambda acme: acme.speak("hello")`. The others are optional, each for one more check:
    `bad_request` (or `bad_call`) must be refused as invalid_request or content_rejected; with `bad_settings`
    in place of some settings the answer must be auth or quota; with `unreachable` (a port where nobody
    listens) it must be transient and certainly not carried out; `gone` is the ticket of a request that the
    provider does not know.

    Raises AssertionError that lists everything that is wrong.
    """
    found = ProviderCheck()
    problems = provider_problems(provider)
    found.note("the class", "; ".join(problems) or None)
    if not problems:
        found.note("without its settings", _settings_problem(provider))
        found.note("with its settings", await _making_problem(provider, settings))
    if not found.problems:
        checks = _Checks(found, provider, settings, endpoint, dict(request or {}), done_within_s)
        if all(inspect.iscoroutinefunction(getattr(provider, name, None)) for name in _QUEUED):
            await checks.queued(gone)
            call = checks.submission(request)
            bad_call = bad_call or checks.submission(bad_request)
        elif call is not None:
            found.note("a good call", await checks.problem_of(call))
        else:
            found.skipped.append("a good call (no `call` was given)")
        await checks.refusals(call, bad_call, bad_settings, unreachable)
    if found.problems:
        name = getattr(provider, "__name__", provider)
        raise AssertionError(
            f"{name} breaks {len(found.problems)} promise(s) of a provider:\n"
            + "\n".join(f"  - {problem}" for problem in found.problems)
        )
    return found


def check_provider(provider: type[Provider], settings: Mapping[str, Any], **options: Any) -> ProviderCheck:
    """As check_provider_async, with the same options, for a test that is no coroutine."""
    return anyio.run(functools.partial(check_provider_async, provider, settings, **options))


@dataclass(slots=True)
class _Checks:
    found: ProviderCheck
    provider: type[Provider]
    settings: Mapping[str, Any]
    endpoint: str
    request: dict[str, Any]
    done_within_s: float

    async def queued(self, gone: Ticket | None) -> None:
        """Submission, resumption by somebody else, and cancellation."""
        first = cast(QueuedProvider, self._make(self.settings))
        second = cast(QueuedProvider, self._make(self.settings))
        try:
            ticket = await self._submitted(first)
            if ticket is not None:
                self.found.note("resuming from the stored ticket", await self._resume(second, ticket))
                self.found.note("cancelling a finished request", await self._cancel(first, ticket))
            if gone is None:
                self.found.skipped.append("a request that is gone (no `gone` was given)")
            else:
                self.found.note("polling a request that is gone", await self._poll_gone(first, gone))
                self.found.note("cancelling a request that is gone", await self._cancel(first, gone))
        finally:
            await first.aclose()
            await second.aclose()

    def submission(self, request: Mapping[str, Any] | None) -> Call | None:
        """A call that submits `request`; None without one."""
        if request is None:
            return None
        body = dict(request)
        return lambda provider: provider.submit(self.endpoint, body)

    async def refusals(
        self,
        call: Call | None,
        bad_call: Call | None,
        bad_settings: Mapping[str, Any] | None,
        unreachable: Mapping[str, Any] | None,
    ) -> None:
        """That errors are ProviderErrors of the right class, without secrets in them."""
        refused = (ErrorClass.INVALID_REQUEST, ErrorClass.CONTENT_REJECTED)
        denied = (ErrorClass.AUTH, ErrorClass.QUOTA)
        for what, made, changed, classes in (
            ("a bad request", bad_call, {}, refused),
            ("bad settings", call, bad_settings, denied),
            ("a server that is away", call, unreachable, (ErrorClass.TRANSIENT,)),
        ):
            if made is None or changed is None:
                self.found.skipped.append(f"{what} (nothing was given for it)")
            else:
                self.found.note(what, await self._refusal(made, {**self.settings, **changed}, classes))

    async def problem_of(self, call: Call) -> str | None:
        """Make a call that should succeed."""
        provider = self._make(self.settings)
        try:
            await call(provider)
        except Exception as error:
            return f"raised {type(error).__name__}: {error}"
        finally:
            await provider.aclose()
        return None

    async def _submitted(self, provider: QueuedProvider) -> Ticket | None:
        body = json.loads(json.dumps(self.request))
        try:
            ticket = await provider.submit(self.endpoint, body)
        except Exception as error:
            self.found.note("submitting", f"raised {type(error).__name__}: {error}")
            return None
        problem = None
        if not isinstance(ticket, Ticket) or not isinstance(ticket.request_id, str) or not ticket.request_id:
            problem = f"gave {ticket!r}, not a Ticket with a request_id"
        elif body != self.request:
            problem = "changed the request that it was given"
        elif (stored := _as_json(ticket.detail)) is None:
            problem = "the ticket's detail is not JSON"
        elif secret := self._leak(stored):
            problem = f"the ticket's detail holds {secret}, and is stored"
        self.found.note("submitting", problem)
        return None if problem else ticket

    async def _resume(self, provider: QueuedProvider, ticket: Ticket) -> str | None:
        stored = Ticket(ticket.request_id, json.loads(json.dumps(ticket.detail)))
        with anyio.move_on_after(self.done_within_s):
            while True:
                try:
                    answer = await provider.poll(self.endpoint, stored)
                except Exception as error:
                    return f"poll raised {type(error).__name__}: {error}"
                if isinstance(answer, Done):
                    whole = isinstance(answer.output, dict) and _as_json(answer.output) is not None
                    return None if whole else "Done.output is not a JSON object"
                if type(answer) is not Pending:
                    return f"poll gave {answer!r}, neither Pending nor Done"
                await anyio.sleep(POLL_S)
        return f"the request was not done after {self.done_within_s:g} s"

    async def _cancel(self, provider: QueuedProvider, ticket: Ticket) -> str | None:
        try:
            await provider.cancel(self.endpoint, ticket)
        except Exception as error:
            return f"cancel raised {type(error).__name__}: {error}; it must never raise"
        return None

    async def _poll_gone(self, provider: QueuedProvider, ticket: Ticket) -> str | None:
        try:
            answer = await provider.poll(self.endpoint, ticket)
        except ProviderError as error:
            if error.code == REQUEST_GONE:
                return None
            return (
                f"ProviderError.code is {error.code!r}, not {REQUEST_GONE!r}: it would not be submitted anew"
            )
        except Exception as error:
            return f"poll raised {type(error).__name__}, no ProviderError: {error}"
        return f"poll gave {answer!r}"

    async def _refusal(
        self, call: Call, settings: Mapping[str, Any], classes: tuple[ErrorClass, ...]
    ) -> str | None:
        provider = self._make(settings)
        wanted = " or ".join(name.value for name in classes)
        try:
            await call(provider)
        except ProviderError as error:
            if error.error_class not in classes:
                return f"the error's class is {error.error_class.value}, not {wanted}: {error}"
            if error.outcome_unknown:
                return "outcome_unknown is set, though the request was certainly not carried out"
            if error.provider != self.provider.name:
                return f"ProviderError.provider is {error.provider!r}, not {self.provider.name!r}"
            if (kept := _as_json(error.detail)) is None:
                return "the error's detail is not JSON"
            leak = self._leak(f"{error} {kept}", settings)
            return None if leak is None else f"the error shows {leak}"
        except Exception as error:
            return f"raised {type(error).__name__}, no ProviderError: {error}"
        finally:
            await provider.aclose()
        return f"was accepted; it must raise ProviderError ({wanted})"

    def _make(self, settings: Mapping[str, Any]) -> Provider:
        return make_given(self.provider, IsolatedSettings.of(settings))

    def _leak(self, text: str, settings: Mapping[str, Any] | None = None) -> str | None:
        """The name of a setting that is needed, no address, and whose value stands in `text`."""
        values = self.settings if settings is None else settings
        for name in self.provider.settings_needed:
            value = str(values.get(name, ""))
            if len(value) >= 4 and "://" not in value and value in text:
                return name
        return None


def _settings_problem(provider: type[Provider]) -> str | None:
    nothing: Settings = IsolatedSettings.of({})
    try:
        make_given(provider, nothing)
    except ConfigError as error:
        missing = [name for name in provider.settings_needed if name not in str(error)]
        return f"a missing {missing[0]} is not named" if missing else None
    except Exception as error:
        return f"from_settings raised {type(error).__name__}, no ConfigError: {error}"
    return None


async def _making_problem(provider: type[Provider], settings: Mapping[str, Any]) -> str | None:
    try:
        await make_given(provider, IsolatedSettings.of(settings)).aclose()
    except Exception as error:
        return f"making and closing it raised {type(error).__name__}: {error}"
    return None


def _as_json(value: object) -> str | None:
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return None
