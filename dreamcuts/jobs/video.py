"""Video clips from a prompt or a picture, through fal. Job type `gen_video_falai`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, field_validator

from dreamcuts.jobs.base import JobContext, Payload, Result
from dreamcuts.jobs.catalogue import Catalogue, Choice, FallbackEntry, not_taken, over_longest
from dreamcuts.jobs.paid import Collected, Request, Skip, Step, run_chain
from dreamcuts.jobs.produced import Produced, fetch, result_data
from dreamcuts.providers import prices
from dreamcuts.providers.base import Done

VEO = "fal-ai/veo3.1/fast"
WAN_EFFECTS = "fal-ai/wan-effects"
WAN_I2V = "fal-ai/wan-i2v"
INFINITALK = "fal-ai/infinitalk"

CATALOGUE = Catalogue(
    what="video",
    models={"veo3-fast": VEO, "wan-effects": WAN_EFFECTS, "wan-i2v": WAN_I2V, "infinitalk": INFINITALK},
    default=("veo3-fast", "wan-effects", "wan-i2v"),
    retired={"fal-ai/veo3/fast": VEO},
)

VEO_SECONDS = (4, 6, 8)
WAN_FRAMES = (81, 100)
WAN_FPS = 16
INFINITALK_FRAMES = (41, 721)
INFINITALK_FPS = 25
WAN_EFFECTS_SECONDS = 81 / 16
# fmt: off
EFFECTS = (  # fal docs, Wan Effects: `effect_type`
    "squish", "muscle", "inflate", "crush", "rotate", "gun-shooting", "deflate", "cakeify", "hulk", "baby",
    "bride", "classy", "puppy", "snow-white", "disney-princess", "mona-lisa", "painting", "pirate-captain",
    "princess", "jungle", "samurai", "vip", "warrior", "zen", "assassin", "timelapse", "tsunami", "fire",
    "zoom-call", "doom-fps", "fus-ro-dah", "hug-jesus", "robot-face-reveal", "super-saiyan", "jumpscare",
    "laughing", "cartoon-jaw-drop", "crying", "kissing", "angry-face", "selfie-younger-self", "animeify",
    "blast",
)
# fmt: on
GENTLE_EFFECT = "timelapse"
"""What a clip gets that asks for no effect: the model has no neutral one."""

POLL_S = 3.0
LIMIT_S = 900.0
_NEEDS_IMAGE = "needs a source image (imageUrl), and neither the job nor its scene has one"


class VideoPayload(Payload):
    """Payload of `gen_video_falai`."""

    prompt: str = Field(min_length=1)
    video_id: str | None = None
    asset_id: str | None = None
    model: Annotated[str | None, AfterValidator(CATALOGUE.known)] = None
    endpoint: Annotated[str | None, AfterValidator(CATALOGUE.known)] = None
    duration: str | float | None = Field(None, description='Seconds, as a number or like "8s"')
    resolution: str | None = None
    aspect_ratio: str | None = None
    generate_audio: bool | None = None
    image_url: str | None = None
    audio_url: str | None = None
    negative_prompt: str | None = None
    seed: int | None = Field(None, ge=0)
    subject: str | None = None
    effect_type: str | None = None
    fallback_providers: list[Annotated[FallbackEntry, AfterValidator(CATALOGUE.known_entry)]] | None = None

    @field_validator("prompt")
    @classmethod
    def _prompt_says_something(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("is blank: say what the video shows")
        return value.strip()

    @field_validator("duration")
    @classmethod
    def _duration_is_seconds(cls, value: str | float | None) -> float | None:
        if value is None:
            return None
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:s|sec|seconds)?\s*", str(value))
        seconds = float(match[1]) if match else 0.0
        if not 0 < seconds <= 60:
            raise ValueError(f'{value!r} is no length; give seconds up to 60, e.g. 8 or "8s"')
        return seconds

    @field_validator("effect_type")
    @classmethod
    def _effect_is_known(cls, value: str | None) -> str | None:
        if value is not None and value not in EFFECTS:
            raise ValueError(f"{value!r} is no effect; known: {', '.join(EFFECTS)}")
        return value


@dataclass(frozen=True, slots=True)
class Source:
    """What the models may need besides the payload: a picture's URL, the frame's shape, sound in seconds."""

    image_url: str | None
    aspect: str
    audio_s: float | None = None


class VideoJob:
    """Makes one clip."""

    name: ClassVar[str] = "gen_video_falai"
    short_name: ClassVar[str] = "video"
    payload_model: ClassVar[type[Payload]] = VideoPayload
    default_slots: ClassVar[int] = 1
    retry_delay: ClassVar[timedelta] = timedelta(seconds=15)
    time_limit: ClassVar[timedelta] = timedelta(minutes=50)
    providers: ClassVar[tuple[str, ...]] = ("fal",)
    features: ClassVar[tuple[str, ...]] = (
        "text to video",
        "image to video",
        "fallback: veo3-fast, wan-effects, wan-i2v",
        "resumes open requests",
    )

    async def run(self, ctx: JobContext, payload: Any) -> Result:
        """Carry out one attempt."""
        assert isinstance(payload, VideoPayload)
        choices = CATALOGUE.choices(payload.model, payload.endpoint, payload.fallback_providers)
        source = await _source(ctx, payload)
        if payload.fallback_providers is None and payload.audio_url and source.image_url:
            talking = CATALOGUE.choose(INFINITALK, None)
            choices += [talking] if talking not in choices else []
        steps = CATALOGUE.steps(
            choices, lambda choice: plan(choice, payload, source), cost_limit=payload.cost_limit
        )

        async def collect(step: Step, done: Done) -> Collected[Produced]:
            shortest = 0.3 if step.endpoint == INFINITALK else 1.0  # as long as the speech
            made = await fetch(
                ctx, step, done.output.get("video"), "video", kind="video", at_least_s=shortest
            )
            return Collected(made, step.cost_usd(done))

        outcome = await run_chain(ctx, steps, poll_s=POLL_S, collect=collect, limit_s=LIMIT_S)
        return Result(outcome.value.asset, result_data(outcome.value, outcome))


def plan(choice: Choice, payload: VideoPayload, source: Source) -> Request | Skip:
    """What a video model gets for a payload, or why it cannot take it."""
    speech_s = source.audio_s if choice.endpoint == INFINITALK else None
    if too_long := over_longest(choice, speech_s or _seconds(payload), "speech" if speech_s else "clip"):
        return too_long
    match choice.endpoint:
        case "fal-ai/wan-effects":
            return _wan_effects(choice, payload, source)
        case "fal-ai/wan-i2v":
            return _wan_i2v(choice, payload, source)
        case "fal-ai/infinitalk":
            return _infinitalk(payload, source)
    return _veo(choice, payload, source)


def _veo(choice: Choice, payload: VideoPayload, source: Source) -> Request:
    wanted = _seconds(payload)
    seconds = next((length for length in VEO_SECONDS if length >= wanted), VEO_SECONDS[-1])
    notes = []
    if seconds != wanted:
        notes.append(f"{choice.model} makes clips of 4, 6 or 8 s: {seconds} s instead of {wanted:g} s.")
    resolution = one_of(payload.resolution, ("720p", "1080p"), "720p", "resolution", choice.model, notes)
    default = "9:16" if source.aspect in ("9:16", "3:4", "2:3") else "16:9"
    aspect = one_of(source.aspect, ("16:9", "9:16"), default, "aspectRatio", choice.model, notes)
    if payload.image_url:
        notes.append(f"{choice.model} takes no imageUrl; it was left out.")
    with_audio = payload.generate_audio is not False
    body = {
        "prompt": payload.prompt,
        "duration": f"{seconds}s",
        "resolution": resolution,
        "aspect_ratio": aspect,
        "generate_audio": with_audio,
        "negative_prompt": payload.negative_prompt,
        "seed": payload.seed,
    }
    unit_usd = None if with_audio else prices.VEO_SILENT_USD
    estimate = prices.billed("fal", choice.endpoint, seconds, unit_usd=unit_usd)
    return Request(_given(body), estimate, tuple(notes), unit_usd, takes_seed=True)


def _wan_effects(choice: Choice, payload: VideoPayload, source: Source) -> Request | Skip:
    if not source.image_url:
        return Skip(_NEEDS_IMAGE)
    effect = payload.effect_type or next(
        (name for name in EFFECTS if re.search(rf"\b{re.escape(name)}\b", payload.prompt.lower())),
        GENTLE_EFFECT,
    )
    subject = payload.subject or subject_of(payload.prompt)
    aspect = source.aspect if source.aspect in ("16:9", "9:16", "1:1") else "16:9"
    notes = [f"wan-effects takes no prompt: effect {effect!r} on {subject!r}, {WAN_EFFECTS_SECONDS:.1f} s."]
    notes += not_taken(choice, {"resolution": payload.resolution, "negativePrompt": payload.negative_prompt})
    body = {
        "image_url": source.image_url,
        "subject": subject,
        "effect_type": effect,
        "aspect_ratio": aspect,
        "num_frames": 81,
        "frames_per_second": WAN_FPS,
        "seed": payload.seed,
    }
    return Request(_given(body), prices.cost("fal", WAN_EFFECTS), tuple(notes), takes_seed=True)


def _wan_i2v(choice: Choice, payload: VideoPayload, source: Source) -> Request | Skip:
    if not source.image_url:
        return Skip(_NEEDS_IMAGE)
    wanted, notes = _seconds(payload), list[str]()
    # 81 to 100 frames: 16 a second reach 6.3 s; for longer clips the frame rate goes down, to 5 at the least.
    fps = WAN_FPS if wanted <= WAN_FRAMES[1] / WAN_FPS else max(5, int(WAN_FRAMES[1] / wanted))
    frames = min(WAN_FRAMES[1], max(WAN_FRAMES[0], round(wanted * fps)))
    if abs(frames / fps - wanted) > 0.1 or fps != WAN_FPS:
        notes.append(f"wan-i2v makes 81 to 100 frames: {frames / fps:.1f} s at {fps} frames a second.")
    resolution = one_of(payload.resolution, ("480p", "720p"), "720p", "resolution", choice.model, notes)
    body = {
        "prompt": payload.prompt,
        "image_url": source.image_url,
        "negative_prompt": payload.negative_prompt,
        "num_frames": frames,
        "frames_per_second": fps,
        "resolution": resolution,
        "aspect_ratio": source.aspect if source.aspect in ("16:9", "9:16", "1:1") else "auto",
        "seed": payload.seed,
    }
    price = prices.WAN_480P_USD if resolution == "480p" else prices.cost("fal", WAN_I2V) or 0.0
    estimate = round(price * (prices.WAN_LONG_FACTOR if frames > WAN_FRAMES[0] else 1), 6)
    if payload.generate_audio:
        notes.append("wan-i2v makes no sound.")
    return Request(_given(body), estimate, tuple(notes), estimate, takes_seed=True)


def _infinitalk(payload: VideoPayload, source: Source) -> Request | Skip:
    if not source.image_url:
        return Skip(_NEEDS_IMAGE)
    if not payload.audio_url:
        return Skip("needs speech (audioUrl), and the job has none")
    seconds = source.audio_s or _seconds(payload)
    return infinitalk_request(
        source.image_url, payload.audio_url, seconds, payload.prompt, payload.resolution, payload.seed
    )


def infinitalk_request(
    image_url: str, audio_url: str, seconds: float, prompt: str, resolution: str | None, seed: int | None
) -> Request:
    """A talking picture by infinitalk: at most 721 frames at 25 a second, 28.8 s."""
    low, high = INFINITALK_FRAMES
    notes: list[str] = []
    frames = min(high, max(low, math.ceil(seconds * INFINITALK_FPS)))
    body = {
        "image_url": image_url,
        "audio_url": audio_url,
        "prompt": prompt,
        "num_frames": frames,
        "resolution": one_of(resolution, ("480p", "720p"), "720p", "resolution", "infinitalk", notes),
        "seed": seed,
    }
    if frames == high and seconds * INFINITALK_FPS > high:
        notes.append(
            f"infinitalk makes at most {high / INFINITALK_FPS:.1f} s; the speech is {seconds:.1f} s."
        )
    estimate = prices.cost("fal", INFINITALK, seconds=frames / INFINITALK_FPS)
    return Request(_given(body), estimate, tuple(notes), takes_seed=True)


def subject_of(prompt: str) -> str:
    """A short noun phrase for what a prompt shows: its first words, up to a comma or a verb form."""
    start = re.split(r"[,.;:!?\n]", prompt.strip(), maxsplit=1)[0]
    words: list[str] = []
    for word in start.split():
        if words and (word.lower() in ("is", "are", "in", "on", "at", "with", "who") or word.endswith("ing")):
            break
        words.append(word)
    return " ".join(words[:6]) or "the subject"


async def _source(ctx: JobContext, payload: VideoPayload) -> Source:
    image_url = payload.image_url
    audio_s = None
    if not image_url or payload.audio_url:
        for job in await ctx.sibling_jobs():
            made = job.output_url if job.status == "completed" else None
            if made and made == payload.audio_url and job.result:
                audio_s = job.result.get("durationSeconds")
            same_scene = payload.scene_id and job.payload.get("sceneId") == payload.scene_id
            if made and not image_url and job.type == "gen_image_falai" and same_scene:
                image_url = made
    aspect = payload.aspect_ratio
    if not aspect:
        metadata = (await ctx.manifest()).get("metadata") or {}
        aspect = str(metadata.get("aspectRatio") or "16:9")
    return Source(image_url, aspect, audio_s)


def _seconds(payload: VideoPayload) -> float:
    return float(payload.duration or 8)


def one_of(
    value: str | None, allowed: tuple[str, ...], default: str, field: str, model: str, notes: list[str]
) -> str:
    """A value that a model takes, else the default with a note."""
    if value in allowed:
        return value
    if value:
        notes.append(f"{model} takes no {field} {value}; {default} was used.")
    return default


def _given(body: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if value is not None}
