"""Clients for the sandbox under test, and a way to look into what it made."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
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
