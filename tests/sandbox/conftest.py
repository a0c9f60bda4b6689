"""Clients for the sandbox under test, and ways to look into and listen to what it made."""

from __future__ import annotations

import array
import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from elevenlabs.client import AsyncElevenLabs
from PIL import Image

from dreamcuts.sandbox import Sandbox
from dreamcuts.sandbox.ffmpeg import MediaInfo, probe, run_ffmpeg

DEADLINE = 30.0

WIDTH, HEIGHT, FPS = 320, 180, 25
RED, GREEN, BLUE, BLACK = (200, 30, 30), (30, 160, 60), (40, 60, 200), (0, 0, 0)
RATE = 8000
"""Samples a second, in which a film is listened to."""
SINE = 1 / 8
"""The amplitude of ffmpeg's sine source."""


@dataclass
class Fal:
    """fal's queue API over plain HTTP."""

    http: httpx.AsyncClient
    url: str
    headers: dict[str, str]

    async def submit(self, endpoint: str, arguments: dict[str, Any], **headers: str) -> dict[str, Any]:
        response = await self.http.post(
            f"{self.url}/{endpoint}", json=arguments, headers=self.headers | headers
        )
        assert response.status_code == 200, response.text
        ticket: dict[str, Any] = response.json()
        return ticket

    async def wait(self, ticket: dict[str, Any]) -> httpx.Response:
        """The result, once the request is completed."""
        with anyio.fail_after(DEADLINE):
            while (await self.get(ticket["status_url"])).status_code == 202:  # noqa: ASYNC110  (polling is the API)
                await anyio.sleep(0.02)
        return await self.get(ticket["response_url"])

    async def run(self, endpoint: str, arguments: dict[str, Any]) -> dict[str, Any]:
        response = await self.wait(await self.submit(endpoint, arguments))
        assert response.status_code == 200, response.text
        output: dict[str, Any] = response.json()
        return output

    async def get(self, url: str) -> httpx.Response:
        return await self.http.get(url, headers=self.headers)


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, timeout=DEADLINE) as client:
        yield client


@pytest.fixture
async def fal(sandbox: Sandbox, http: httpx.AsyncClient) -> Fal:
    sandbox.options.fal_queue_seconds = 0.02
    environment = sandbox.environment()
    key = {"authorization": f"Key {environment['FAL_KEY']}"}
    return Fal(http, environment["FAL_QUEUE_URL"], key)


@pytest.fixture
async def voice(sandbox: Sandbox, http: httpx.AsyncClient) -> AsyncElevenLabs:
    environment = sandbox.environment()
    return AsyncElevenLabs(
        base_url=environment["ELEVENLABS_BASE_URL"],
        api_key=environment["ELEVENLABS_API_KEY"],
        httpx_client=http,
    )


@pytest.fixture
def look(http: httpx.AsyncClient, tmp_path: Path) -> Callable[..., Awaitable[tuple[Path, MediaInfo]]]:
    """Takes bytes or a URL, and gives the file and what ffmpeg says of it."""

    async def look_at(media: bytes | str, name: str = "media") -> tuple[Path, MediaInfo]:
        if isinstance(media, str):
            response = await http.get(media)
            assert response.status_code == 200
            name, media = f"{name}-{media.rsplit('/', 1)[-1]}", response.content
        path = tmp_path / name
        path.write_bytes(media)
        return path, await probe(path)

    return look_at


@pytest.fixture
def frame() -> Callable[[Path, float], Awaitable[Image.Image]]:
    """Takes a video and a moment in seconds, and gives the picture there."""

    async def frame_at(video: Path, seconds: float) -> Image.Image:
        target = video.with_suffix(f".{seconds}.png")
        await run_ffmpeg("-ss", str(seconds), "-i", str(video), "-frames:v", "1", str(target))
        with Image.open(target) as opened:
            return opened.convert("RGB")

    return frame_at


class Studio:
    """A sandbox with media to compose, and means to look at what comes out."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.files = sandbox.state.files
        for name, colour in (("red", RED), ("green", GREEN), ("blue", BLUE)):
            Image.new("RGB", (400, 300), colour).save(self.files / f"{name}.png")
        halves = Image.new("RGB", (400, 225), RED)
        halves.paste(BLUE, (200, 0, 400, 225))
        halves.save(self.files / "halves.jpg", quality=95)
        Image.new("RGBA", (64, 64), (*GREEN, 128)).save(self.files / "glass.png")
        asyncio.run(self._record())

    async def _record(self) -> None:
        # Red for a second, then blue for a second, with a tone of 500 Hz.
        await run_ffmpeg(
            *("-f", "lavfi", "-i", "color=0xc81e1e:s=320x180:r=24:d=1"),
            *("-f", "lavfi", "-i", "color=0x283cc8:s=320x180:r=24:d=1"),
            *("-f", "lavfi", "-i", "sine=f=500:d=2:r=44100"),
            *("-filter_complex", "[0][1]concat=n=2:v=1[v]", "-map", "[v]", "-map", "2:a"),
            *("-c:v", "libx264", "-pix_fmt", "yuv420p", "-c:a", "aac", str(self.files / "clip.mp4")),
        )
        for hertz in (400, 1000):
            await run_ffmpeg(
                "-f", "lavfi", "-i", f"sine=f={hertz}:d=3:r=44100", str(self.files / f"{hertz}.wav")
            )

    def url(self, name: str) -> str:
        return f"{self.sandbox.url}/files/{name}"

    def image(self, name: str, start: float = 0.0, length: Any = 2.0, **clip: Any) -> dict[str, Any]:
        return {"asset": {"type": "image", "src": self.url(name)}, "start": start, "length": length, **clip}

    def video(self, start: float = 0.0, length: Any = 2.0, asset: Any = None, **clip: Any) -> dict[str, Any]:
        source = {"type": "video", "src": self.url("clip.mp4"), **(asset or {})}
        return {"asset": source, "start": start, "length": length, **clip}

    def tone(self, hertz: int, start: float, length: Any, **asset: Any) -> dict[str, Any]:
        source = {"type": "audio", "src": self.url(f"{hertz}.wav"), **asset}
        return {"asset": source, "start": start, "length": length}

    def edit(self, *tracks: list[dict[str, Any]], timeline: Any = None, **output: Any) -> dict[str, Any]:
        size = {"size": {"width": WIDTH, "height": HEIGHT}, "fps": FPS}
        return {
            "timeline": {"tracks": [{"clips": clips} for clips in tracks], **(timeline or {})},
            "output": {"format": "mp4", **({} if "resolution" in output else size), **output},
        }

    def submit(self, edit: dict[str, Any]) -> httpx.Response:
        key = {"x-api-key": self.sandbox.state.keys.shotstack}
        return httpx.post(f"{self.sandbox.url}/shotstack/edit/v1/render", json=edit, headers=key)

    def finish(self, edit: dict[str, Any]) -> dict[str, Any]:
        """Submit an edit and wait for its end; returns the status answer."""
        created = self.submit(edit)
        assert created.status_code == 201, created.text
        url = f"{self.sandbox.url}/shotstack/edit/v1/render/{created.json()['response']['id']}?data=false"
        key = {"x-api-key": self.sandbox.state.keys.shotstack}
        deadline = time.monotonic() + 60
        while True:
            answer: dict[str, Any] = httpx.get(url, headers=key).json()["response"]
            if answer["status"] in ("done", "failed"):
                return answer
            assert time.monotonic() < deadline, f"the render is still {answer['status']}"
            time.sleep(0.3)  # polls count in the rate window

    def render(self, edit: dict[str, Any]) -> Film:
        answer = self.finish(edit)
        assert answer["status"] == "done", answer["error"]
        return Film(self.files / answer["url"].rpartition("/")[2], answer)


class Film:
    """A rendered file and what can be seen and heard in it."""

    def __init__(self, path: Path, answer: dict[str, Any]) -> None:
        self.path, self.answer = path, answer

    def info(self) -> MediaInfo:
        return asyncio.run(probe(self.path))

    def frame(self, seconds: float) -> Image.Image:
        """The frame shown at a time."""
        number = math.floor(seconds * FPS + 1e-6)
        pick = f"select=eq(n\\,{number})"
        raw = asyncio.run(
            run_ffmpeg(
                *("-i", str(self.path), "-vf", pick, "-frames:v", "1"),
                *("-f", "rawvideo", "-pix_fmt", "rgb24", "-"),
            )
        )
        assert len(raw) == WIDTH * HEIGHT * 3, f"no frame at {seconds} s"
        return Image.frombytes("RGB", (WIDTH, HEIGHT), raw)

    def frames(self) -> int:
        raw = asyncio.run(
            run_ffmpeg("-i", str(self.path), "-vf", "scale=2:2", "-f", "rawvideo", "-pix_fmt", "gray", "-")
        )
        return len(raw) // 4

    def sound(self) -> array.array[int]:
        raw = asyncio.run(run_ffmpeg("-i", str(self.path), "-ac", "1", "-ar", str(RATE), "-f", "s16le", "-"))
        return array.array("h", raw)


def mean(picture: Image.Image, box: tuple[int, int, int, int] | None = None) -> tuple[float, float, float]:
    part = picture.crop(box) if box else picture
    pixels = part.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    assert isinstance(pixels, tuple)
    return pixels[0], pixels[1], pixels[2]


def like(colour: tuple[float, ...], tolerance: float = 9) -> Any:
    return pytest.approx(colour, abs=tolerance)


def level(sound: array.array[int], hertz: float, begin: float, end: float) -> float:
    """The amplitude, 0 to 1, of a tone in a stretch of sound (Goertzel's algorithm)."""
    part = sound[round(begin * RATE) : round(end * RATE)]
    turn = 2 * math.cos(2 * math.pi * hertz / RATE)
    before = last = 0.0
    for sample in part:
        before, last = last, sample + turn * last - before
    power = last * last + before * before - turn * last * before
    return 2 * math.sqrt(max(0.0, power)) / len(part) / 32768


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    with Sandbox.running(folder=tmp_path_factory.mktemp("studio")) as sandbox:
        yield Studio(sandbox)
