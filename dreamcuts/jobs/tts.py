"""Speech: a scene's narration, through ElevenLabs. Job type `tts_elevenlabs`.

The result carries the time of every word, so that captions need no transcription. A text over 2,000
characters is spoken in pieces that are joined frame by frame; a retry speaks all pieces again, as ElevenLabs
hands none over.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar, cast

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic.alias_generators import to_camel

from dreamcuts import mp3
from dreamcuts.errors import ErrorClass, ProviderError
from dreamcuts.jobs.base import JobContext, Payload, Result
from dreamcuts.jobs.paid import close_lost_calls, direct_call, reuse_if_made
from dreamcuts.jobs.produced import check_cost, seed_of, store
from dreamcuts.jobs.speech_text import has_tags, split_text, without_tags, words_of
from dreamcuts.providers import prices
from dreamcuts.providers.elevenlabs import ElevenLabsProvider, Speech

MODEL_V3 = "eleven_v3"
MODEL_V2 = "eleven_multilingual_v2"
DEPRECATED = {"eleven_monolingual_v1": MODEL_V2, "eleven_multilingual_v1": MODEL_V2}
"""ElevenLabs docs, "Models"."""
STABILITY = {"creative": 0.0, "natural": 0.5, "robust": 1.0}
"""ElevenLabs docs, "Eleven v3 prompting": the three settings that v3 knows."""
DEFAULT_FORMAT = "mp3_44100_128"
MAX_TEXT_CHARS = 20_000
CONTEXT_CHARS = 100
"""ElevenLabs SDK, text_to_dialogue: at most so much of the text before and after."""
FASTEST_CHARS_PER_S = 40.0
"""Faster than anyone speaks: shorter audio ended early."""
_CONTEXT = ("previous_text", "future_text", "next_text")


class VoiceSettings(BaseModel):
    """The payload's `voiceSettings`, in ElevenLabs' own snake_case or in camelCase."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="allow")

    stability: float | None = Field(None, ge=0, le=1)
    similarity_boost: float | None = Field(None, ge=0, le=1)
    style: float | None = Field(None, ge=0, le=1)
    use_speaker_boost: bool | None = None
    speed: float | None = Field(None, ge=0.7, le=1.2)


class DialogueSettings(BaseModel):
    """The payload's `dialogueSettings`."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="allow")

    stability: float | str | None = None
    use_audio_tags: bool | None = None
    enhance_emotion: bool | None = None

    @field_validator("stability")
    @classmethod
    def _stability_is_known(cls, value: float | str | None) -> float | None:
        if value is None or (isinstance(value, float) and 0 <= value <= 1):
            return value
        if isinstance(value, str) and value.lower() in STABILITY:
            return STABILITY[value.lower()]
        raise ValueError(f"{value!r} is no stability; give creative, natural, robust or a number from 0 to 1")


class TtsPayload(Payload):
    """Payload of `tts_elevenlabs`."""

    text: str = Field(max_length=MAX_TEXT_CHARS)
    original_text: str | None = None
    voice_id: str = Field(min_length=1)
    model_id: str | None = None
    voice_settings: VoiceSettings = Field(default_factory=lambda: VoiceSettings.model_validate({}))
    dialogue_settings: DialogueSettings = Field(default_factory=lambda: DialogueSettings.model_validate({}))
    output_format: str | None = None
    previous_text: str | None = None
    next_text: str | None = None
    seed: int | None = Field(None, ge=0, le=4_294_967_295)

    @field_validator("text")
    @classmethod
    def _text_can_be_spoken(cls, value: str) -> str:
        if not without_tags(value):
            raise ValueError("holds nothing to speak: give the narration's words")
        return value.strip()


@dataclass(frozen=True, slots=True)
class Plan:
    """How a payload is spoken: the route, the model, the pieces of text, and what was mapped or dropped."""

    endpoint: str
    model: str
    pieces: list[str]
    arguments: dict[str, Any]
    output_format: str
    notes: list[str]

    @property
    def is_dialogue(self) -> bool:
        """Whether the dialogue route speaks it, else the text-to-speech route."""
        return self.endpoint == "text-to-dialogue"


class TtsJob:
    """Speaks one narration."""

    name: ClassVar[str] = "tts_elevenlabs"
    short_name: ClassVar[str] = "tts"
    payload_model: ClassVar[type[Payload]] = TtsPayload
    default_slots: ClassVar[int] = 3
    retry_delay: ClassVar[timedelta] = timedelta(seconds=5)
    time_limit: ClassVar[timedelta] = timedelta(minutes=15)
    providers: ClassVar[tuple[str, ...]] = ("elevenlabs",)
    features: ClassVar[tuple[str, ...]] = ("text to dialogue", "audio tags", "word timings", "long texts")

    async def run(self, ctx: JobContext, payload: Any) -> Result:
        """Carry out one attempt."""
        assert isinstance(payload, TtsPayload)
        plan = plan_speech(payload, payload.seed if payload.seed is not None else seed_of(ctx.job))
        characters = sum(len(piece) for piece in plan.pieces)
        estimate = prices.cost("elevenlabs", plan.endpoint, characters=characters)
        check_cost(payload.cost_limit, estimate, "The speech")
        await close_lost_calls(ctx)
        same = identity_of(payload, plan)
        await reuse_if_made(
            ctx,
            "elevenlabs",
            plan.endpoint,
            request=same,
            identity=same,
            takes_seed=True,
            estimate_usd=estimate,
        )
        spoken = [
            await _speak(ctx, plan, index, payload, _around(payload, plan.pieces, index))
            for index in range(len(plan.pieces))
        ]
        target = ctx.workdir / "speech.mp3"
        target.write_bytes(spoken[0].audio if len(spoken) == 1 else mp3.join(item.audio for item in spoken))
        made = await store(ctx, target, "speech", kind="audio", provider="elevenlabs")
        data = {
            **made.as_result(),
            "provider": "elevenlabs",
            "endpoint": plan.endpoint,
            "requestId": spoken[0].request_id,
            "model": plan.model,
            "requestedModel": payload.model_id,
            "voiceId": payload.voice_id,
            "characters": characters,
            "words": _words(spoken),
            "fallbacks": [],
            "notes": plan.notes,
        }
        if estimate is not None:
            data["costUsd"] = estimate
        return Result(made.asset, data)


def plan_speech(payload: TtsPayload, seed: int) -> Plan:
    """Choose route and model: audio tags need a v3 model on the dialogue route, others keep their model."""
    notes: list[str] = []
    model = payload.model_id or MODEL_V3
    if model in DEPRECATED:
        notes.append(f"{model} is deprecated; {DEPRECATED[model]} was asked instead.")
        model = DEPRECATED[model]
    text, dialogue = payload.text, payload.dialogue_settings
    add_emotion = dialogue.enhance_emotion and dialogue.use_audio_tags is not False
    if dialogue.enhance_emotion and not add_emotion:
        notes.append("use_audio_tags is false: enhance_emotion, which adds one, was left out.")
    if dialogue.use_audio_tags is False and has_tags(text):
        text = without_tags(text)
        notes.append("use_audio_tags is false: the audio tags in the text were left out.")
    wants_tags = dialogue.use_audio_tags or add_emotion or has_tags(text)
    if wants_tags and not _is_v3(model):
        notes.append(f"{model} takes no audio tags; {MODEL_V3} was asked instead.")
        model = MODEL_V3
    if add_emotion and not has_tags(text):
        text = _with_emotion(text, notes)
    output_format = payload.output_format or DEFAULT_FORMAT
    if not output_format.startswith("mp3_"):
        notes.append(f"outputFormat {output_format} is not used for speech; {DEFAULT_FORMAT} was asked.")
        output_format = DEFAULT_FORMAT
    pieces = split_text(text)
    if len(pieces) > 1:
        notes.append(f"The text was spoken in {len(pieces)} pieces.")
    if _is_v3(model):
        arguments = _dialogue_arguments(payload, notes)
        endpoint = "text-to-dialogue"
    else:
        arguments, endpoint = _speech_arguments(payload, model, notes), "text-to-speech"
    return Plan(endpoint, model, pieces, {**arguments, "model_id": model, "seed": seed}, output_format, notes)


def identity_of(payload: TtsPayload, plan: Plan) -> dict[str, Any]:
    """What makes two speeches the same one: all that is sent, but for a seed that the job did not ask for."""
    same = {name: value for name, value in plan.arguments.items() if name != "seed"}
    around = {"previous_text": payload.previous_text, "next_text": payload.next_text, "seed": payload.seed}
    same |= {name: value for name, value in around.items() if value is not None}
    return {
        **same,
        "pieces": plan.pieces,
        "voice_id": payload.voice_id,
        "output_format": plan.output_format,
    }


def _dialogue_arguments(payload: TtsPayload, notes: list[str]) -> dict[str, Any]:
    voice, stability = payload.voice_settings, payload.dialogue_settings.stability
    if stability is None:
        stability = voice.stability
    settings: dict[str, float] = {}
    if isinstance(stability, float):
        settings["stability"] = min(STABILITY.values(), key=lambda known: abs(known - stability))
    if voice.similarity_boost is not None:
        settings["similarity"] = voice.similarity_boost
    dropped = [name for name in ("style", "use_speaker_boost", "speed") if getattr(voice, name) is not None]
    if dropped:
        notes.append(f"The dialogue route takes no {', '.join(dropped)}; left out of voiceSettings.")
    arguments: dict[str, Any] = {"settings": settings} if settings else {}
    if payload.language_code:
        arguments["language_code"] = _language(payload.language_code)
    return arguments


def _speech_arguments(payload: TtsPayload, model: str, notes: list[str]) -> dict[str, Any]:
    settings = payload.voice_settings.model_dump(exclude_none=True, include=set(VoiceSettings.model_fields))
    arguments: dict[str, Any] = {"voice_settings": settings} if settings else {}
    if payload.language_code and model == MODEL_V2:
        notes.append(f"{model} takes no languageCode; it was left out.")  # it refuses it
    elif payload.language_code:
        arguments["language_code"] = _language(payload.language_code)
    return arguments


def _with_emotion(text: str, notes: list[str]) -> str:
    """enhance_emotion has no field of its own: a leading tag, where the punctuation shows which."""
    tag = {"!": "[excited]", "?": "[curious]"}.get(text.rstrip("\"'”’)»")[-1:])
    if tag is None:
        return text
    notes.append(f"enhance_emotion: {tag} was put before the text.")
    return f"{tag} {text}"


def _around(payload: TtsPayload, pieces: list[str], index: int) -> tuple[str, str]:
    """What is said before and after a piece, so that its tone fits."""
    before = pieces[index - 1] if index else payload.previous_text or ""
    after = pieces[index + 1] if index + 1 < len(pieces) else payload.next_text or ""
    return without_tags(before)[-CONTEXT_CHARS:], without_tags(after)[:CONTEXT_CHARS]


async def _speak(
    ctx: JobContext, plan: Plan, index: int, payload: TtsPayload, around: tuple[str, str]
) -> Speech:
    """Speak one piece. A model that refuses the text around it is asked once more without."""
    arguments = dict(plan.arguments)
    for name, text in zip(("previous_text", "future_text"), around, strict=True):
        if text:
            arguments[name if plan.is_dialogue or name == "previous_text" else "next_text"] = text
    try:
        return await _speak_once(ctx, plan, index, payload, arguments)
    except ProviderError as error:
        refused = error.error_class is ErrorClass.INVALID_REQUEST and any(n in str(error) for n in _CONTEXT)
        if not refused or not any(arguments.pop(name, None) for name in _CONTEXT):
            raise
        plan.notes.append(f"{plan.model} takes no text before and after; it was left out.")
        plain = {name: value for name, value in arguments.items() if name not in _CONTEXT}
        return await _speak_once(ctx, plan, index, payload, plain)


async def _speak_once(
    ctx: JobContext, plan: Plan, index: int, payload: TtsPayload, arguments: dict[str, Any]
) -> Speech:
    provider = cast(ElevenLabsProvider, ctx.provider("elevenlabs"))
    text, voice_id = plan.pieces[index], payload.voice_id

    async def call() -> Speech:
        if plan.is_dialogue:
            inputs = [{"text": text, "voice_id": voice_id}]
            spoken = await provider.dialogue(inputs=inputs, output_format=plan.output_format, **arguments)
        else:
            spoken = await provider.speech(voice_id, text=text, output_format=plan.output_format, **arguments)
        seconds = mp3.duration(spoken.audio) or 0.0
        if seconds < len(without_tags(text)) / FASTEST_CHARS_PER_S:
            raise ProviderError(
                f"ElevenLabs {plan.endpoint} ended early: {seconds:.2f} s for {len(text)} characters",
                provider="elevenlabs",
                error_class=ErrorClass.TRANSIENT,
                outcome_unknown=True,
            )
        return spoken

    estimate = prices.cost("elevenlabs", plan.endpoint, characters=len(text))
    kept = {"text": text, "voice_id": voice_id, **arguments}
    return await direct_call(
        ctx,
        "elevenlabs",
        plan.endpoint,
        kept,
        call,
        estimate_usd=estimate,
        step=index,
        identity=identity_of(payload, plan),
    )


def _words(spoken: list[Speech]) -> list[dict[str, object]]:
    words: list[dict[str, object]] = []
    offset = 0.0
    for piece in spoken:
        words += words_of(piece.characters, piece.starts, piece.ends, offset=offset)
        played = piece.audio if len(spoken) == 1 else mp3.join([piece.audio])
        offset += mp3.duration(played) or 0.0
    return words


def _language(code: str) -> str:
    """The language of a code like es-MX: ElevenLabs takes ISO 639 codes without a region."""
    return code.replace("_", "-").split("-")[0].lower()


def _is_v3(model: str) -> bool:
    return model.startswith(("eleven_v3", "eleven_v4"))
