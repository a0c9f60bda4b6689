"""The render: everything that a manifest's jobs made becomes one film. Job type `render_shotstack`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Any, ClassVar, Literal

import anyio
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator
from pydantic.alias_generators import to_camel

from dreamcuts.errors import InvalidRequest
from dreamcuts.jobs.base import JobContext, Payload, Result, SiblingJob
from dreamcuts.jobs.paid import Collected, Request, Step, run_chain
from dreamcuts.jobs.produced import Produced, check_cost, fetch, result_data
from dreamcuts.manifest.captions import build_captions, to_srt
from dreamcuts.manifest.decompose import FRAME_SIZES
from dreamcuts.manifest.model import Manifest
from dreamcuts.manifest.narration import place_narrations
from dreamcuts.manifest.options import CaptionLook, RenderOptions
from dreamcuts.manifest.timeline import Timeline, build_edit
from dreamcuts.providers import prices
from dreamcuts.providers.base import Done
from dreamcuts.wording import reason

ENDPOINTS = {"stage": "stage", "production": "v1", "v1": "v1"}
"""The payload's environment -> the one in Shotstack's URL (Shotstack docs, Edit API)."""

POLL_S = 3.0
LEAST_LIMIT_S = 600.0
SRT_TYPE = "application/x-subrip"

COLORS = {
    "black": "#000000",
    "white": "#ffffff",
    "yellow": "#ffff00",
    "red": "#ff0000",
    "green": "#008000",
    "blue": "#0000ff",
    "orange": "#ffa500",
    "gray": "#808080",
    "grey": "#808080",
}


def _color(value: Any) -> Any:
    """A colour as #rrggbb; "transparent" stays as it is."""
    text = str(value).strip().lower()
    text = COLORS.get(text, text)
    if re.fullmatch(r"#[0-9a-f]{3}", text):
        text = "#" + "".join(digit * 2 for digit in text[1:])
    if text != "transparent" and not re.fullmatch(r"#[0-9a-f]{6}", text):
        raise ValueError(f"{value!r} is no colour: write #rrggbb, e.g. #ffffff")
    return text


def _pixels(value: Any) -> Any:
    """A number of pixels; producers also write "32px"."""
    return value.strip().removesuffix("px") if isinstance(value, str) else value


Color = Annotated[str, BeforeValidator(_color)]
Pixels = Annotated[float, BeforeValidator(_pixels)]


class _Part(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="allow")


class Resolution(_Part):
    """The film's size in pixels; even, because H.264 stores colour for every second one."""

    width: int = Field(ge=16, le=1920)
    height: int = Field(ge=16, le=1920)

    @field_validator("width", "height")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError(f"{value} is odd: give an even number")
        return value


class CaptionStyle(_Part):
    """How captions look; sizes are pixels of the finished film."""

    font_family: str = "Montserrat ExtraBold"
    font_size: Pixels = Field(default=32, gt=0, le=400)
    font_color: Color = "#ffffff"
    background_color: Color = "#000000"
    background_opacity: float = Field(default=0.6, ge=0, le=1)
    position: Literal["bottom", "middle", "center", "top"] = "bottom"
    padding: Pixels = Field(default=12, ge=0, le=400)
    border_radius: Pixels = Field(default=8, ge=0, le=400)

    def look(self) -> CaptionLook:
        """The style in the renderer's terms."""
        return CaptionLook(
            family=self.font_family,
            size=round(self.font_size),
            color="#ffffff" if self.font_color == "transparent" else self.font_color,
            background=None if self.background_color == "transparent" else self.background_color,
            background_opacity=self.background_opacity,
            padding=round(self.padding),
            border_radius=round(self.border_radius),
            position=self.position,
        )


class RenderPayload(Payload):
    """Payload of `render_shotstack`.

    `manifest_id` is not used: the producer inserts a placeholder, and the job's own row names its manifest.
    `background_music` false leaves the music out; a URL is a bed for a manifest without music.
    """

    manifest_id: str | None = None
    environment: Literal["stage", "production", "v1"] = "stage"
    output_format: Literal["mp4"] = "mp4"
    quality: Literal["verylow", "low", "medium", "high", "veryhigh"] = "high"
    resolution: Resolution | None = None
    enable_captions: bool = True
    caption_style: CaptionStyle = Field(default_factory=CaptionStyle)
    enable_transitions: bool = True
    transition_type: str | None = None
    background_music: bool | str | dict[str, Any] | None = None
    callback_url: str | None = None
    webhook_url: str | None = None

    def options(self, manifest: Manifest) -> RenderOptions:
        """The payload in the renderer's terms; the size follows from the aspect ratio if none is given."""
        width, height = FRAME_SIZES[manifest.metadata.aspect_ratio]
        if self.resolution is not None:
            width, height = self.resolution.width, self.resolution.height
        music = self.background_music
        url = music.get("url") if isinstance(music, dict) else music
        return RenderOptions(
            width=width,
            height=height,
            output_format=self.output_format,
            quality=self.quality,
            captions=self.enable_captions,
            caption_look=self.caption_style.look(),
            transitions=self.enable_transitions,
            transition=self.transition_type,
            music=music is not False,
            music_url=url if isinstance(url, str) and url.startswith(("http://", "https://")) else None,
            callback=self.callback_url or self.webhook_url,
        )


class RenderJob:
    """Renders the manifest's film: writes the captions and the edit, renders it, stores the MP4 at once."""

    name: ClassVar[str] = "render_shotstack"
    short_name: ClassVar[str] = "render"
    payload_model: ClassVar[type[Payload]] = RenderPayload
    default_slots: ClassVar[int] = 1
    retry_delay: ClassVar[timedelta] = timedelta(seconds=30)
    time_limit: ClassVar[timedelta] = timedelta(minutes=45)
    providers: ClassVar[tuple[str, ...]] = ("shotstack",)
    features: ClassVar[tuple[str, ...]] = (
        "timeline from the manifest",
        "captions from word times",
        "transitions, slow zooms",
        "music under the voice",
        "resumes open renders",
    )

    async def run(self, ctx: JobContext, payload: Any) -> Result:
        """Carry out one attempt."""
        assert isinstance(payload, RenderPayload)
        manifest = await _manifest(ctx)
        jobs = [job for job in await ctx.sibling_jobs() if job.job_id != ctx.job.job_id]
        options = payload.options(manifest)
        captions_url = await _captions(ctx, manifest, jobs) if options.captions else None
        timeline = build_edit(manifest, options, jobs, captions_url)
        for note in timeline.notes:
            ctx.log.info("%s", note)
        endpoint = ENDPOINTS[payload.environment]
        estimate = prices.cost("shotstack", endpoint, seconds=timeline.seconds)
        check_cost(payload.cost_limit, estimate, "The render")
        request = Request(timeline.edit, estimate, tuple(timeline.notes))
        step = Step("shotstack", endpoint, "shotstack", request)

        async def collect(step: Step, done: Done) -> Collected[Produced]:
            # Shotstack deletes the file after 24 hours, so it is stored before the job is done.
            made = await fetch(
                ctx, step, done.output, "video", kind="video", at_least_s=timeline.seconds * 0.9
            )
            seconds = _billed_seconds(done, timeline)
            return Collected(made, prices.cost("shotstack", endpoint, seconds=seconds))

        # Shotstack takes about 20 s a minute of film; its queue can be longer than that.
        limit = max(LEAST_LIMIT_S, 120.0 + timeline.seconds)
        outcome = await run_chain(ctx, [step], poll_s=POLL_S, collect=collect, limit_s=limit)
        data = result_data(outcome.value, outcome)
        data["environment"] = endpoint
        if captions_url:
            data["captionsUrl"] = captions_url
        return Result(outcome.value.asset, data)


async def _manifest(ctx: JobContext) -> Manifest:
    raw = await ctx.manifest()
    if not raw:
        raise InvalidRequest("A render needs a manifest, and this job belongs to none: set its manifest_id.")
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        issues = "; ".join(
            f"{'.'.join(str(part) for part in issue['loc'])}: {reason(issue)}"
            for issue in error.errors(include_url=False, include_input=False)
        )
        raise InvalidRequest(f"The manifest cannot be rendered: {issues}.") from None


async def _captions(ctx: JobContext, manifest: Manifest, jobs: Sequence[SiblingJob]) -> str | None:
    """The URL of the film's captions; None for a film in which nobody speaks."""
    captions = build_captions(place_narrations(manifest, jobs), manifest.metadata.duration_seconds)
    if not captions:
        return None
    file = ctx.workdir / "captions.srt"
    await anyio.Path(file).write_text(to_srt(captions), encoding="utf-8")
    return (await ctx.save(file, "captions.srt", SRT_TYPE)).url


def _billed_seconds(done: Done, timeline: Timeline) -> float:
    duration = done.output.get("duration")
    return float(duration) if isinstance(duration, int | float) and duration > 0 else timeline.seconds
