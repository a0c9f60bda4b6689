"""The production manifest: what `manifest_json` holds, as models.

camelCase in JSON, snake_case in Python; unknown keys are kept. A null counts as "not given". Only what
nothing can be produced without is required; dreamcuts.manifest.validate finds what contradicts itself.

Beyond the producer's keys these are understood, all optional:

    assets.ID.prompt, .model, .generateAudio, .negativePrompt, .seed    how to make a generated asset
    scenes[].visuals[].lipSync       true: the asset (a face, role "character") speaks the narration;
                                     an object is merged into the lip sync job's payload
    scenes[].visuals[].durationSeconds   its part of the scene's time (default: equal parts)
    scenes[].visuals[].mimeType, .prompt     for a generated visual without an assetId
    audio.music.cueMap.ID.genre, .tempo, .instruments, .prompt
    audio.sfx[].durationSeconds, .loop, .promptInfluence
    render                           merged into the render job's payload
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

AspectRatio = Literal["16:9", "9:16", "1:1", "4:3"]

AUDIO_TAG = re.compile(r"\[[^\[\]]*\]")


def spoken(text: str) -> str:
    """`text` as it is heard and read: without audio tags such as `[excited]`, with single spaces."""
    return " ".join(AUDIO_TAG.sub(" ", text).split())


class Part(BaseModel):
    """Base of the manifest's models."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return {key: value for key, value in data.items() if value is not None}
        return data


class Metadata(Part):
    """The whole film. `duration_seconds` is its exact length."""

    duration_seconds: float = Field(gt=0, le=3600)
    aspect_ratio: AspectRatio = "16:9"
    platform: str | None = None
    language: str | None = None
    profile: str | None = None
    priority: int | str | None = None
    feature_flags: dict[str, Any] = Field(default_factory=dict)


class Voice(Part):
    """How a narration is spoken. `stability` is a number from 0 to 1, or the name of a dialogue style."""

    voice_id: str | None = None
    model_id: str | None = None
    stability: float | Literal["natural", "creative", "robust"] | None = None
    similarity_boost: float | None = None
    style: float | None = None
    use_speaker_boost: bool | None = None


class Visual(Part):
    """One thing that is seen in a scene."""

    type: str = "generated"
    asset_id: str | None = None
    shot: dict[str, Any] = Field(default_factory=dict)
    lip_sync: bool | dict[str, Any] = False
    duration_seconds: float | None = Field(default=None, gt=0)
    mime_type: str | None = None
    prompt: str | None = None


class SceneEffects(Part):
    """`transitions` names how the scene comes in; `layered_effects` is kept, not rendered."""

    transitions: list[Any] | str | None = None
    layered_effects: list[Any] | None = None


class Scene(Part):
    """A part of the film; its times are in seconds."""

    id: str = Field(min_length=1)
    start_at_sec: float | None = Field(default=None, ge=0)
    duration_seconds: float = Field(gt=0)
    purpose: str | None = None
    narration: str = ""
    tts: Voice = Field(default_factory=Voice)
    music_cue: str | None = None
    visual_anchor: str | None = None
    visuals: list[Visual] = Field(default_factory=list)
    effects: SceneEffects = Field(default_factory=SceneEffects)


class Asset(Part):
    """A file of the film: the user's own (`origin_url`), or one that a job makes."""

    id: str | None = None
    source: Literal["user", "generated"] = "generated"
    origin_url: str | None = None
    mime_type: str | None = None
    role: str | None = None
    duration_seconds: float | None = Field(default=None, gt=0)
    status: str | None = None
    prompt: str | None = None

    @property
    def is_video(self) -> bool:
        return (self.mime_type or "").startswith("video/")


class Cue(Part):
    """A piece of music and where it plays."""

    id: str | None = None
    start_sec: float | None = Field(default=None, ge=0)
    duration_sec: float | None = Field(default=None, gt=0)
    mood: str | None = None
    structure: str | None = None
    instructions: str | None = None
    genre: str | None = None
    tempo: str | float | None = None
    instruments: list[str] = Field(default_factory=list)
    prompt: str | None = None


class Music(Part):
    """All music. `duck_to_voice` keeps it low under the narration; a number from 0 to 1 says how loud."""

    cue_map: dict[str, Cue] = Field(default_factory=dict)
    duck_to_voice: bool | float = True


class SoundEffect(Part):
    """A sound. `start_at` counts from the start of its scene, or of the film if it names none."""

    id: str = Field(min_length=1)
    cue: str = Field(min_length=1)
    scene_id: str | None = None
    start_at: float = Field(default=0, ge=0)
    duration_seconds: float | None = Field(default=None, ge=0.5, le=22)
    loop: bool = False
    prompt_influence: float = Field(default=0.3, ge=0, le=1)


class Audio(Part):
    """What is heard."""

    tts_defaults: Voice = Field(default_factory=Voice)
    music: Music = Field(default_factory=Music)
    sfx: list[SoundEffect] = Field(default_factory=list)


class Effects(Part):
    """Film-wide effects."""

    allowed: list[str] | None = None
    default_transition: str | None = None


class Manifest(Part):
    """A whole production."""

    metadata: Metadata
    scenes: list[Scene] = Field(min_length=1)
    assets: dict[str, Asset] = Field(default_factory=dict)
    audio: Audio = Field(default_factory=Audio)
    visuals: dict[str, Any] = Field(default_factory=dict)
    effects: Effects = Field(default_factory=Effects)
    consistency: dict[str, Any] = Field(default_factory=dict)
    jobs: list[dict[str, Any]] = Field(default_factory=list)
    render: dict[str, Any] = Field(default_factory=dict)

    def in_order(self) -> list[tuple[Scene, float]]:
        """The scenes in the order of the film, each with its start in seconds.

        The order is that of `startAtSec` where every scene has one. Starts follow from the durations, so that
        the scenes leave no gap whatever rounding the producer used.
        """
        scenes = list(self.scenes)
        if all(scene.start_at_sec is not None for scene in scenes):
            scenes.sort(key=lambda scene: scene.start_at_sec or 0.0)
        placed, start = [], 0.0
        for scene in scenes:
            placed.append((scene, round(start, 4)))
            start += scene.duration_seconds
        return placed

    def sound_start(self, sound: SoundEffect) -> float:
        """When a sound effect starts, in seconds from the start of the film.

        `startAt` counts from its scene's start. A value past the end of the scene, but inside it when counted
        from the start of the film, is taken as that: producers write both.
        """
        for scene, start in self.in_order():
            if scene.id == sound.scene_id:
                end = start + scene.duration_seconds
                is_absolute = sound.start_at >= scene.duration_seconds and start <= sound.start_at < end
                return round(sound.start_at if is_absolute else start + sound.start_at, 4)
        return sound.start_at

    def cue_span(self, cue_id: str) -> tuple[float, float]:
        """Start and length of a music cue in seconds, cut to the film.

        What the cue does not say follows from the scenes that name it as `musicCue`; without any, it is the
        whole film.
        """
        cue, total = self.audio.music.cue_map[cue_id], self.metadata.duration_seconds
        users = [(s, start) for s, start in self.in_order() if s.music_cue == cue_id]
        first = users[0][1] if users else 0.0
        start = min(cue.start_sec if cue.start_sec is not None else first, total)
        end = users[-1][1] + users[-1][0].duration_seconds if users else total
        length = cue.duration_sec if cue.duration_sec is not None else end - start
        return round(start, 4), round(max(0.0, min(length, total - start)), 4)
