"""Starting, stopping and controlling a sandbox."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from dreamcuts.config import Settings
from dreamcuts.sandbox import Sandbox

FOREGROUND = """
import asyncio, json
from dreamcuts.sandbox import serve
asyncio.run(serve(on_ready=lambda sandbox: print(json.dumps(sandbox.environment()), flush=True)))
"""


def test_environment_is_what_the_settings_need() -> None:
    with Sandbox.running() as sandbox:
        settings = Settings.load(**{name.lower(): value for name, value in sandbox.environment().items()})
        assert settings.allow_private_urls
        assert settings.fal_queue_url.startswith(sandbox.url)
        assert httpx.get(f"{sandbox.url}/_sandbox/health").json() == {"status": "ok"}


def test_nothing_is_left_behind() -> None:
    before = set(threading.enumerate())
    with Sandbox.running() as sandbox:
        folder, port = sandbox.state.folder, int(sandbox.url.rsplit(":", 1)[1])
        environment = sandbox.environment()
        httpx.post(
            f"{environment['FAL_QUEUE_URL']}/fal-ai/veo3/fast",
            json={"prompt": "a film that is still being made when the sandbox stops"},
            headers={"authorization": f"Key {environment['FAL_KEY']}"},
        ).raise_for_status()
    assert not folder.exists()
    named = [thread for thread in set(threading.enumerate()) - before if "sandbox" in thread.name]
    assert named == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_given_folder_is_kept(tmp_path: Path) -> None:
    with Sandbox.running(folder=tmp_path / "box") as sandbox:
        (sandbox.state.files / "a.txt").write_text("kept")
        part = httpx.get(f"{sandbox.url}/files/a.txt", headers={"range": "bytes=1-2"})
        assert (part.status_code, part.text) == (206, "ep")
    assert (tmp_path / "box/files/a.txt").read_text() == "kept"


def test_two_side_by_side_and_a_taken_port() -> None:
    with Sandbox.running() as one, Sandbox.running() as two:
        assert one.url != two.url
        one.fail("hang")
        assert two.faults.rules() == []
        with pytest.raises(OSError, match="in use"), Sandbox.running(port=int(one.url.rsplit(":", 1)[1])):
            pass


def test_an_error_inside_the_block_gets_out() -> None:
    with pytest.raises(KeyError), Sandbox.running():
        raise KeyError


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_foreground_until_a_signal(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", FOREGROUND],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONWARNINGS": "error"},
    )
    try:
        assert process.stdout is not None
        environment = json.loads(process.stdout.readline())
        models = httpx.get(
            f"{environment['ELEVENLABS_BASE_URL']}/v1/models",
            headers={"xi-api-key": environment["ELEVENLABS_API_KEY"]},
        )
        assert models.status_code == 200
        process.send_signal(number)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def test_request_log_and_options() -> None:
    with Sandbox.running() as sandbox, httpx.Client(base_url=sandbox.url) as client:
        secret = sandbox.environment()["ELEVENLABS_API_KEY"]
        client.get("/elevenlabs/v1/models", headers={"xi-api-key": secret})
        client.get("/elevenlabs/v1/models")
        answer = client.get("/_sandbox/requests", params={"provider": "elevenlabs"})
        log = [(entry["path"], entry["status"], entry["key"]) for entry in answer.json()["requests"]]
        assert log == [("/v1/models", 200, True), ("/v1/models", 401, False)]
        assert secret not in answer.text
        assert client.delete("/_sandbox/requests").json() == {"requests": []}
        assert client.post("/_sandbox/options", json={"speed": 4}).json()["speed"] == 4
        assert (
            client.post("/_sandbox/options", json={"music_concurrency": 1}).json()["music_concurrency"] == 1
        )
        for wrong in ({"speed": 0}, {"speed": "fast"}, {"pace": 1}, {"music_concurrency": -1}, []):
            assert client.post("/_sandbox/options", json=wrong).status_code == 400, wrong


def test_billing_report() -> None:
    with Sandbox.running() as sandbox, httpx.Client(base_url=sandbox.url) as client:
        for body in (b"a", b"b", b"a"):
            sandbox.billing.record("fal", "x", "id", units=2, unit="image", usd=0.5, body=body)
        report = client.get("/_sandbox/billing").json()
        assert report["totals"]["usd"] == 1.5
        assert report["totals"]["providers"]["fal"]["requests"] == 3
        assert report["paid_twice"] == [report["bills"][0]["mark"]]
        assert client.delete("/_sandbox/billing").json()["bills"] == []


def test_speed_shortens_the_queue() -> None:
    with Sandbox.running(speed=1000) as sandbox:
        sandbox.options.fal_queue_seconds = 60
        environment = sandbox.environment()
        headers = {"authorization": f"Key {environment['FAL_KEY']}"}
        arguments = {"prompt": "p", "image_size": {"width": 64, "height": 64}}
        with httpx.Client(headers=headers) as client:
            ticket = client.post(f"{environment['FAL_QUEUE_URL']}/fal-ai/flux/srpo", json=arguments).json()
            deadline = time.monotonic() + 20
            while client.get(ticket["status_url"]).status_code == 202 and time.monotonic() < deadline:
                time.sleep(0.02)
            assert client.get(ticket["response_url"]).status_code == 200
