"""The health server over real HTTP."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import anyio
import httpx
import pytest

from dreamcuts.config import Settings
from dreamcuts.errors import ConfigError
from dreamcuts.server import Pulse, health_server, make_app
from dreamcuts.server.beside import health_port
from dreamcuts.worker.status import WorkerStatus

pytestmark = pytest.mark.anyio


class State:
    def __init__(self) -> None:
        self.running = True
        self.silence = 0.0

    def is_running(self) -> bool:
        return self.running

    def database_silence(self) -> float:
        return self.silence

    def lease_seconds(self) -> float:
        return 45.0

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


async def test_ready_says_why_not_and_live_goes_on() -> None:
    state = State()
    async with health_server(make_app(state), "127.0.0.1", 0) as port:
        assert (await get(port, "/ready")).json() == {"status": "ready"}
        state.silence = 44.0
        assert (await get(port, "/ready")).status_code == 200
        state.silence = 46.0
        answer = await get(port, "/ready")
        assert answer.status_code == 503
        assert "has not answered for 46 s" in answer.json()["reason"]
        assert (await get(port, "/health")).json()["status"] == "unhealthy"
        state.silence, state.running = 0.0, False
        answer = await get(port, "/ready")
        assert (answer.status_code, answer.json()["status"]) == (503, "not ready")
        assert "draining" in answer.json()["reason"]
        assert (await get(port, "/live")).status_code == 200


async def test_a_hung_event_loop_is_seen_from_outside() -> None:
    """The loop that is watched is this one; it hangs until another thread has asked."""
    pulse = Pulse(hung_after=0.6)
    answers: list[httpx.Response] = []

    def ask_until_hung(address: str) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            answers.append(httpx.get(address))
            if answers[-1].status_code == 503:
                return

    async with pulse.beating(), health_server(make_app(State(), pulse=pulse), "127.0.0.1", 0) as port:
        with anyio.fail_after(10):
            while (await get(port, "/live")).status_code != 200:
                pass
        asker = threading.Thread(target=ask_until_hung, args=[f"http://127.0.0.1:{port}/live"])
        asker.start()
        asker.join()  # blocks the event loop, on purpose
        assert answers[-1].json()["status"] == "hung"
        with anyio.fail_after(10):
            while (await get(port, "/live")).status_code != 200:
                pass  # each request gives the loop a turn


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
        assert answer.json() == {
            "error": "/metric does not exist. There are /health, /status, /live and /ready."
        }
        async with httpx.AsyncClient() as client:
            answer = await client.post(f"http://127.0.0.1:{port}/health")
        assert (answer.status_code, answer.json()) == (405, {"error": "/health does not take POST."})


async def test_a_failure_of_the_server_shows_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(State):
        def worker_statuses(self) -> Sequence[WorkerStatus]:
            raise RuntimeError("inner detail")

    async with health_server(make_app(Broken()), "127.0.0.1", 0) as port:
        answer = await get(port, "/status")
    assert (answer.status_code, answer.json()) == (500, {"error": "The server failed; its log says how."})
    assert "inner detail" in caplog.text


async def test_taken_port_names_the_setting() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="HEALTH_CHECK_PORT"):
            async with health_server(make_app(State()), "127.0.0.1", taken.getsockname()[1]):
                pass


@pytest.mark.parametrize("host", ["nowhere.invalid", "192.0.2.1"])
async def test_a_wrong_host_names_its_setting_and_not_the_port(host: str) -> None:
    with pytest.raises(ConfigError, match="Set HEALTH_CHECK_HOST to an address of this machine") as raised:
        async with health_server(make_app(State()), host, 0):
            pass
    assert "HEALTH_CHECK_PORT" not in str(raised.value)


async def test_port_is_free_again_afterwards_and_an_error_inside_gets_out() -> None:
    with pytest.raises(RuntimeError, match="inside"):
        async with health_server(make_app(State()), "127.0.0.1", 0) as port:
            raise RuntimeError("inside")
    with pytest.raises(httpx.ConnectError), anyio.fail_after(5):
        await get(port, "/health")


def test_a_worker_of_one_type_takes_its_founding_port(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.load()
    ports = {name: health_port(settings, [name]) for name in ("tts", "image", "video", "lipsync", "music")}
    assert ports == {"tts": 3001, "image": 3002, "video": 3003, "lipsync": 3004, "music": 3005}
    assert health_port(settings, ["sound_effects"]) == 3006
    assert health_port(settings, ["render"]) == 3007
    assert health_port(settings, ["tts", "image"]) == 8080
    assert health_port(settings, ["chart"]) == 8080
    monkeypatch.setenv("HEALTH_CHECK_PORT", "8080")
    assert health_port(Settings.load(), ["tts"]) == 8080


@pytest.mark.parametrize("port", ["99999", "-1", "http"])
def test_a_wrong_port_names_the_setting(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEALTH_CHECK_PORT", port)
    with pytest.raises(ConfigError, match="HEALTH_CHECK_PORT"):
        Settings.load()
