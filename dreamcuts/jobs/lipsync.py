"""Lip sync: a face says what a speech says, through fal. Job type `lip_sync_lypsso`.

A moving face goes to the lip-sync models. A still picture is none of theirs: it goes to models that make a
talking picture.
"""

from __future__ import annotations

import mimetypes
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Annotated, Any, ClassVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from dreamcuts.errors import InvalidRequest
from dreamcuts.jobs.base import JobContext, Payload, Result
from dreamcuts.jobs.catalogue import Catalogue, Choice, FallbackEntry, not_taken, over_longest
from dreamcuts.jobs.paid import Collected, Request, Skip, Step, run_chain
from dreamcuts.jobs.produced import Produced, fetch, result_data
from dreamcuts.jobs.video import INFINITALK, INFINITALK_FPS, INFINITALK_FRAMES, infinitalk_request, one_of
from dreamcuts.providers import prices
from dreamcuts.providers.base import Done
from dreamcuts.storage.download import download

VEED = "veed/lipsync"
SYNC = "fal-ai/sync-lipsync/v2"
CREATIFY = "creatify/lipsync"
FABRIC = "veed/fabric-1.0"

CATALOGUE = Catalogue(
    what="lip sync",
    models={
        "veed": VEED,
        "veed-lipsync-v2": "veed/lipsync/v2",
        "sync-lipsync-v2": SYNC,
        "creatify": CREATIFY,
        "fabric": FABRIC,
        "infinitalk": INFINITALK,
        # other names that producers use
        "veed-lipsync": VEED,
        "veed_lipsync": VEED,
        "sync-lipsync": SYNC,
        "sync": SYNC,
        "creatify-lipsync": CREATIFY,
        "veed-fabric": FABRIC,
    },
    default=("veed", "sync-lipsync-v2", "creatify"),
)
FOR_STILLS = ("fabric", "infinitalk")
_TALKING_PROMPT = "A person speaks to the camera, with natural expression."

POLL_S = 2.0
LIMIT_S = 900.0


class LipSyncPayload(Payload):
    """Payload of `lip_sync_lypsso`."""

    audio_job_id: str | None = None
    video_asset_id: str | None = None
    audio_url: str | None = None
    video_url: str | None = None
    endpoint: Annotated[str | None, AfterValidator(CATALOGUE.known)] = None
    provider: str | None = None
    quality: str | None = None
    fps: float | None = None
    resolution: str | None = None
    start_time: float | None = Field(None, ge=0)
    end_time: float | None = Field(None, ge=0)
    prompt: str | None = None
    seed: int | None = Field(None, ge=0)
    fallback_providers: list[Annotated[FallbackEntry, AfterValidator(CATALOGUE.known_entry)]] | None = None

    @field_validator("provider")
    @classmethod
    def _provider_is_known(cls, value: str | None, info: ValidationInfo) -> str | None:
        # With an endpoint it is a mere name, as in fallbackProviders.
        return value if info.data.get("endpoint") else CATALOGUE.known(value)

    @model_validator(mode="after")
    def _has_face_and_voice(self) -> LipSyncPayload:
        if not (self.audio_url or self.audio_job_id):
            raise ValueError("the speech is missing: give audioUrl, or audioJobId (a tts job)")
        if not (self.video_url or self.video_asset_id):
            raise ValueError("the face is missing: give videoUrl, or videoAssetId")
        if self.start_time is not None and self.end_time is not None and self.end_time <= self.start_time:
            raise ValueError(f"endTime ({self.end_time:g}) must be after startTime ({self.start_time:g})")
        return self


@dataclass(frozen=True, slots=True)
class Inputs:
    """The face and the speech: their URLs, whether the face is a still, and the speech's seconds if known."""

    face_url: str
    audio_url: str
    is_still: bool
    audio_s: float | None


class LipSyncJob:
    """Makes one clip of a speaking face."""

    name: ClassVar[str] = "lip_sync_lypsso"
    short_name: ClassVar[str] = "lipsync"
    payload_model: ClassVar[type[Payload]] = LipSyncPayload
    default_slots: ClassVar[int] = 2
    retry_delay: ClassVar[timedelta] = timedelta(seconds=12)
    time_limit: ClassVar[timedelta] = timedelta(minutes=50)
    providers: ClassVar[tuple[str, ...]] = ("fal",)
    features: ClassVar[tuple[str, ...]] = (
        "lip sync of videos",
        "talking pictures",
        "fallback: veed, sync-lipsync-v2, creatify",
        "resumes open requests",
    )

    async def run(self, ctx: JobContext, payload: Any) -> Result:
        """Carry out one attempt."""
        assert isinstance(payload, LipSyncPayload)
        inputs = await _inputs(ctx, payload)
        choices = CATALOGUE.choices(payload.provider, payload.endpoint, payload.fallback_providers)
        if inputs.is_still:
            given = {choice.endpoint for choice in choices}
            stills = [CATALOGUE.choose(None, name) for name in FOR_STILLS]
            choices += [choice for choice in stills if choice.endpoint not in given]
        steps = CATALOGUE.steps(
            choices, lambda choice: plan(choice, payload, inputs), cost_limit=payload.cost_limit
        )
        shortest = 0.5 * min(inputs.audio_s or 1.0, 20.0)

        async def collect(step: Step, done: Done) -> Collected[Produced]:
            video = done.output.get("video")
            made = await fetch(ctx, step, video, "lipsync", kind="video", at_least_s=shortest)
            cost = prices.billed(step.provider, step.endpoint, done.units)
            if cost is None:
                cost = prices.cost(step.provider, step.endpoint, seconds=made.info.duration)
            return Collected(made, cost)

        outcome = await run_chain(ctx, steps, poll_s=POLL_S, collect=collect, limit_s=LIMIT_S)
        return Result(outcome.value.asset, result_data(outcome.value, outcome))


def plan(choice: Choice, payload: LipSyncPayload, inputs: Inputs) -> Request | Skip:
    """What a lip-sync model gets for a payload, or why it cannot take it."""
    if too_long := over_longest(choice, inputs.audio_s, "speech"):
        return too_long
    for_stills = choice.endpoint in (FABRIC, INFINITALK)
    if inputs.is_still and not for_stills:
        return Skip("needs a video, and the face is a still picture")
    if for_stills and not inputs.is_still:
        return Skip("needs a still picture, and the face is a video")
    notes = not_taken(choice, {"quality": payload.quality, "fps": payload.fps})
    if choice.endpoint == INFINITALK:
        request = infinitalk_request(
            inputs.face_url,
            inputs.audio_url,
            inputs.audio_s or INFINITALK_FRAMES[1] / INFINITALK_FPS,
            payload.prompt or _TALKING_PROMPT,
            payload.resolution,
            payload.seed,
        )
        return replace(request, notes=(*notes, *request.notes))
    notes += not_taken(choice, {"prompt": payload.prompt, "seed": payload.seed})
    body = {"video_url": inputs.face_url, "audio_url": inputs.audio_url}
    if choice.endpoint != FABRIC:
        notes += not_taken(choice, {"resolution": payload.resolution})
    else:
        resolution = one_of(payload.resolution, ("720p", "480p"), "720p", "resolution", choice.model, notes)
        body = {"image_url": inputs.face_url, "audio_url": inputs.audio_url, "resolution": resolution}
    if choice.endpoint == SYNC:
        body |= {"model": "lipsync-2", "sync_mode": "cut_off"}
    estimate = prices.cost("fal", choice.endpoint, seconds=inputs.audio_s)
    return Request(dict(body), estimate, tuple(notes))


async def _inputs(ctx: JobContext, payload: LipSyncPayload) -> Inputs:
    if not payload.audio_url:
        raise InvalidRequest(f"audioJobId: {payload.audio_job_id!r} gave no URL; give audioUrl.")
    if not payload.video_url:
        raise InvalidRequest(f"videoAssetId: {payload.video_asset_id!r} gave no URL; give videoUrl.")
    audio_s: float | None = None
    face_type: str | None = None
    for job in await ctx.sibling_jobs():
        result = job.result or {}
        if job.output_url == payload.audio_url and result.get("durationSeconds"):
            audio_s = float(result["durationSeconds"])
        if job.output_url == payload.video_url:
            face_type = result.get("contentType")
    if audio_s is None and payload.start_time is not None and payload.end_time is not None:
        audio_s = payload.end_time - payload.start_time
    is_still = await _is_still(ctx, payload.video_url, face_type)
    return Inputs(payload.video_url, payload.audio_url, is_still, audio_s)


async def _is_still(ctx: JobContext, url: str, known_type: str | None) -> bool:
    """Whether the face is a picture: by what made it, the manifest, the URL's ending, or the file itself."""
    content_type = known_type
    if content_type is None:
        assets = (await ctx.manifest()).get("assets") or {}
        content_type = next(
            (
                asset.get("mimeType")
                for asset in assets.values()
                if isinstance(asset, dict) and asset.get("originUrl") == url
            ),
            None,
        )
    content_type = content_type or mimetypes.guess_type(urlsplit(url).path)[0]
    if content_type is None:
        found = await download(ctx.http, url, ctx.workdir / "face", settings=ctx.settings, expect="any")
        content_type = found.content_type
    return str(content_type).startswith("image/")
