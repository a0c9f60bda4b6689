"""What ElevenLabs' requests may hold, and the checks that go beyond a field's type (API reference)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

Fault = Callable[..., Exception]

DIALOGUE_CHARACTERS = 2000
DIALOGUE_VOICES = 10
_VOICE = re.compile(r"^[A-Za-z0-9_-]{1,64}$")


@dataclass(frozen=True, slots=True)
class Model:
    """A speech model: its name, the longest text it takes, and whether it knows audio tags."""

    id: str
    name: str
    characters: int
    dialogue: bool = False

    def as_json(self) -> dict[str, Any]:
        """The model as `GET /v1/models` answers it."""
        return {
            "model_id": self.id,
            "name": self.name,
            "can_do_text_to_speech": True,
            "can_do_voice_conversion": False,
            "can_be_finetuned": False,
            "can_use_style": not self.dialogue,
            "can_use_speaker_boost": not self.dialogue,
            "serves_pro_voices": False,
            "token_cost_factor": 1.0,
            "requires_alpha_access": False,
            "max_characters_request_free_user": self.characters,
            "max_characters_request_subscribed_user": self.characters,
            "maximum_text_length_per_request": self.characters,
            "languages": [{"language_id": "en", "name": "English"}, {"language_id": "es", "name": "Spanish"}],
        }


MODELS = {
    model.id: model
    for model in (
        Model("eleven_v3", "Eleven v3", 5000, dialogue=True),
        Model("eleven_multilingual_v2", "Eleven Multilingual v2", 10000),
        Model("eleven_flash_v2_5", "Eleven Flash v2.5", 40000),
        Model("eleven_flash_v2", "Eleven Flash v2", 30000),
        Model("eleven_turbo_v2_5", "Eleven Turbo v2.5", 40000),
    )
}

Seed = Annotated[int, Field(ge=0, le=4294967295)]
Share = Annotated[float, Field(ge=0, le=1)]
MusicModel = Literal["music_v1", "music_v2", "music_v2_5"]
MusicLength = Annotated[int, Field(ge=3000, le=600_000)]


class DialogueInput(BaseModel):
    text: str
    voice_id: str


class DialogueSettings(BaseModel):
    stability: Share | None = None
    similarity: Share | None = None
    clone_strength: Share | None = None


class Dialogue(BaseModel):
    inputs: list[DialogueInput] = Field(min_length=1)
    model_id: str = "eleven_v3"
    language_code: str | None = None
    settings: DialogueSettings | None = None
    seed: Seed | None = None
    apply_text_normalization: Literal["auto", "on", "off"] = "auto"


class VoiceSettings(BaseModel):
    stability: Share | None = None
    similarity_boost: Share | None = None
    style: Share | None = None
    use_speaker_boost: bool | None = None
    speed: Annotated[float, Field(ge=0.7, le=1.2)] | None = None


class TextToSpeech(BaseModel):
    text: str = Field(min_length=1)
    model_id: str = "eleven_multilingual_v2"
    language_code: str | None = None
    voice_settings: VoiceSettings | None = None
    seed: Seed | None = None
    previous_text: str | None = None
    next_text: str | None = None


class MusicPlanRequest(BaseModel):
    prompt: str = Field(min_length=1, max_length=4100)
    music_length_ms: MusicLength | None = None
    model_id: MusicModel = "music_v1"


class Section(BaseModel):
    section_name: str = Field(min_length=1, max_length=100)
    positive_local_styles: list[str]
    negative_local_styles: list[str]
    duration_ms: int = Field(ge=3000, le=120_000)
    lines: list[Annotated[str, Field(max_length=200)]] = Field(max_length=30)


class SectionPlan(BaseModel):
    positive_global_styles: list[str]
    negative_global_styles: list[str]
    sections: list[Section] = Field(min_length=1)


class Chunk(BaseModel):
    text: str
    duration_ms: int = Field(ge=3000, le=120_000)
    positive_styles: list[str]
    negative_styles: list[str] = Field(default_factory=list)
    context_adherence: Literal["low", "medium", "high"] | None = None


class ChunkPlan(BaseModel):
    chunks: list[Chunk] = Field(min_length=1)


class Compose(BaseModel):
    prompt: str | None = Field(None, max_length=4100)
    composition_plan: SectionPlan | ChunkPlan | None = None
    music_length_ms: MusicLength | None = None
    model_id: MusicModel = "music_v1"
    seed: Seed | None = None
    force_instrumental: bool | None = None
    respect_sections_durations: bool | None = None

    @model_validator(mode="after")
    def _exclusive(self) -> Compose:
        if self.prompt is not None and self.composition_plan is not None:
            raise ValueError("prompt and composition_plan cannot be used together")
        if self.prompt is None and self.composition_plan is None:
            raise ValueError("one of prompt and composition_plan is required")
        if self.prompt is None and (self.music_length_ms is not None or self.force_instrumental):
            raise ValueError("music_length_ms and force_instrumental can only be used with prompt")
        if self.prompt is not None and self.seed is not None:
            raise ValueError("seed cannot be used with prompt")
        return self


class SoundEffect(BaseModel):
    text: str = Field(min_length=1)
    loop: bool = False
    duration_seconds: Annotated[float, Field(ge=0.5, le=30)] | None = None
    prompt_influence: Share | None = None
    model_id: Literal["eleven_text_to_sound_v2", "eleven_text_to_sound_v3"] = "eleven_text_to_sound_v2"


def check_voice(voice_id: str, fault: Fault) -> None:
    """Refuse an id that no voice can have, and, for tests, every id that begins with `missing`."""
    if not _VOICE.match(voice_id) or voice_id.startswith("missing"):
        raise fault(404, "voice_not_found", f"A voice with the voice_id {voice_id} was not found.")


def check_model(model_id: str, fault: Fault) -> None:
    """Refuse a model that does not exist."""
    if model_id not in MODELS:
        raise fault(
            400, "model_not_found", f"A model with model_id {model_id} does not exist.", param="model_id"
        )


def check_dialogue(body: Dialogue, fault: Fault) -> None:
    """The dialogue's rules: a v3 model, at most 10 voices, at most 2,000 characters, voices that exist."""
    check_model(body.model_id, fault)
    if not MODELS[body.model_id].dialogue:
        message = f"The model {body.model_id} cannot be used for text to dialogue; use eleven_v3."
        raise fault(400, "invalid_parameters", message, param="model_id")
    voices = {item.voice_id for item in body.inputs}
    if len(voices) > DIALOGUE_VOICES:
        raise fault(
            422, "invalid_parameters", f"At most {DIALOGUE_VOICES} voices, not {len(voices)}.", param="inputs"
        )
    for voice in sorted(voices):
        check_voice(voice, fault)
    count = sum(len(item.text) for item in body.inputs)
    if count > DIALOGUE_CHARACTERS:
        message = f"The inputs have {count} characters; at most {DIALOGUE_CHARACTERS} are allowed."
        raise fault(400, "text_too_long", message, param="inputs")


def check_compose(body: Compose, fault: Fault) -> dict[str, Any]:
    """The plan as a plain object (empty in prompt mode); refuses a plan of another model's shape."""
    plan = body.composition_plan
    if plan is None:
        return {}
    if isinstance(plan, SectionPlan) != (body.model_id == "music_v1"):
        message = f"This shape of composition plan does not fit the model {body.model_id}."
        raise fault(400, "invalid_parameters", message, param="composition_plan")
    return plan.model_dump()


def check_sound(body: SoundEffect, fault: Fault) -> None:
    """Looping is for the v2 model only."""
    if body.loop and body.model_id != "eleven_text_to_sound_v2":
        raise fault(
            400, "invalid_parameters", "loop is only available for eleven_text_to_sound_v2.", param="loop"
        )
