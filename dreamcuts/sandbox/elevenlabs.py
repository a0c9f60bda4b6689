"""ElevenLabs' API: dialogue, speech, music, sound effects, models, subscription.

Wire formats from ElevenLabs' API reference and the Python SDK: validation errors are FastAPI's list under
`detail` with HTTP 422; all others are {"detail": {"type", "code", "status", "message", "request_id"}}.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from dreamcuts.sandbox import elevenlabs_schema as schema
from dreamcuts.sandbox import music, sounds
from dreamcuts.sandbox.audio import encode, output_arguments
from dreamcuts.sandbox.faults import ELEVENLABS_MARKERS, marked
from dreamcuts.sandbox.speech import Line, Speech, join, speak, voice_segments
from dreamcuts.sandbox.state import SandboxState

USD_PER_CHARACTER = 0.10 / 1000
USD_PER_MUSIC_MINUTE = 0.30
USD_PER_SOUND = 0.12
WARMTH = "highpass=f=70,lowpass=f=7500,aecho=0.9:0.6:23:0.10,volume=1.5,alimiter=limit=0.9"
"""ffmpeg filters that make the synthetic voice a little less dry."""

_Body = TypeVar("_Body", bound=BaseModel)


class ApiFault(Exception):
    """An answer that is an error: its HTTP status, body and headers."""

    def __init__(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        super().__init__(status)
        self.status = status
        self.body = body
        self.headers = headers or {}


def fault(status: int, code: str, message: str, **more: Any) -> ApiFault:
    """An error in ElevenLabs' current form; `status` in the body is the legacy name of `code`."""
    kind = {401: "authentication_error", 429: "rate_limit_error"}.get(status, "validation_error")
    detail = {"type": kind, "code": code, "status": code, "message": message, "request_id": uuid.uuid4().hex}
    return ApiFault(status, {"detail": {**detail, **more}})


@dataclass
class _Lane:
    """Counts the requests that run at once, for one kind of work."""

    running: int = 0


def routes(state: SandboxState) -> list[BaseRoute]:
    """The routes below `/elevenlabs`."""
    api = _Api(state)

    def route(path: str, handler: Callable[[Request], Awaitable[Response]], method: str = "POST") -> Route:
        async def endpoint(request: Request) -> Response:
            request_id = uuid.uuid4().hex
            request.state.request_id = request_id
            try:
                api.authorise(request)
                answer = await handler(request)
            except ApiFault as error:
                answer = JSONResponse(error.body, error.status, error.headers)
            answer.headers.setdefault("request-id", request_id)
            return answer

        return Route(path, endpoint, methods=[method])

    return [
        route("/v1/text-to-dialogue", api.dialogue),
        route("/v1/text-to-dialogue/stream", api.dialogue),
        route("/v1/text-to-dialogue/with-timestamps", api.dialogue_with_timestamps),
        route("/v1/text-to-speech/{voice_id}", api.text_to_speech),
        route("/v1/text-to-speech/{voice_id}/stream", api.text_to_speech),
        route("/v1/text-to-speech/{voice_id}/with-timestamps", api.speech_with_timestamps),
        route("/v1/music/plan", api.music_plan),
        route("/v1/music", api.music),
        route("/v1/music/stream", api.music),
        route("/v1/sound-generation", api.sound),
        route("/v1/models", api.models, "GET"),
        route("/v1/user/subscription", api.subscription, "GET"),
    ]


class _Api:
    def __init__(self, state: SandboxState) -> None:
        self.state = state
        self.speech_lane = _Lane()
        self.music_lane = _Lane()

    def authorise(self, request: Request) -> None:
        key = request.headers.get("xi-api-key")
        if key is None:
            raise fault(401, "invalid_api_key", "Neither authorization header nor xi-api-key received.")
        if key != self.state.keys.elevenlabs:
            raise fault(401, "invalid_api_key", "Invalid API key")

    @contextlib.contextmanager
    def _slot(self, lane: _Lane) -> Iterator[dict[str, str]]:
        """Hold a place among the concurrent requests; yields the headers that tell of them."""
        options = self.state.options
        limit = options.music_concurrency if lane is self.music_lane else options.elevenlabs_concurrency
        headers = {
            "current-concurrent-requests": str(lane.running + 1),
            "maximum-concurrent-requests": str(limit),
        }
        if lane.running >= limit:
            message = f"Too many concurrent requests. Your subscription allows {limit} at once."
            error = fault(429, "concurrent_limit_exceeded", message)
            raise ApiFault(429, error.body, headers | {"current-concurrent-requests": str(lane.running)})
        lane.running += 1
        try:
            yield headers
        finally:
            lane.running -= 1

    async def dialogue(self, request: Request) -> Response:
        raw = await request.body()
        body = _parse(schema.Dialogue, raw)
        with self._slot(self.speech_lane) as headers:
            output = _output_format(request)
            _, joined, lines = await self._speak_dialogue(body)
            audio = await self._encode(joined, output)
            headers |= self._bill_speech(request, "/v1/text-to-dialogue", lines, raw)
            return _audio(audio, output, headers)

    async def dialogue_with_timestamps(self, request: Request) -> Response:
        raw = await request.body()
        body = _parse(schema.Dialogue, raw)
        with self._slot(self.speech_lane) as headers:
            output = _output_format(request)
            parts, joined, lines = await self._speak_dialogue(body)
            audio = await self._encode(joined, output)
            headers |= self._bill_speech(request, "/v1/text-to-dialogue/with-timestamps", lines, raw)
            text = "".join(line.text for line in lines)
            answer = _timed(audio, text, joined) | {"voice_segments": voice_segments(lines, parts)}
            return JSONResponse(answer, headers=headers)

    async def text_to_speech(self, request: Request) -> Response:
        raw = await request.body()
        with self._slot(self.speech_lane) as headers:
            output = _output_format(request)
            line, speech = await self._speak_text(request, raw)
            audio = await self._encode(speech, output)
            headers |= self._bill_speech(request, "/v1/text-to-speech", [line], raw)
            return _audio(audio, output, headers)

    async def speech_with_timestamps(self, request: Request) -> Response:
        raw = await request.body()
        with self._slot(self.speech_lane) as headers:
            output = _output_format(request)
            line, speech = await self._speak_text(request, raw)
            audio = await self._encode(speech, output)
            headers |= self._bill_speech(request, "/v1/text-to-speech/with-timestamps", [line], raw)
            return JSONResponse(_timed(audio, line.text, speech), headers=headers)

    async def _speak_text(self, request: Request, raw: bytes) -> tuple[Line, Speech]:
        body = _parse(schema.TextToSpeech, raw)
        schema.check_voice(request.path_params["voice_id"], fault)
        schema.check_model(body.model_id, fault)
        limit = schema.MODELS[body.model_id].characters
        if len(body.text) > limit:
            message = f"The text has {len(body.text)} characters; {body.model_id} takes {limit}."
            raise fault(400, "max_character_limit_exceeded", message)
        _check_markers(body.text)
        speed = body.voice_settings.speed if body.voice_settings and body.voice_settings.speed else 1.0
        line = Line(body.text, request.path_params["voice_id"], body.language_code, body.seed or 0, speed)
        return line, await speak(line)

    async def _speak_dialogue(self, body: schema.Dialogue) -> tuple[list[Speech], Speech, list[Line]]:
        schema.check_dialogue(body, fault)
        _check_markers(" ".join(item.text for item in body.inputs))
        lines = [Line(item.text, item.voice_id, body.language_code, body.seed or 0) for item in body.inputs]
        parts = [await speak(line) for line in lines]
        return parts, join(parts), lines

    async def _encode(self, speech: Speech, output: str) -> bytes:
        return await encode(speech.pcm, speech.sample_rate, output, filters=WARMTH)

    def _bill_speech(self, request: Request, endpoint: str, lines: list[Line], raw: bytes) -> dict[str, str]:
        count = sum(len(line.text) for line in lines)
        usd = count * USD_PER_CHARACTER
        self._bill(request, endpoint, units=count, unit="character", usd=usd, body=raw)
        return {"x-character-count": str(count), "character-cost": str(count)}

    def _bill(self, request: Request, endpoint: str, **bill: Any) -> None:
        self.state.billing.record("elevenlabs", endpoint, request.state.request_id, **bill)

    async def music_plan(self, request: Request) -> Response:
        body = _parse(schema.MusicPlanRequest, await request.body())
        _check_markers(body.prompt)
        length = body.music_length_ms or 30_000
        return JSONResponse(music.make_plan(body.prompt, length, chunks=body.model_id != "music_v1"))

    async def music(self, request: Request) -> Response:
        raw = await request.body()
        body = _parse(schema.Compose, raw)
        with self._slot(self.music_lane) as headers:
            output = _output_format(request)
            plan = schema.check_compose(body, fault)
            _check_markers(body.prompt or " ".join(plan.get("positive_global_styles", [])))
            score = music.read_score(body.prompt, plan, body.music_length_ms, body.seed or 0)
            async with self.state.media_slots:
                audio = await music.perform(score, output, self.state.temp)
            usd = score.duration / 60 * USD_PER_MUSIC_MINUTE
            self._bill(request, "/v1/music", units=score.duration / 60, unit="minute", usd=usd, body=raw)
            return _audio(audio, output, headers | {"song-id": uuid.uuid4().hex})

    async def sound(self, request: Request) -> Response:
        raw = await request.body()
        body = _parse(schema.SoundEffect, raw)
        with self._slot(self.speech_lane) as headers:
            output = _output_format(request)
            _check_markers(body.text)
            schema.check_sound(body, fault)
            audio = await sounds.make(body.text, body.duration_seconds, output, loop=body.loop)
            self._bill(request, "/v1/sound-generation", units=1, unit="sound", usd=USD_PER_SOUND, body=raw)
            return _audio(audio, output, headers)

    async def models(self, request: Request) -> Response:
        return JSONResponse([model.as_json() for model in schema.MODELS.values()])

    async def subscription(self, request: Request) -> Response:
        bills = self.state.billing.bills("elevenlabs")
        used = sum(bill.units for bill in bills if bill.unit == "character")
        return JSONResponse(
            {
                "tier": "pro",
                "status": "active",
                "character_count": int(used),
                "character_limit": 500_000,
                "can_extend_character_limit": False,
                "allowed_to_extend_character_limit": False,
                "next_character_count_reset_unix": 4_102_444_800,
                "voice_limit": 160,
                "max_voice_add_edits": 500,
                "voice_add_edit_counter": 0,
                "professional_voice_limit": 1,
                "can_extend_voice_limit": False,
                "can_use_instant_voice_cloning": True,
                "can_use_professional_voice_cloning": True,
                "voice_slots_used": 0,
                "professional_voice_slots_used": 0,
                "currency": "usd",
                "billing_period": "monthly_period",
            }
        )


def _parse(model: type[_Body], raw: bytes) -> _Body:
    """The request's body; errors in FastAPI's form, as ElevenLabs answers them."""
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        detail = [
            {
                "type": issue["type"],
                "loc": ["body", *issue["loc"]],
                "msg": issue["msg"],
                "input": issue.get("input"),
            }
            for issue in error.errors(include_url=False, include_context=False)
        ]
        for issue in detail:
            if isinstance(issue["input"], bytes):
                issue["input"] = issue["input"].decode("utf-8", "replace")
        raise ApiFault(422, {"detail": detail}) from None


def _output_format(request: Request) -> str:
    given = request.query_params.get("output_format", "mp3_44100_128")
    if output_arguments(given) is None:
        issue = {"type": "enum", "loc": ["query", "output_format"], "msg": "Input should be a known format"}
        raise ApiFault(422, {"detail": [issue | {"input": given}]})
    return given


def _check_markers(text: str) -> None:
    outcome = marked(ELEVENLABS_MARKERS, text)
    if outcome is not None:
        raise ApiFault(outcome.status, outcome.body, outcome.headers)


def _audio(audio: bytes, output: str, headers: dict[str, str]) -> Response:
    """The audio in chunks, as the real API streams it."""

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(audio), 65536):
            yield audio[start : start + 65536]
            await asyncio.sleep(0)

    arguments = output_arguments(output)
    assert arguments is not None
    return StreamingResponse(chunks(), media_type=arguments[1], headers=headers)


def _timed(audio: bytes, text: str, speech: Speech) -> dict[str, Any]:
    alignment = {
        "characters": list(text),
        "character_start_times_seconds": speech.starts,
        "character_end_times_seconds": speech.ends,
    }
    return {
        "audio_base64": base64.b64encode(audio).decode(),
        "alignment": alignment,
        "normalized_alignment": alignment,
    }
