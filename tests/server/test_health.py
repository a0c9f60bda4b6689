"""The health server over real HTTP."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import anyio
import httpx
import pytest

from dreamcuts.errors import ConfigError
from dreamcuts.server import health_server, make_app
from dreamcuts.worker.status import WorkerStatus

pytestmark = pytest.mark.anyio


class State:
    def __init__(self) -> None:
        self.running = True

    def is_running(self) -> bool:
        return self.running

    def worker_statuses(self) -> Sequence[WorkerStatus]:
        return [
            WorkerStatus("tts", self.running, 2, 3, "elevenlabs", ("audio tags",)),
            WorkerStatus("render", False, 0, 1, "shotstack"),
        ]


async def get(port: int, path: str, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        return await client.get(f"http://127.0.0.1:{port}{path}", headers=headers)


async def test_health_has_the_founding_fields() -> None:
    state = State()
    async with health_server(make_app(state), "127.0.0.1", 0) as port:
        answer = await get(port, "/health")
        body = answer.json()
        assert answer.status_code == 200
        assert datetime.fromisoformat(body.pop("timestamp")).tzinfo is not None
        uptime = body.pop("uptime")
        assert isinstance(uptime, int) and 0 <= uptime < 60_000
        assert body == {"status": "healthy", "workers": 2, "activeWorkers": 1, "totalActiveJobs": 2}

        state.running = False
        answer = await get(port, "/health")
        assert answer.status_code == 503
        assert answer.json()["status"] == "stopping"


async def test_status_lists_the_workers() -> None:
    async with health_server(make_app(State()), "127.0.0.1", 0) as port:
        body = (await get(port, "/status")).json()
    assert body["isRunning"] is True
    assert body["totalWorkers"] == 2
    assert body["workers"][0] == {
        "name": "tts",
        "isRunning": True,
        "activeJobs": 2,
        "maxConcurrentJobs": 3,
        "provider": "elevenlabs",
        "features": ["audio tags"],
    }


async def test_files_serves_ranges_and_stays_in_its_folder(tmp_path: Path) -> None:
    assets = tmp_path / "assets"
    (assets / "m1").mkdir(parents=True)
    (assets / "m1" / "speech.mp3").write_bytes(b"0123456789")
    (tmp_path / "secret").write_text("outside")
    (assets / "link").symlink_to(tmp_path / "secret")
    async with health_server(make_app(State(), assets), "127.0.0.1", 0) as port:
        whole = await get(port, "/files/m1/speech.mp3")
        assert whole.content == b"0123456789"
        assert whole.headers["content-type"] == "audio/mpeg"
        assert whole.headers["x-content-type-options"] == "nosniff"
        part = await get(port, "/files/m1/speech.mp3", range="bytes=2-4")
        assert (part.status_code, part.content) == (206, b"234")
        for outside in ("/files/../secret", "/files/%2e%2e/secret", "/files/link", "/files/m1"):
            assert (await get(port, outside)).status_code == 404


async def test_unknown_path_says_what_exists() -> None:
    async with health_server(make_app(State()), "127.0.0.1", 0) as port:
        answer = await get(port, "/files/x")
        assert answer.status_code == 404
        answer = await get(port, "/metric")
        assert answer.json() == {"error": "/metric does not exist. There are /health and /status."}


async def test_taken_port_names_the_setting() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="HEALTH_CHECK_PORT"):
            async with health_server(make_app(State()), "127.0.0.1", taken.getsockname()[1]):
                pass


async def test_port_is_free_again_afterwards_and_an_error_inside_gets_out() -> None:
    with pytest.raises(RuntimeError, match="inside"):
        async with health_server(make_app(State()), "127.0.0.1", 0) as port:
            raise RuntimeError("inside")
    with pytest.raises(httpx.ConnectError), anyio.fail_after(5):
        await get(port, "/health")
