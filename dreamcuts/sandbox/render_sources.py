"""Fetch what an Edit names, and find out what each file holds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import anyio
import anyio.to_thread
import httpx
from PIL import Image, ImageFont, ImageOps, UnidentifiedImageError

from dreamcuts.sandbox import shotstack_schema as schema
from dreamcuts.sandbox.captions import parse_captions
from dreamcuts.sandbox.ffmpeg import FfmpegError, probe
from dreamcuts.sandbox.render_plan import PlanError, Source

FETCHES_AT_ONCE = 4
FETCH_TIMEOUT = 30.0
_PLAIN_MODES = ("RGB", "RGBA", "L", "P", "1")
_PLAIN_FORMATS = ("PNG", "JPEG", "BMP")


class SourceError(PlanError):
    """A source could not be fetched or used; the text names its URL."""


def source_url(clip: schema.Clip) -> str:
    """The URL of a clip's asset; empty for a text."""
    return str(getattr(clip.asset, "src", ""))


def font_family(url: str) -> str:
    """The family by which a custom font is asked for: its file's name without the ending."""
    return PurePosixPath(unquote(urlsplit(url).path)).stem


def kinds_of(edit: schema.Edit) -> dict[str, str]:
    """Every URL that the edit names, once each, with what is expected there."""
    kinds: dict[str, str] = {
        source_url(clip): clip.asset.type for track in edit.timeline.tracks for clip in track.clips
    }
    kinds.pop("", None)
    kinds |= {font.src: "font" for font in edit.timeline.fonts}
    if edit.timeline.soundtrack is not None:
        kinds[edit.timeline.soundtrack.src] = "audio"
    return {url: "caption" if kind == "rich-caption" else kind for url, kind in kinds.items()}


async def fetch_all(urls: Sequence[str], folder: Path) -> dict[str, Path]:
    """Download every URL into `folder`. Raises `SourceError` naming a URL that does not answer 200."""
    limit = asyncio.Semaphore(FETCHES_AT_ONCE)
    files = {url: folder / f"source-{number:04}" for number, url in enumerate(urls)}

    async def fetch(url: str, path: Path) -> str | None:
        async with limit:
            return await _download(client, url, path)

    async with (
        httpx.AsyncClient(timeout=FETCH_TIMEOUT, follow_redirects=True, trust_env=False) as client,
        asyncio.TaskGroup() as group,
    ):
        tasks = [group.create_task(fetch(url, path)) for url, path in files.items()]
    for task in tasks:
        if (problem := task.result()) is not None:
            raise SourceError(problem)
    return files


async def inspect(url: str, kind: str, path: Path) -> Source:
    """Find out what a fetched file holds. Raises `SourceError` when it is not of the expected kind."""
    try:
        if kind == "image":
            return await anyio.to_thread.run_sync(_image, path)
        if kind == "caption":
            cues = parse_captions(await anyio.Path(path).read_text(encoding="utf-8-sig"))
            return Source(path, duration=cues[-1].end)
        if kind == "font":
            ImageFont.truetype(str(path), 12)
            return Source(path)
        info = await probe(path)
    except (FfmpegError, UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise SourceError(f"Invalid {kind} asset {url}: it could not be read ({_reason(error)})") from error
    if (kind == "video" and not info.has_video) or (kind == "audio" and not info.has_audio):
        raise SourceError(f"Invalid {kind} asset {url}: the file holds no {kind}")
    return Source(path, info.width, info.height, info.duration, info.fps, info.channels)


async def _download(client: httpx.AsyncClient, url: str, path: Path) -> str | None:
    """Store a URL's content; returns what went wrong, if anything did."""
    try:
        async with client.stream("GET", url) as response:
            if response.status_code != 200:
                return f"Could not fetch {url}: HTTP status {response.status_code}"
            with path.open("wb") as file:
                async for chunk in response.aiter_bytes():
                    file.write(chunk)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return f"Could not fetch {url}: {type(error).__name__} {error}".rstrip()
    return None


def _image(path: Path) -> Source:
    """A picture's size and whether it lets through. What ffmpeg would show otherwise is stored anew."""
    with Image.open(path) as image:
        image.load()
        turned = image.getexif().get(0x0112, 1) != 1
        if turned or image.mode not in _PLAIN_MODES or image.format not in _PLAIN_FORMATS:
            upright = ImageOps.exif_transpose(image)
            wants_alpha = "A" in upright.mode or "transparency" in upright.info
            path = path.with_suffix(".png")
            upright.convert("RGBA" if wants_alpha else "RGB").save(path, compress_level=1)
        else:
            upright = image
        alpha = "A" in upright.mode or "transparency" in upright.info
        if alpha:
            lowest = upright.convert("RGBA").getchannel("A").getextrema()[0]
            alpha = isinstance(lowest, int | float) and lowest < 255
        return Source(path, upright.width, upright.height, has_alpha=alpha)


def _reason(error: Exception) -> str:
    return str(error).splitlines()[-1] if str(error) else type(error).__name__
