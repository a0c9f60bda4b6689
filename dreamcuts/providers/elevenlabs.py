"""ElevenLabs: speech, music and sound effects, each in one long request that cannot be resumed.

Uses the official SDK (`AsyncElevenLabs`) with its retries switched off: there is no idempotency key, so a
second try is the queue's decision. Audio is streamed to disk.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import httpx

from dreamcuts.config import Settings
from dreamcuts.errors import ErrorClass, ProviderError
from dreamcuts.providers.rules import Answer, Rule, decide, provider_error, transport_error

if TYPE_CHECKING:
    from elevenlabs.client import AsyncElevenLabs
    from elevenlabs.core.request_options import RequestOptions

READ_TIMEOUT_S = 600.0
"""A read timeout is ambiguous (the call may be billed), so it is long: music takes more than a minute."""
CONNECT_TIMEOUT_S = 15.0
_CHUNK_BYTES = 64 * 1024

RULES: tuple[Rule, ...] = (
    # ElevenLabs docs, "Errors" and "API - Error Code 429". First match wins.
    Rule(ErrorClass.RATE_LIMITED, (429,), ("concurrent_limit_exceeded", "too_many_concurrent_requests")),
    Rule(ErrorClass.RATE_LIMITED, (429,), ("rate_limit_exceeded",)),
    Rule(ErrorClass.OVERLOADED, (429, 503), ("system_busy",)),
    Rule(ErrorClass.RATE_LIMITED, (429,)),
    Rule(ErrorClass.QUOTA, (), ("quota_exceeded",)),
    Rule(ErrorClass.QUOTA, (402,)),
    Rule(ErrorClass.AUTH, (), ("invalid_api_key",)),
    Rule(ErrorClass.INVALID_REQUEST, (400, 404), ("voice_not_found",)),
    Rule(ErrorClass.INVALID_REQUEST, (400,), ("max_character_limit_exceeded", "text_too_long")),
    Rule(ErrorClass.CONTENT_REJECTED, (400, 422), ("bad_prompt", "bad_composition_plan")),
    Rule(ErrorClass.AUTH, (401, 403)),  # 403 is a refusal of the plan, e.g. only_for_creator+
    Rule(ErrorClass.TRANSIENT, (408, 409, 425)),
    Rule(ErrorClass.INVALID_REQUEST, (400, 404, 405, 413, 415, 422)),
    Rule(ErrorClass.TRANSIENT, (500, 502, 503, 504)),
)


@dataclass(frozen=True, slots=True)
class Speech:
    """Speech with the time of each character: `starts` and `ends` in seconds, parallel to `characters`."""

    audio: bytes
    characters: list[str]
    starts: list[float]
    ends: list[float]
    request_id: str


class ElevenLabsProvider:
    """ElevenLabs through its SDK. Every method raises ProviderError and nothing else."""

    name: ClassVar[str] = "elevenlabs"
    settings_needed: ClassVar[tuple[str, ...]] = ("ELEVENLABS_API_KEY",)

    def __init__(self, client: AsyncElevenLabs, http: httpx.AsyncClient, *, secrets: tuple[str, ...]) -> None:
        self._client = client
        self._http = http
        self._secrets = secrets

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Make the provider for ELEVENLABS_BASE_URL, with ELEVENLABS_API_KEY."""
        from elevenlabs.client import AsyncElevenLabs  # slow to import: only workers that need it pay

        key = settings.secret("ELEVENLABS_API_KEY")
        http = httpx.AsyncClient(timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S))
        client = AsyncElevenLabs(
            base_url=settings.elevenlabs_base_url.rstrip("/"), api_key=key, httpx_client=http
        )
        return cls(client, http, secrets=(key,))

    async def aclose(self) -> None:
        """Close the provider's connections."""
        await self._http.aclose()

    async def dialogue(self, *, output_format: str, **arguments: Any) -> Speech:
        """Speak with a v3 model (`POST /v1/text-to-dialogue/with-timestamps`)."""
        return await self._speech(
            "text to dialogue",
            lambda: self._client.text_to_dialogue.with_raw_response.convert_with_timestamps(
                output_format=cast(Any, output_format), request_options=_options(), **arguments
            ),
        )

    async def speech(self, voice_id: str, *, output_format: str, **arguments: Any) -> Speech:
        """Speak with any model (`POST /v1/text-to-speech/{voice_id}/with-timestamps`)."""
        return await self._speech(
            "text to speech",
            lambda: self._client.text_to_speech.with_raw_response.convert_with_timestamps(
                voice_id, output_format=cast(Any, output_format), request_options=_options(), **arguments
            ),
        )

    async def music_plan(self, *, prompt: str, music_length_ms: int, model_id: str) -> dict[str, Any]:
        """Have a composition plan made (`POST /v1/music/plan`; costs nothing)."""
        async with self._errors("music plan"):
            plan = await self._client.music.composition_plan.create(
                prompt=prompt,
                music_length_ms=music_length_ms,
                model_id=cast(Any, model_id),
                request_options=_options(),
            )
            return cast(dict[str, Any], plan.model_dump(mode="json", exclude_none=True))
        raise AssertionError("unreachable")

    async def compose(self, target: Path, *, output_format: str, **arguments: Any) -> str:
        """Compose music into the file `target` (`POST /v1/music`). Returns the request id."""
        return await self._to_file(
            "music",
            target,
            lambda: self._client.music.with_raw_response.compose(
                output_format=cast(Any, output_format), request_options=_options(), **arguments
            ),
        )

    async def sound_effect(self, target: Path, *, output_format: str, **arguments: Any) -> str:
        """Make a sound into the file `target` (`POST /v1/sound-generation`). Returns the request id."""
        return await self._to_file(
            "sound effects",
            target,
            lambda: self._client.text_to_sound_effects.with_raw_response.convert(
                output_format=cast(Any, output_format), request_options=_options(), **arguments
            ),
        )

    async def check(self) -> str:
        """Read the account's subscription (`GET /v1/user/subscription`): checks the key at no cost."""
        async with self._errors("subscription"):
            found = await self._client.user.subscription.get(request_options=_options())
            left = found.character_limit - found.character_count
            return (
                f"the key is accepted; plan {found.tier}, {left:,} of {found.character_limit:,} credits left"
            )
        raise AssertionError("unreachable")

    async def _speech(self, what: str, call: Callable[[], Awaitable[Any]]) -> Speech:
        async with self._errors(what):
            response = await call()
            data = response.data
            timing = data.alignment or data.normalized_alignment
            try:
                audio = base64.b64decode(data.audio_base_64, validate=True)
            except (binascii.Error, TypeError, ValueError):
                raise self._unusable(what, "the audio is not base64") from None
            if not audio:
                raise self._unusable(what, "the audio is empty")
            return Speech(
                audio,
                list(timing.characters) if timing else [],
                list(timing.character_start_times_seconds) if timing else [],
                list(timing.character_end_times_seconds) if timing else [],
                _header(response.headers, "request-id"),
            )
        raise AssertionError("unreachable")

    async def _to_file(self, what: str, target: Path, open_stream: Callable[[], Any]) -> str:
        async with self._errors(what):
            with target.open("wb") as file:
                async with open_stream() as response:
                    async for chunk in response.data:
                        file.write(chunk)
                    request_id = _header(response.headers, "request-id")
            if target.stat().st_size == 0:  # noqa: ASYNC240
                raise self._unusable(what, "the audio is empty")
            return request_id
        raise AssertionError("unreachable")

    def _unusable(self, what: str, why: str) -> ProviderError:
        return ProviderError(
            f"ElevenLabs {what} gave an unusable answer: {why}",
            provider=self.name,
            error_class=ErrorClass.TRANSIENT,
            outcome_unknown=True,
        )

    @asynccontextmanager
    async def _errors(self, what: str) -> AsyncIterator[None]:
        """Turn whatever the SDK raises into a ProviderError."""
        from elevenlabs.core.api_error import ApiError

        label = f"ElevenLabs {what}"
        try:
            yield
        except ApiError as error:
            raise self._from_answer(label, error.status_code, error.headers or {}, error.body) from None
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise transport_error(self.name, label, error, sent=False, secrets=self._secrets) from None
        except httpx.HTTPError as error:
            raise transport_error(self.name, label, error, sent=True, secrets=self._secrets) from None
        except ProviderError:
            raise
        except (AttributeError, TypeError, ValueError) as error:  # an answer of an unexpected shape
            raise self._unusable(what, f"{type(error).__name__}: {error}") from error

    def _from_answer(
        self, label: str, status: int | None, headers: Mapping[str, str], body: Any
    ) -> ProviderError:
        code, message, suggestion = parse_error(body)
        rule = decide(RULES, status=status, code=code, message=message)
        return provider_error(
            self.name,
            label,
            Answer(status, headers, code, message, body),
            rule,
            secrets=self._secrets,
            extra={"suggestion": suggestion} if suggestion else None,
        )


def parse_error(body: Any) -> tuple[str | None, str, Any]:
    """`(code, message, suggestion)` of an error body, in any of the documented forms or plain text.

    `suggestion` is the prompt or the composition plan that a copyright refusal offers instead.
    """
    if hasattr(body, "model_dump"):
        body = body.model_dump()
    detail = body.get("detail", body) if isinstance(body, dict) else body
    if isinstance(detail, list):
        messages = []
        for issue in detail:
            issue = issue if isinstance(issue, dict) else {"msg": str(issue)}
            where = ".".join(str(part) for part in issue.get("loc", ()))
            messages.append(f"{where}: {issue.get('msg', '')}" if where else str(issue.get("msg", "")))
        return "invalid_parameters", "; ".join(messages), None
    if not isinstance(detail, dict):
        return None, str(detail), None
    data = detail.get("data")
    offered = {**detail, **(data if isinstance(data, dict) else {})}
    suggestion = offered.get("prompt_suggestion") or offered.get("composition_plan_suggestion")
    code = detail.get("code") or detail.get("status")
    return (str(code) if code else None), str(detail.get("message", "")), suggestion


def _options() -> RequestOptions:
    return {"max_retries": 0, "timeout_in_seconds": int(READ_TIMEOUT_S), "chunk_size": _CHUNK_BYTES}


def _header(headers: Mapping[str, str], name: str) -> str:
    return next((value for key, value in headers.items() if key.lower() == name), "")
