"""Makes what a fal model would make: fetches its inputs, paints or films, and describes the files."""

from __future__ import annotations

import asyncio
import hashlib
import mimetypes
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from dreamcuts.sandbox import fal_models as models
from dreamcuts.sandbox import images, video
from dreamcuts.sandbox.ffmpeg import FfmpegError, MediaInfo, probe
from dreamcuts.sandbox.state import Mouth, SandboxState

INFINITALK_FPS = 25
VEO_FPS = 24
HEIGHTS = {"480p": 480, "720p": 720, "1080p": 1080, "4k": 2160}


@dataclass(frozen=True, slots=True)
class Made:
    """A model's answer, and how much of it is billed: seconds of video, megapixels or pieces."""

    output: dict[str, Any]
    units: float


class MakeFault(Exception):
    """A model error, one entry of fal's `detail` list."""

    def __init__(self, field: str, kind: str, message: str, given: Any = None) -> None:
        super().__init__(message)
        self.status = 422
        url = f"https://docs.fal.ai/errors#{kind}"
        self.detail = {"loc": ["body", field], "msg": message, "type": kind, "url": url, "input": given}


@dataclass(frozen=True, slots=True)
class Input:
    """A fetched input file, and where it shows a mouth if it was made here."""

    path: Path
    info: MediaInfo
    mouth: Mouth | None


async def make(state: SandboxState, model: models.Model, given: Any, base: str) -> Made:
    """Carry a validated request out. Raises MakeFault for what the model would refuse."""
    maker = {
        "image": _image,
        "retouch": _retouch,
        "film": _film,
        "animate": _animate,
        "talk": _talk,
        "lipsync": _lipsync,
    }[model.kind]
    made = await maker(_Bench(state, base), given)
    return Made(made.output, made.units / 60) if model.unit == "minute" else made


@dataclass(frozen=True, slots=True)
class _Bench:
    """The sandbox as a maker needs it: inputs in, files out."""

    state: SandboxState
    base: str

    @asynccontextmanager
    async def fetch(self, field: str, url: str, kind: str) -> AsyncIterator[Input]:
        """Download an input for the time of the block. `kind` is image, audio or video."""
        path = self.state.temp_file(Path(httpx.URL(url).path).suffix[:8])
        digest = hashlib.sha256()
        try:
            try:
                async with self.state.http.stream("GET", url) as response:
                    if response.status_code != 200:
                        raise httpx.HTTPError(f"status {response.status_code}")
                    with path.open("wb") as file:
                        async for chunk in response.aiter_bytes():
                            digest.update(chunk)
                            file.write(chunk)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                message = f"Failed to download the file: {error}"
                raise MakeFault(field, "file_download_error", message, url) from None
            info = await _probe(path, field, kind, url)
            yield Input(path, info, self.state.mouths.get(digest.hexdigest()))
        finally:
            path.unlink(missing_ok=True)

    def publish(self, path: Path, mouth: Mouth | None = None, **more: Any) -> dict[str, Any]:
        """The file object of an output; remembers the mouth that the file shows."""
        data = path.read_bytes()
        if mouth is not None:
            self.state.mouths[hashlib.sha256(data).hexdigest()] = mouth
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        url = self.state.file_url(self.base, path)
        return {"url": url, "content_type": kind, "file_name": path.name, "file_size": len(data), **more}


async def _probe(path: Path, field: str, kind: str, url: str) -> MediaInfo:
    problems = {
        "image": "image_load_error",
        "audio": "unsupported_audio_format",
        "video": "unsupported_video_format",
    }
    try:
        info = await probe(path)
    except FfmpegError:
        raise MakeFault(field, problems[kind], f"The {kind} could not be read.", url) from None
    fits = {
        "image": info.has_video and info.width > 0 and info.height > 0,
        "audio": info.has_audio and info.duration > 0,
        "video": info.has_video and info.width > 0 and not info.is_image and info.duration > 0,
    }[kind]
    if not fits:
        raise MakeFault(field, problems[kind], f"The file is no {kind}.", url)
    return info


def _seed(given: Any, words: str) -> int:
    seed = getattr(given, "seed", None)
    return int(seed) if seed is not None else zlib.crc32(words.encode())


async def _image(bench: _Bench, given: Any) -> Made:
    width, height = given.size()
    seed = _seed(given, given.prompt)
    count = given.num_images
    form = getattr(given, "output_format", "jpeg" if isinstance(given, models.FluxSrpo) else "png")
    flagged = "sandbox:nsfw" in given.prompt and getattr(given, "enable_safety_checker", True)
    files = []
    async with bench.state.media_slots:
        for index in range(count):
            path = bench.state.new_file({"jpeg": ".jpg"}.get(form, f".{form}"))
            mouth = None
            if flagged:
                await asyncio.to_thread(images.save_black, width, height, path)
            else:
                mouth = await asyncio.to_thread(images.save, given.prompt, seed + index, width, height, path)
            files.append(bench.publish(path, mouth, width=width, height=height))
    units = float(count)
    if isinstance(given, models.NanoBanana):
        return Made({"images": files, "description": ""}, units)
    output: dict[str, Any] = {"images": files, "seed": seed}
    if isinstance(given, models.FluxSrpo):
        units = width * height * count / 1e6
        output |= {
            "timings": {"inference": 0.1},
            "has_nsfw_concepts": [flagged] * count,
            "prompt": given.prompt,
        }
    return Made(output, units)


async def _retouch(bench: _Bench, given: models.ProfessionalPhoto) -> Made:
    async with bench.fetch("image_url", given.image_url, "image") as source, bench.state.media_slots:
        path = bench.state.new_file(".jpg" if given.output_format == "jpeg" else ".png")
        size = models.BANANA_SIZES[given.aspect_ratio] if given.aspect_ratio else None
        width, height = await asyncio.to_thread(images.retouch, source.path, size, path)
        mouth = source.mouth if size is None else None
        picture = bench.publish(path, mouth, width=width, height=height)
        return Made({"images": [picture], "seed": _seed(given, given.image_url)}, 1.0)


async def _film(bench: _Bench, given: models.Veo) -> Made:
    height = HEIGHTS[given.resolution]
    width = height * 16 // 9
    if given.aspect_ratio == "9:16":
        width, height = height, width
    seconds = float(given.duration.rstrip("s"))
    shot = video.Shot(width, height, VEO_FPS, round(seconds * VEO_FPS), sound=given.generate_audio)
    path = bench.state.new_file(".mp4")
    async with bench.state.media_slots:
        mouth = await video.film(given.prompt, _seed(given, given.prompt), shot, path, bench.state.temp)
    return Made({"video": bench.publish(path, mouth)}, seconds)


async def _animate(bench: _Bench, given: Any) -> Made:
    async with bench.fetch("image_url", given.image_url, "image") as source, bench.state.media_slots:
        if isinstance(given, models.VeoImage):
            frames, fps = round(float(given.duration.rstrip("s")) * VEO_FPS), VEO_FPS
            short, sound, units = (
                HEIGHTS[given.resolution],
                given.generate_audio,
                float(given.duration.rstrip("s")),
            )
        else:
            frames, fps, sound, units = given.num_frames, given.frames_per_second, False, 1.0
            short = HEIGHTS[getattr(given, "resolution", "480p")]
        width, height = _frame(short, given.aspect_ratio, source.info)
        shot = video.Shot(width, height, fps, frames, sound=sound)
        path = bench.state.new_file(".mp4")
        mouth = await video.animate(source.path, source.info, source.mouth, shot, path)
        output: dict[str, Any] = {"video": bench.publish(path, mouth)}
        if not isinstance(given, models.VeoImage):
            output["seed"] = _seed(given, given.image_url)
        return Made(output, units)


def _frame(short: int, aspect: str, info: MediaInfo) -> tuple[int, int]:
    """Width and height with that shorter side: of the aspect asked for, or the picture's own."""
    across, down = (info.width, info.height) if aspect == "auto" else map(int, aspect.split(":"))
    if across >= down:
        return round(short * min(across / down, 2.4) / 2) * 2, short
    return short, round(short * min(down / across, 2.4) / 2) * 2


async def _talk(bench: _Bench, given: models.InfiniTalk | models.Fabric) -> Made:
    async with (
        bench.fetch("image_url", given.image_url, "image") as face,
        bench.fetch("audio_url", given.audio_url, "audio") as audio,
        bench.state.media_slots,
    ):
        seconds = audio.info.duration
        if isinstance(given, models.InfiniTalk):
            seconds = min(seconds, given.num_frames / INFINITALK_FPS)
        width, height = _frame(HEIGHTS[given.resolution], "auto", face.info)
        path = bench.state.new_file(".mp4")
        talk = video.Talk(
            face.path, face.info, face.mouth, audio.path, seconds, width, height, INFINITALK_FPS
        )
        await video.talk(talk, path)
        output: dict[str, Any] = {"video": bench.publish(path)}
        if isinstance(given, models.InfiniTalk):
            output["seed"] = given.seed
        return Made(output, seconds)


async def _lipsync(bench: _Bench, given: models.LipSync) -> Made:
    async with (
        bench.fetch("video_url", given.video_url, "video") as face,
        bench.fetch("audio_url", given.audio_url, "audio") as audio,
        bench.state.media_slots,
    ):
        width, height = face.info.width // 2 * 2, face.info.height // 2 * 2
        path = bench.state.new_file(".mp4")
        seconds = audio.info.duration
        fps = round(face.info.fps) or 25
        talk = video.Talk(face.path, face.info, face.mouth, audio.path, seconds, width, height, fps)
        await video.talk(talk, path)
        return Made({"video": bench.publish(path)}, seconds)
