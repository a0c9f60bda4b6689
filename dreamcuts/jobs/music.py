"""Music cues, through ElevenLabs. Job type `gen_music_elevenlabs`.

A cue in words (mood, structure, genre, tempo) becomes a composition plan, which costs nothing; the plan is
fitted to the cue's length and composed. A cue with its own prompt is composed from that. Music is always
instrumental: it plays under a narration.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar, cast

from pydantic import Field, field_validator, model_validator

from dreamcuts.errors import ErrorClass, ProviderError
from dreamcuts.jobs.base import JobContext, Payload, Result
from dreamcuts.jobs.composition import as_chunks, fitted, local_plan
from dreamcuts.jobs.paid import close_lost_calls, direct_call, reuse_if_made
from dreamcuts.jobs.produced import check_cost, seed_of, store
from dreamcuts.providers import prices
from dreamcuts.providers.elevenlabs import ElevenLabsProvider

ENDPOINT = "music"
MODELS = ("music_v1", "music_v2", "music_v2_5")
DEFAULT_FORMAT = "mp3_44100_128"
SHORTEST_MS, LONGEST_MS = 3_000, 600_000
"""ElevenLabs SDK, music.compose."""
_PASSING = (ErrorClass.TRANSIENT, ErrorClass.OVERLOADED, ErrorClass.INVALID_REQUEST)


class MusicPayload(Payload):
    """Payload of `gen_music_elevenlabs`."""

    cue_id: str | None = None
    prompt: str | None = None
    music_length_ms: int | None = Field(None, gt=0, le=LONGEST_MS)
    mood: str | None = None
    structure: str | None = None
    start_sec: float | None = None
    duration_sec: float | None = Field(None, gt=0, le=LONGEST_MS / 1000)
    instructions: str | None = None
    genre: str | None = None
    tempo: str | float | None = None
    instruments: list[str] = Field(default_factory=list)
    use_composition_plan: bool | None = None
    model_id: str | None = None
    output_format: str | None = None

    @field_validator("instruments", mode="before")
    @classmethod
    def _instruments_are_a_list(cls, value: Any) -> Any:
        if isinstance(value, str):
            return [item.strip() for item in value.split(",") if item.strip()]
        return [] if value is None else value

    @model_validator(mode="after")
    def _says_what_and_how_long(self) -> MusicPayload:
        if self.music_length_ms is None and self.duration_sec is None:
            raise ValueError("the length is missing: give durationSec, or musicLengthMs with a prompt")
        if not any((self.prompt, self.mood, self.genre, self.instructions, self.instruments, self.structure)):
            raise ValueError("nothing says what the music is like: give prompt, or mood, genre, structure")
        return self

    @property
    def length_ms(self) -> int:
        """How long the music is to play, in milliseconds, at least the three seconds that can be made."""
        wanted = self.music_length_ms or round((self.duration_sec or 0) * 1000)
        return max(SHORTEST_MS, wanted)

    @property
    def styles(self) -> list[str]:
        """The cue's words as styles: genre, mood, tempo, instruments."""
        tempo = self.tempo
        if isinstance(tempo, float) or (isinstance(tempo, str) and tempo.strip().isdigit()):
            tempo = f"{float(tempo):g} BPM"
        elif tempo and "tempo" not in str(tempo).lower() and "bpm" not in str(tempo).lower():
            tempo = f"{tempo} tempo"
        return [str(style) for style in (self.genre, self.mood, tempo, *self.instruments) if style]


class MusicJob:
    """Composes one cue."""

    name: ClassVar[str] = "gen_music_elevenlabs"
    short_name: ClassVar[str] = "music"
    payload_model: ClassVar[type[Payload]] = MusicPayload
    default_slots: ClassVar[int] = 2
    retry_delay: ClassVar[timedelta] = timedelta(seconds=10)
    time_limit: ClassVar[timedelta] = timedelta(minutes=20)
    providers: ClassVar[tuple[str, ...]] = ("elevenlabs",)
    features: ClassVar[tuple[str, ...]] = ("music by prompt", "music by composition plan", "instrumental")

    async def run(self, ctx: JobContext, payload: Any) -> Result:
        """Carry out one attempt."""
        assert isinstance(payload, MusicPayload)
        provider = cast(ElevenLabsProvider, ctx.provider("elevenlabs"))
        seconds = payload.length_ms / 1000
        estimate = prices.cost("elevenlabs", ENDPOINT, seconds=seconds)
        check_cost(payload.cost_limit, estimate, "The music")
        await close_lost_calls(ctx)
        notes: list[str] = []
        if payload.duration_sec is not None and payload.duration_sec * 1000 < SHORTEST_MS:
            notes.append(f"Music lasts at least 3 s; {payload.duration_sec:g} s were asked.")
        output_format = _output_format(payload, notes)
        same = identity_of(payload, output_format)
        await reuse_if_made(
            ctx,
            "elevenlabs",
            ENDPOINT,
            request=same,
            identity=same,
            takes_seed=bool(same["plan"]),  # ElevenLabs takes a seed with a plan only
            estimate_usd=estimate,
        )
        arguments = await plan_music(provider, payload, seed_of(ctx.job), notes)
        target = ctx.workdir / "music.mp3"

        async def compose(arguments: dict[str, Any], step: int) -> str:
            return await direct_call(
                ctx,
                "elevenlabs",
                ENDPOINT,
                arguments,
                lambda: provider.compose(target, output_format=output_format, **arguments),
                estimate_usd=estimate,
                step=step,
                identity=same,
            )

        try:
            request_id = await compose(arguments, 0)
        except ProviderError as error:
            changed = suggested(error, arguments, payload.length_ms)
            if changed is None:
                raise
            notes.append("ElevenLabs refused the wording and offered another, which was used.")
            request_id = await compose(changed, 1)
        made = await store(
            ctx, target, "music", kind="audio", provider="elevenlabs", at_least_s=0.5 * seconds
        )
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


async def plan_music(
    provider: ElevenLabsProvider, payload: MusicPayload, seed: int, notes: list[str]
) -> dict[str, Any]:
    """The arguments of `compose`: by prompt if the payload has one with its length, else by plan."""
    model = payload.model_id or MODELS[0]
    if model not in MODELS:
        notes.append(f"modelId {model} makes no music; {MODELS[0]} was asked instead.")
        model = MODELS[0]
    prompt = prompt_of(payload)
    if not _is_by_plan(payload):
        return {
            "prompt": prompt,
            "music_length_ms": payload.length_ms,
            "force_instrumental": True,
            "model_id": model,
        }
    plan = await _provider_plan(provider, payload, prompt, model, notes)
    if plan is None:
        plan = local_plan(
            styles=payload.styles or [prompt],
            structure=payload.structure,
            instructions=payload.instructions,
            length_ms=payload.length_ms,
        )
    arguments: dict[str, Any] = {"model_id": model, "seed": seed}
    if model == MODELS[0]:
        return {**arguments, "composition_plan": plan, "respect_sections_durations": True}
    return {**arguments, "composition_plan": as_chunks(plan)}


def _is_by_plan(payload: MusicPayload) -> bool:
    if payload.use_composition_plan is not None:
        return payload.use_composition_plan
    return not (payload.prompt and payload.music_length_ms)


def identity_of(payload: MusicPayload, output_format: str) -> dict[str, Any]:
    """What makes two cues the same music: the cue, not the plan that is made of it anew each time."""
    return {
        "prompt": prompt_of(payload),
        "plan": _is_by_plan(payload),
        "music_length_ms": payload.length_ms,
        "model_id": payload.model_id or MODELS[0],
        "output_format": output_format,
    }


def prompt_of(payload: MusicPayload) -> str:
    """The cue in one text, for the prompt or for the plan."""
    parts = [payload.prompt, ", ".join(payload.styles)]
    if payload.structure:
        parts.append(f"structure: {payload.structure}")
    parts += [payload.instructions, "instrumental, no vocals"]
    return "; ".join(part.strip().rstrip(".;") for part in parts if part and part.strip()) + "."


def suggested(error: ProviderError, arguments: dict[str, Any], length_ms: int) -> dict[str, Any] | None:
    """The arguments with the wording that a refusal offers instead; None if it offers none."""
    suggestion = error.detail.get("suggestion")
    if error.error_class is not ErrorClass.CONTENT_REJECTED or not suggestion:
        return None
    if isinstance(suggestion, str) and "prompt" in arguments:
        return {**arguments, "prompt": suggestion}
    if isinstance(suggestion, dict) and "composition_plan" in arguments:
        return {**arguments, "composition_plan": fitted(suggestion, length_ms)}
    return None


async def _provider_plan(
    provider: ElevenLabsProvider, payload: MusicPayload, prompt: str, model: str, notes: list[str]
) -> dict[str, Any] | None:
    """ElevenLabs' own plan, fitted; None if it makes none. A refused prompt is tried as it suggests, once."""
    length = payload.length_ms
    for _ in range(2):
        try:
            plan = await provider.music_plan(prompt=prompt, music_length_ms=length, model_id=model)
        except ProviderError as error:
            suggestion = error.detail.get("suggestion")
            if error.error_class is ErrorClass.CONTENT_REJECTED and isinstance(suggestion, str):
                notes.append("ElevenLabs refused the plan's wording; the one it offered was used.")
                prompt = suggestion
                continue
            if error.error_class not in _PASSING:
                raise
            notes.append(f"The plan was made here: {error}")
            return None
        return fitted(plan, length)
    return None


def _output_format(payload: MusicPayload, notes: list[str]) -> str:
    output_format = payload.output_format or DEFAULT_FORMAT
    if output_format.startswith("mp3_"):
        return output_format
    notes.append(f"outputFormat {output_format} is not used for music; {DEFAULT_FORMAT} was asked.")
    return DEFAULT_FORMAT
