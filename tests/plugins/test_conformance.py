"""check_provider: the built-in providers keep every promise, and each broken promise is named."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from dreamcuts.errors import ErrorClass, ProviderError
from dreamcuts.providers.base import Done, Pending, Ticket
from dreamcuts.providers.elevenlabs import ElevenLabsProvider
from dreamcuts.providers.fal import FalProvider
from dreamcuts.providers.shotstack import ShotstackProvider
from dreamcuts.sandbox import Sandbox
from dreamcuts.testing import check_provider
from tests.plugins.things import Typist

NOWHERE = "http://127.0.0.1:9"
GOOD: dict[str, Any] = {
    "settings": {"TYPIST_KEY": "open sesame"},
    "endpoint": "desk",
    "request": {"text": "hello"},
    "bad_request": {"text": ""},
    "bad_settings": {"TYPIST_KEY": "wrong key"},
    "gone": Ticket("request-999", {"text": ""}),
}


def test_fal_keeps_its_promises(sandbox: Sandbox) -> None:
    sandbox.options.fal_queue_seconds = 0.05
    check = check_provider(
        FalProvider,
        sandbox.environment(),
        endpoint="fal-ai/flux/srpo",
        request={"prompt": "a lighthouse", "image_size": "square"},
        bad_settings={"FAL_KEY": "wrong:key-of-nobody"},
        unreachable={"FAL_QUEUE_URL": NOWHERE},
    )
    assert {"submitting", "resuming from the stored ticket", "bad settings"} <= set(check.passed)
    assert check.skipped == [
        "a request that is gone (no `gone` was given)",
        "a bad request (nothing was given for it)",
    ]


def test_shotstack_keeps_its_promises(sandbox: Sandbox) -> None:
    clip = {"asset": {"type": "text", "text": "hello", "width": 64, "height": 64}, "start": 0, "length": 0.2}
    edit = {
        "timeline": {"tracks": [{"clips": [clip]}]},
        "output": {"format": "mp4", "size": {"width": 64, "height": 64}},
    }
    check = check_provider(
        ShotstackProvider,
        sandbox.environment(),
        endpoint="stage",
        request=edit,
        bad_request={"timeline": {}},
        bad_settings={"SHOTSTACK_API_KEY": "wrong-key-of-nobody"},
        unreachable={"SHOTSTACK_BASE_URL": NOWHERE},
        gone=Ticket("00000000-0000-4000-8000-000000000000"),
    )
    assert check.skipped == []


def test_elevenlabs_keeps_its_promises(sandbox: Sandbox, tmp_path: Path) -> None:
    async def whoosh(provider: Any) -> None:
        await provider.sound_effect(
            tmp_path / "whoosh.mp3", output_format="mp3_44100_128", text="whoosh", duration_seconds=0.5
        )

    check = check_provider(
        ElevenLabsProvider,
        sandbox.environment(),
        call=whoosh,
        bad_settings={"ELEVENLABS_API_KEY": "wrong-key-of-nobody"},
        unreachable={"ELEVENLABS_BASE_URL": NOWHERE},
    )
    assert {"a good call", "bad settings", "a server that is away"} <= set(check.passed)


def test_the_typist_keeps_its_promises() -> None:
    check = check_provider(Typist, **GOOD)
    assert check.skipped == ["a server that is away (nothing was given for it)"]
    assert len(check.passed) == 10


class Leaky(Typist):
    async def submit(self, endpoint: str, request: dict[str, Any]) -> Ticket:
        ticket = await super().submit(endpoint, request)
        return Ticket(ticket.request_id, {**ticket.detail, "authorization": f"Key {self._key}"})


class Talkative(Typist):
    def refused(self, text: str, error_class: ErrorClass, code: str | None = None) -> ProviderError:
        return super().refused(f"{text} You said {self._key!r}.", error_class, code)


class Raw(Typist):
    def refused(self, text: str, error_class: ErrorClass, code: str | None = None) -> Any:
        return ValueError(text)


class Unsure(Typist):
    def refused(self, text: str, error_class: ErrorClass, code: str | None = None) -> ProviderError:
        return ProviderError(text, provider="typist", error_class=ErrorClass.TRANSIENT, outcome_unknown=True)


class Forgetful(Typist):
    """Knows only the requests that this very instance has submitted."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self._own: set[str] = set()

    async def submit(self, endpoint: str, request: dict[str, Any]) -> Ticket:
        ticket = await super().submit(endpoint, request)
        self._own.add(ticket.request_id)
        return ticket

    async def poll(self, endpoint: str, ticket: Ticket) -> Pending | Done:
        if ticket.request_id not in self._own:
            raise KeyError(ticket.request_id)
        return await super().poll(endpoint, ticket)


class Stubborn(Typist):
    async def cancel(self, endpoint: str, ticket: Ticket) -> None:
        raise RuntimeError("too late")


class Meddling(Typist):
    async def submit(self, endpoint: str, request: dict[str, Any]) -> Ticket:
        request["priority"] = "high"
        return await super().submit(endpoint, request)


class Never(Typist):
    async def poll(self, endpoint: str, ticket: Ticket) -> Pending | Done:
        await super().poll(endpoint, ticket)
        return Pending()


class Opaque(Typist):
    async def poll(self, endpoint: str, ticket: Ticket) -> Pending | Done:
        answer = await super().poll(endpoint, ticket)
        return Done({"bytes": b"..."}) if isinstance(answer, Done) else answer


class Greedy(Typist):
    """Needs a setting that it does not name."""

    settings_needed = ()

    @classmethod
    def from_settings(cls, settings: Any) -> Any:
        return cls(os.environ["TYPIST_KEY"])


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        (Leaky, "submitting: the ticket's detail holds TYPIST_KEY"),
        (Talkative, "bad settings: the error shows TYPIST_KEY"),
        (Raw, "a bad request: raised ValueError, no ProviderError: There is no text."),
        (Raw, "polling a request that is gone: poll raised ValueError"),
        (Unsure, "bad settings: the error's class is transient, not auth or quota"),
        (Unsure, "polling a request that is gone: ProviderError.code is None"),
        (Forgetful, "resuming from the stored ticket: poll raised KeyError"),
        (
            Stubborn,
            "cancelling a finished request: cancel raised RuntimeError: too late; it must never raise",
        ),
        (Meddling, "submitting: changed the request that it was given"),
        (Never, "resuming from the stored ticket: the request was not done after 0.3 s"),
        (Opaque, "resuming from the stored ticket: Done.output is not a JSON object"),
    ],
)
def test_a_broken_promise_is_named(broken: type[Typist], problem: str) -> None:
    with pytest.raises(AssertionError, match=f"^{broken.__name__} breaks") as raised:
        check_provider(broken, **GOOD, done_within_s=0.3 if broken is Never else 30)
    assert f"  - {problem}" in str(raised.value)


def test_what_accepts_everything_is_named() -> None:
    with pytest.raises(AssertionError, match="a bad request: was accepted; it must raise ProviderError"):
        check_provider(Typist, **{**GOOD, "bad_request": {"text": "fine"}})


def test_a_wrong_shape_is_named() -> None:
    class Half:
        name = "half"
        settings_needed = "HALF_KEY"
        from_settings = None

        def aclose(self) -> None: ...

    with pytest.raises(AssertionError) as raised:
        check_provider(Half, {})
    assert "settings_needed must be a tuple of str, not 'HALF_KEY'; aclose must be an async" in str(
        raised.value
    )
    with pytest.raises(AssertionError, match="without its settings: from_settings raised KeyError"):
        check_provider(Greedy, {"TYPIST_KEY": "open sesame"})
