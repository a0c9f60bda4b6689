"""Sound effects, through ElevenLabs. Job type `gen_sound_effects_elevenlabs`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar, cast

from pydantic import Field, field_validator

from dreamcuts.jobs.base import JobContext, Payload, Result
from dreamcuts.jobs.paid import close_lost_calls, direct_call, reuse_if_made
from dreamcuts.jobs.produced import check_cost, store
from dreamcuts.jobs.sound_text import enriched
from dreamcuts.providers import prices
from dreamcuts.providers.elevenlabs import ElevenLabsProvider

ENDPOINT = "sound-generation"
MODELS = ("eleven_text_to_sound_v2", "eleven_text_to_sound_v3")
"""ElevenLabs SDK, SfxModelId; the first is the server's default and the one that loops."""
DEFAULT_FORMAT = "mp3_44100_128"
SHORTEST_S, LONGEST_S = 0.5, 22.0


class SoundEffectsPayload(Payload):
    """Payload of `gen_sound_effects_elevenlabs`."""

    text: str = Field(max_length=1_000)
    category: str | None = None
    keywords: list[str] = Field(default_factory=list)
    effect_id: str | None = None
    duration_seconds: float | None = Field(None, ge=SHORTEST_S, le=LONGEST_S)
    prompt_influence: float | None = Field(None, ge=0, le=1)
    loop: bool | None = None
    model_id: str | None = None
    output_format: str | None = None
    start_time: float | None = None
    end_time: float | None = None

    @field_validator("text")
    @classmethod
    def _text_says_something(cls, value: str) -> str:
        if not value.strip():
            raise ValueError('is blank: say what is heard, e.g. "a heavy door closes"')
        return value.strip()

    @field_validator("keywords", mode="before")
    @classmethod
    def _keywords_are_a_list(cls, value: Any) -> Any:
        return value.split(",") if isinstance(value, str) else [] if value is None else value


class SoundEffectsJob:
    """Makes one sound."""

    name: ClassVar[str] = "gen_sound_effects_elevenlabs"
    short_name: ClassVar[str] = "sound_effects"
    payload_model: ClassVar[type[Payload]] = SoundEffectsPayload
    default_slots: ClassVar[int] = 2
    retry_delay: ClassVar[timedelta] = timedelta(seconds=5)
    time_limit: ClassVar[timedelta] = timedelta(minutes=12)
    providers: ClassVar[tuple[str, ...]] = ("elevenlabs",)
    features: ClassVar[tuple[str, ...]] = ("text to sound effects", "0.5 to 22 s", "loops")

    async def run(self, ctx: JobContext, payload: Any) -> Result:
        """Carry out one attempt."""
        assert isinstance(payload, SoundEffectsPayload)
        arguments, output_format, notes = plan_sound(payload)
        estimate = prices.cost("elevenlabs", ENDPOINT)
        check_cost(payload.cost_limit, estimate, "The sound")
        provider = cast(ElevenLabsProvider, ctx.provider("elevenlabs"))
        target = ctx.workdir / "sound.mp3"
        await close_lost_calls(ctx)
        same = {**arguments, "output_format": output_format}
        await reuse_if_made(
            ctx,
            "elevenlabs",
            ENDPOINT,
            request=arguments,
            identity=same,
            takes_seed=False,
            estimate_usd=estimate,
        )
        request_id = await direct_call(
            ctx,
            "elevenlabs",
            ENDPOINT,
            arguments,
            lambda: provider.sound_effect(target, output_format=output_format, **arguments),
            estimate_usd=estimate,
            identity=same,
        )
        shortest = 0.5 * (payload.duration_seconds or SHORTEST_S)
        made = await store(ctx, target, "sound", kind="audio", provider="elevenlabs", at_least_s=shortest)
        data = {
            **made.as_result(),
            "provider": "elevenlabs",
            "endpoint": ENDPOINT,
            "requestId": request_id,
            "model": arguments["model_id"],
            "costUsd": estimate,
            "fallbacks": [],
            "notes": notes,
        }
        return Result(made.asset, data)


def plan_sound(payload: SoundEffectsPayload) -> tuple[dict[str, Any], str, list[str]]:
    """The request's arguments, its output format, and notes on what was mapped or dropped."""
    notes: list[str] = []
    model = payload.model_id or MODELS[0]
    if model not in MODELS:
        notes.append(f"modelId {model} makes no sound effects; {MODELS[0]} was asked instead.")
        model = MODELS[0]
    if payload.loop and model != MODELS[0]:
        notes.append(f"{model} makes no loops; {MODELS[0]} was asked instead.")
        model = MODELS[0]
    text = enriched(payload.text, category=payload.category, keywords=payload.keywords)
    if text != payload.text:
        notes.append(f"The text was made clearer: {text!r}.")
    output_format = payload.output_format or DEFAULT_FORMAT
    if not output_format.startswith("mp3_"):
        notes.append(f"outputFormat {output_format} is not used for sounds; {DEFAULT_FORMAT} was asked.")
        output_format = DEFAULT_FORMAT
    arguments: dict[str, Any] = {
        "text": text,
        "model_id": model,
        "loop": bool(payload.loop),
        "prompt_influence": 0.3 if payload.prompt_influence is None else payload.prompt_influence,
    }
    if payload.duration_seconds is not None:
        arguments["duration_seconds"] = payload.duration_seconds
    return arguments, output_format, notes
