"""A manifest becomes jobs.

`manifest_json.jobs` is taken as it is where the producer wrote it. Otherwise the jobs follow from the scenes,
assets and sounds:

    job_tts_{scene}             scene with a narration
    job_gen_{asset}             asset with source "generated": an image, or a video if its mimeType is video/*
    video_{scene}               generated visual without an assetId
    job_lipsync_{scene}         visual with lipSync, in a scene with a narration
    job_music_{cue}             entry of audio.music.cueMap
    sound_effect_{scene}_{n}    entry of audio.sfx, counted from 1 in each scene ("film" without a scene)
    job_render_shotstack        once; depends on all others
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dreamcuts.manifest.model import (
    AUDIO_TAG,
    Asset,
    Cue,
    Manifest,
    Scene,
    SoundEffect,
    Visual,
    Voice,
    spoken,
)

TTS = "tts_elevenlabs"
IMAGE = "gen_image_falai"
VIDEO = "gen_video_falai"
LIPSYNC = "lip_sync_lypsso"
MUSIC = "gen_music_elevenlabs"
SOUND = "gen_sound_effects_elevenlabs"
RENDER = "render_shotstack"

PRIORITIES = {TTS: 10, VIDEO: 9, IMAGE: 8, LIPSYNC: 8, MUSIC: 7, SOUND: 6, RENDER: 5}
"""What others wait for, or what takes longest, first; metadata.priority shifts all of them."""

DEFAULT_PRIORITY = 5
DEFAULT_MAX_ATTEMPTS = 3
DEFAULT_SOUND_S = 2.0
DEFAULT_TTS_MODEL = "eleven_v3"
VEO_SECONDS = (4, 6, 8)

IMAGE_SIZES = {"16:9": "landscape_16_9", "9:16": "portrait_16_9", "1:1": "square_hd", "4:3": "landscape_4_3"}
"""fal's names of its presets by aspect ratio."""
FRAME_SIZES = {"16:9": (1280, 720), "9:16": (720, 1280), "1:1": (1080, 1080), "4:3": (960, 720)}
"""Pixels of the finished film by aspect ratio, where nothing else is asked for."""


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A job to be inserted. An empty `retry_policy` means that its type's own applies."""

    job_id: str
    type: str
    priority: int
    payload: dict[str, Any]
    depends_on: tuple[str, ...] = ()
    retry_policy: dict[str, Any] = field(default_factory=dict)
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    metadata: dict[str, Any] = field(default_factory=dict)

    def as_row(self) -> dict[str, Any]:
        """The job with the column names of `dreamcut_jobs`."""
        return {
            "job_id": self.job_id,
            "type": self.type,
            "priority": self.priority,
            "payload": self.payload,
            "depends_on": list(self.depends_on),
            "retry_policy": self.retry_policy,
            "max_attempts": self.max_attempts,
            "metadata": self.metadata,
        }


def decompose(manifest: Mapping[str, Any] | Manifest) -> list[JobSpec]:
    """The jobs of a manifest, the render last. Raises pydantic.ValidationError if it is malformed."""
    model = manifest if isinstance(manifest, Manifest) else Manifest.model_validate(manifest)
    if model.jobs:
        return [given_job(entry) for entry in model.jobs]
    return _Derivation(model).jobs()


def given_job(entry: Mapping[str, Any]) -> JobSpec:
    """A job as the producer wrote it, in the manifest's spelling (id, dependsOn) or the table's."""

    def get(*names: str) -> Any:
        return next((entry[name] for name in names if entry.get(name) is not None), None)

    policy = get("retryPolicy", "retry_policy") or {}
    attempts = get("maxAttempts", "max_attempts")
    if attempts is None:
        retries = policy.get("maxRetries") if isinstance(policy, Mapping) else None
        attempts = retries + 1 if isinstance(retries, int) else DEFAULT_MAX_ATTEMPTS
    priority = get("priority")
    return JobSpec(
        job_id=str(get("id", "job_id", "jobId") or ""),
        type=str(get("type") or ""),
        priority=priority if isinstance(priority, int) else DEFAULT_PRIORITY,
        payload=get("payload") or {},
        depends_on=tuple(get("dependsOn", "depends_on") or ()),
        retry_policy=policy,
        max_attempts=attempts,
        metadata=get("metadata") or {},
    )


class _Derivation:
    """Walks a manifest once and collects its jobs."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.meta = manifest.metadata
        self.scenes = manifest.in_order()
        self.found: list[JobSpec] = []

    def jobs(self) -> list[JobSpec]:
        for position, (scene, _) in enumerate(self.scenes):
            if spoken(scene.narration):
                self._add(f"job_tts_{scene.id}", TTS, self._speech(position))
        for asset_id, asset in self.manifest.assets.items():
            if asset.source == "generated" and not asset.origin_url:
                self._asset(asset_id, asset)
        for scene, start in self.scenes:
            self._scene_visuals(scene, start)
        for cue_id, cue in self.manifest.audio.music.cue_map.items():
            self._add(f"job_music_{cue_id}", MUSIC, self._music(cue_id, cue))
        counts: Counter[str] = Counter()
        for sound in self.manifest.audio.sfx:
            place = sound.scene_id or "film"
            counts[place] += 1
            self._add(f"sound_effect_{place}_{counts[place]}", SOUND, self._sound(sound))
        flag = self.meta.feature_flags.get("onDependencyFailure")
        self._add(
            "job_render_shotstack",
            RENDER,
            self._render(),
            tuple(job.job_id for job in self.found),
            {"onDependencyFailure": flag} if flag in ("run", "cancel") else {},
        )
        return self.found

    def _add(
        self,
        job_id: str,
        job_type: str,
        payload: dict[str, Any],
        depends_on: tuple[str, ...] = (),
        metadata: dict[str, Any] | None = None,
    ) -> None:
        wanted = self.meta.priority
        named = {"low": 0, "high": 10, "urgent": 15}.get(str(wanted).lower(), DEFAULT_PRIORITY)
        shift = (wanted if isinstance(wanted, int) else named) - DEFAULT_PRIORITY
        priority = max(0, min(20, PRIORITIES[job_type] + shift))
        kept = {key: value for key, value in payload.items() if value is not None}
        self.found.append(JobSpec(job_id, job_type, priority, kept, depends_on, metadata=metadata or {}))

    def _speech(self, position: int) -> dict[str, Any]:
        scene = self.scenes[position][0]
        voice = self._voice(scene.tts)
        style = voice.stability if isinstance(voice.stability, str) else None
        settings = {
            "stability": None if style else voice.stability,
            "similarity_boost": voice.similarity_boost,
            "style": voice.style,
            "use_speaker_boost": voice.use_speaker_boost,
        }
        settings = {key: value for key, value in settings.items() if value is not None}
        texts = [spoken(scene.narration) for scene, _ in self.scenes]
        has_tags = AUDIO_TAG.search(scene.narration) is not None
        return {
            "sceneId": scene.id,
            "text": scene.narration.strip(),
            "originalText": texts[position],
            "voiceId": voice.voice_id,
            "modelId": voice.model_id or DEFAULT_TTS_MODEL,
            "voiceSettings": settings or None,
            "dialogueSettings": {
                "stability": style or "natural",
                "use_audio_tags": has_tags,
                "enhance_emotion": False,
            },
            "previousText": texts[position - 1] or None if position else None,
            "nextText": texts[position + 1] or None if position + 1 < len(texts) else None,
            "languageCode": self.meta.language,
            "outputFormat": "mp3_44100_128",
        }

    def _voice(self, own: Voice) -> Voice:
        defaults = self.manifest.audio.tts_defaults
        return defaults.model_copy(update=own.model_dump(exclude_none=True))

    def _asset(self, asset_id: str, asset: Asset) -> None:
        users = [
            (scene, visual)
            for scene, _ in self.scenes
            for visual in scene.visuals
            if visual.asset_id == asset_id
        ]
        scene, visual = users[0] if users else (None, None)
        prompt = asset.prompt or self._prompt(scene, visual, asset_id)
        extra = asset.model_extra or {}
        common = {"sceneId": scene.id if scene else None, "assetId": asset_id, "prompt": prompt}
        common |= {"model": extra.get("model"), "endpoint": extra.get("endpoint"), "seed": extra.get("seed")}
        if asset.is_video:
            length = asset.duration_seconds or max((s.duration_seconds for s, _ in users), default=8.0)
            payload = common | self._video(asset_id, length) | {"model": extra.get("model", "veo3-fast")}
            payload |= {key: extra[key] for key in ("generateAudio", "negativePrompt") if key in extra}
            self._add(f"job_gen_{asset_id}", VIDEO, payload)
            return
        self._add(f"job_gen_{asset_id}", IMAGE, common | self._image(extra.get("model")))

    def _image(self, model: str | None) -> dict[str, Any]:
        return {
            "model": model or "flux-srpo",
            "imageSize": IMAGE_SIZES[self.meta.aspect_ratio],
            "numImages": 1,
            "enableSafetyChecker": True,
        }

    def _video(self, video_id: str, length: float) -> dict[str, Any]:
        seconds = next((value for value in VEO_SECONDS if value >= length), VEO_SECONDS[-1])
        return {
            "videoId": video_id,
            "model": "veo3-fast",
            "duration": f"{seconds}s",
            "resolution": "720p",
            # The model knows the two long shapes; the render crops to the others.
            "aspectRatio": "9:16" if self.meta.aspect_ratio == "9:16" else "16:9",
            "generateAudio": False,
        }

    def _scene_visuals(self, scene: Scene, start: float) -> None:
        own = [v for v in scene.visuals if not v.asset_id and v.type == "generated"]
        for number, visual in enumerate(own, 1):
            job_id = f"video_{scene.id}" + (f"_{number}" if len(own) > 1 else "")
            share = visual.duration_seconds or scene.duration_seconds / len(scene.visuals)
            prompt = visual.prompt or self._prompt(scene, visual, scene.id)
            payload = {"sceneId": scene.id, "prompt": prompt} | self._video(job_id, share)
            if (visual.mime_type or "video/").startswith("image/"):
                payload = {"sceneId": scene.id, "assetId": job_id, "prompt": prompt} | self._image(None)
                self._add(f"job_gen_{job_id}", IMAGE, payload)
            else:
                self._add(job_id, VIDEO, payload)
        speaking = next((v for v in scene.visuals if v.lip_sync and v.asset_id), None)
        if speaking is not None and spoken(scene.narration):
            self._lip_sync(scene, speaking, start)

    def _lip_sync(self, scene: Scene, visual: Visual, start: float) -> None:
        speech, face = f"job_tts_{scene.id}", f"job_gen_{visual.asset_id}"
        payload: dict[str, Any] = {
            "sceneId": scene.id,
            "audioJobId": speech,
            "videoAssetId": visual.asset_id,
            "audioUrl": f"{{{{job_result:{speech}}}}}",
            "videoUrl": f"{{{{asset_url:{visual.asset_id}}}}}",
            "startTime": start,
            "endTime": round(start + scene.duration_seconds, 4),
        }
        if isinstance(visual.lip_sync, dict):
            payload |= visual.lip_sync
        made = [job.job_id for job in self.found if job.job_id == face]
        self._add(f"job_lipsync_{scene.id}", LIPSYNC, payload, (speech, *made))

    def _music(self, cue_id: str, cue: Cue) -> dict[str, Any]:
        start, length = self.manifest.cue_span(cue_id)
        if cue.prompt:
            return {"cueId": cue_id, "prompt": cue.prompt, "musicLengthMs": round(length * 1000)}
        return {
            "cueId": cue_id,
            "mood": cue.mood,
            "structure": cue.structure,
            "startSec": start,
            "durationSec": length,
            "instructions": cue.instructions,
            "genre": cue.genre,
            "tempo": cue.tempo,
            "instruments": cue.instruments or None,
            "useCompositionPlan": True,
        }

    def _sound(self, sound: SoundEffect) -> dict[str, Any]:
        start = self.manifest.sound_start(sound)
        length = sound.duration_seconds or DEFAULT_SOUND_S
        return {
            "sceneId": sound.scene_id,
            "effectId": sound.id,
            "text": sound.cue,
            "durationSeconds": length,
            "loop": sound.loop,
            "promptInfluence": sound.prompt_influence,
            "startTime": start,
            "endTime": round(start + length, 4),
        }

    def _render(self) -> dict[str, Any]:
        width, height = FRAME_SIZES[self.meta.aspect_ratio]
        flags = self.meta.feature_flags
        return {
            "manifestId": "MANIFEST_PLACEHOLDER",
            "environment": "stage",
            "outputFormat": "mp4",
            "quality": "high",
            "resolution": {"width": width, "height": height},
            "enableCaptions": bool(flags.get("enableCaptions", True)),
            "enableTransitions": bool(flags.get("enableTransitions", True)),
            "transitionType": self.manifest.effects.default_transition,
            "backgroundMusic": bool(self.manifest.audio.music.cue_map),
        } | self.manifest.render

    def _prompt(self, scene: Scene | None, visual: Visual | None, name: str) -> str:
        """A prompt for what has none of its own: what the scene shows, how it is shot, how the film looks."""
        shot = visual.shot if visual else {}
        parts = [
            (scene.visual_anchor or spoken(scene.narration)) if scene else name.replace("_", " "),
            shot.get("camera") and f"{shot['camera']} shot",
            shot.get("focal") and f"{shot['focal']} lens",
            self.manifest.consistency.get("tone"),
        ]
        return ", ".join(str(part) for part in parts if part)
