"""Shotstack's wire format: who is let in, what is refused and why, how a render goes, what it costs."""

from __future__ import annotations

import copy
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from dreamcuts.sandbox import Sandbox
from dreamcuts.sandbox.shotstack import RateWindow, merged
from dreamcuts.sandbox.shotstack_types import TRANSITIONS


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with Sandbox.running(folder=tmp_path_factory.mktemp("shotstack")) as sandbox:
        Image.new("RGB", (64, 36), (200, 30, 30)).save(sandbox.state.files / "red.png")
        yield sandbox


@pytest.fixture
def client(running: Sandbox) -> Iterator[httpx.Client]:
    key = {"x-api-key": running.state.keys.shotstack}
    with httpx.Client(base_url=f"{running.url}/shotstack", headers=key) as client:
        yield client


def an_edit(sandbox: Sandbox, **output: Any) -> dict[str, Any]:
    clip = {"asset": {"type": "image", "src": f"{sandbox.url}/files/red.png"}, "start": 0, "length": 1}
    return {
        "timeline": {"tracks": [{"clips": [clip]}]},
        "output": {"format": "mp4", "size": {"width": 64, "height": 36}, **output},
    }


def finish(client: httpx.Client, edit: dict[str, Any], env: str = "stage") -> dict[str, Any]:
    created = client.post(f"/edit/{env}/render", json=edit)
    assert created.status_code == 201, created.text
    return settle(client, created.json()["response"]["id"], env)


def settle(client: httpx.Client, render: str, env: str = "stage") -> dict[str, Any]:
    deadline, pause = time.monotonic() + 60, 0.2
    while True:
        answer: dict[str, Any] = client.get(f"/edit/{env}/render/{render}").json()["response"]
        if answer["status"] in ("done", "failed"):
            return answer
        assert answer["status"] in ("queued", "fetching", "preprocessing", "rendering", "saving")
        assert "url" not in answer and time.monotonic() < deadline
        time.sleep(pause)  # polls count in the rate window
        pause = min(pause * 1.5, 2.0)


@pytest.mark.parametrize("key", [None, "", "wrong"])
def test_without_the_right_key_all_is_forbidden(running: Sandbox, key: str | None) -> None:
    headers = {} if key is None else {"x-api-key": key}
    base = f"{running.url}/shotstack"
    answers = [
        httpx.post(f"{base}/edit/stage/render", json=an_edit(running), headers=headers),
        httpx.get(f"{base}/edit/stage/render/some-id", headers=headers),
        httpx.get(f"{base}/serve/stage/assets/render/some-id", headers=headers),
    ]
    assert [(answer.status_code, answer.json()) for answer in answers] == [
        (403, {"message": "Forbidden"})
    ] * 3


def test_there_are_two_environments(running: Sandbox, client: httpx.Client) -> None:
    assert client.post("/edit/production/render", json=an_edit(running)).status_code == 403


def test_a_render_is_created_done_and_served(running: Sandbox, client: httpx.Client) -> None:
    edit = an_edit(running)
    created = client.post("/edit/stage/render", json=edit)
    assert created.status_code == 201
    body = created.json()
    render = body["response"]["id"]
    assert body == {
        "success": True,
        "message": "Created",
        "response": {"message": "Render Successfully Queued", "id": render},
    }
    answer = settle(client, render)
    assert (answer["status"], answer["error"], answer["duration"]) == ("done", "", 1.0)
    assert answer["data"] == edit and answer["renderTime"] > 0
    assert "data" not in client.get(f"/edit/stage/render/{render}?data=false").json()["response"]
    film = httpx.get(answer["url"])
    assert film.status_code == 200 and film.headers["content-type"] == "video/mp4"
    assert film.content[4:8] == b"ftyp"
    listed = client.get(f"/serve/stage/assets/render/{render}").json()["data"][0]["attributes"]
    assert (listed["url"], listed["renderId"], listed["status"]) == (answer["url"], render, "ready")
    assert list(running.state.temp.iterdir()) == []


def test_unknown_ids_are_not_found_nor_those_of_the_other_environment(
    running: Sandbox, client: httpx.Client
) -> None:
    render = finish(client, an_edit(running))["id"]
    for path in (f"/edit/v1/render/{render}", "/edit/stage/render/none", f"/serve/v1/assets/render/{render}"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["message"]) == (404, "Not Found")


def broken(path: str, value: Any = ...) -> Callable[[dict[str, Any]], None]:
    """A change to an edit: set what a dotted path names, or remove it."""
    keys: list[Any] = [int(key) if key.isdigit() else key for key in path.split(".")]

    def change(edit: dict[str, Any]) -> None:
        place: Any = edit
        for key in keys[:-1]:
            place = place.setdefault(key, {}) if isinstance(place, dict) else place[key]
        if value is ...:
            del place[keys[-1]]
        else:
            place[keys[-1]] = value

    return change


CLIP = "timeline.tracks.0.clips.0"
SHOWN = "timeline.tracks[0].clips[0]"
CAPTION = {"type": "caption", "src": "https://example.test/a.srt"}


@pytest.mark.parametrize(
    ("change", "message", "kind"),
    [
        (broken("timeline"), '"timeline" is required', "any.required"),
        (broken("timeline.tracks"), '"timeline.tracks" is required', "any.required"),
        (broken("timeline.tracks", []), '"timeline.tracks" must contain at least 1 items', "array.min"),
        (broken("output.format"), '"output.format" is required', "any.required"),
        (
            broken("output.format", "avi"),
            '"output.format" must be one of [mp4, gif, mp3, jpg, png, bmp]',
            "any.only",
        ),
        (broken("output.colour", "red"), '"output.colour" is not allowed', "object.unknown"),
        (broken("output.size.width", 641), '"output.size.width" must be a multiple of 2', "number.multiple"),
        (
            broken("output.size.width", 9000),
            '"output.size.width" must be less than or equal to 4096',
            "number.max",
        ),
        (broken("output.size.width", "64"), '"output.size.width" must be an integer', "number.integer"),
        (broken("output.fps", 26), '"output.fps" must be one of [12, 15, 23.976, ', "any.only"),
        (broken(f"{CLIP}.start"), f'"{SHOWN}.start" is required', "any.required"),
        (
            broken(f"{CLIP}.length", "forever"),
            f"\"{SHOWN}.length\" must be a number of seconds, 'auto', 'end' or 'alias://name'",
            "alternatives.match",
        ),
        (broken(f"{CLIP}.start", -1), f'"{SHOWN}.start" must be greater than or equal to 0', "number.min"),
        (broken(f"{CLIP}.effect", "spin"), f'"{SHOWN}.effect" must be one of [zoomIn, ', "any.only"),
        (
            broken(f"{CLIP}.transition.in", "dissolve"),
            f'"{SHOWN}.transition.in" must be one of [fade, ',
            "any.only",
        ),
        (broken(f"{CLIP}.asset.src"), f'"{SHOWN}.asset.src" is required', "any.required"),
        (
            broken(f"{CLIP}.asset.src", "file:///etc/passwd"),
            f'"{SHOWN}.asset.src" must be a valid uri with a scheme matching the http|https pattern',
            "string.uriCustomScheme",
        ),
        (broken(f"{CLIP}.asset.type"), f'"{SHOWN}.asset.type" is required', "any.required"),
        (
            broken(f"{CLIP}.asset.type", "hologram"),
            f'"{SHOWN}.asset.type" must be one of [video, ',
            "any.only",
        ),
        (broken(f"{CLIP}.asset.volume", 1), f'"{SHOWN}.asset.volume" is not allowed', "object.unknown"),
        (
            broken(f"{CLIP}.asset", {"type": "audio", "src": "https://example.test/a.mp3", "volume": 2}),
            f'"{SHOWN}.asset.volume" must be less than or equal to 1',
            "number.max",
        ),
        (
            broken(f"{CLIP}.asset", {**CAPTION, "font": {"colour": "#fff"}}),
            f'"{SHOWN}.asset.font.colour" is not allowed',
            "object.unknown",
        ),
        (
            broken(f"{CLIP}.asset", {**CAPTION, "font": {"color": "white"}}),
            f'"{SHOWN}.asset.font.color" must be a hexadecimal colour such as #ffffff',
            "string.pattern.base",
        ),
        (
            broken(f"{CLIP}.length", "alias://nobody"),
            '"timeline" The times of tracks[0].clips[0]',
            "any.invalid",
        ),
    ],
)
def test_what_is_wrong_is_named(
    running: Sandbox, client: httpx.Client, change: Callable[[dict[str, Any]], None], message: str, kind: str
) -> None:
    edit = copy.deepcopy(an_edit(running))
    change(edit)
    before = len(running.bills("shotstack"))
    answer = client.post("/edit/v1/render", json=edit)
    assert answer.status_code == 400
    body = answer.json()
    assert (body["success"], body["message"], body["response"]["error"]) == (
        False,
        "Bad Request",
        "ValidationError",
    )
    (found,) = body["response"]["details"]
    assert found["message"].startswith(message) and found["type"] == kind
    assert len(running.bills("shotstack")) == before


def test_all_problems_are_named_at_once(running: Sandbox, client: httpx.Client) -> None:
    edit = an_edit(running, format="avi", fps=26)
    edit["extra"] = 1
    paths = [item["path"] for item in client.post("/edit/v1/render", json=edit).json()["response"]["details"]]
    assert sorted(paths) == [["extra"], ["output", "format"], ["output", "fps"]]


def test_a_body_that_is_no_json_is_refused(client: httpx.Client) -> None:
    answer = client.post("/edit/v1/render", content=b"{nope")
    assert answer.status_code == 400 and "not valid JSON" in answer.text


def test_every_published_transition_renders(running: Sandbox, client: httpx.Client) -> None:
    source = f"{running.url}/files/red.png"
    clips = [
        {
            "asset": {"type": "image", "src": source},
            "start": round(0.2 * number, 3),
            "length": 0.2,
            "transition": {"in": name, "out": name},
        }
        for number, name in enumerate(TRANSITIONS)
    ]
    edit = an_edit(running)
    edit["timeline"]["tracks"] = [{"clips": clips[:30]}, {"clips": clips[30:]}]
    answer = finish(client, edit, "v1")
    assert answer["status"] == "done", answer["error"]
    assert answer["duration"] == pytest.approx(0.2 * len(TRANSITIONS), abs=0.04)


@pytest.mark.parametrize("kind", ["image", "video", "audio", "caption"])
def test_a_source_that_is_missing_fails_the_render_by_name(
    running: Sandbox, client: httpx.Client, kind: str
) -> None:
    edit = an_edit(running)
    missing = f"{running.url}/files/missing-{kind}.bin"
    edit["timeline"]["tracks"].append(
        {"clips": [{"asset": {"type": kind, "src": missing}, "start": 0, "length": 1}]}
    )
    answer = finish(client, edit, "v1")
    assert answer["status"] == "failed" and "url" not in answer
    assert answer["error"] == f"Could not fetch {missing}: HTTP status 404"
    assert list(running.state.temp.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "name", "content"),
    [
        ("image", "page.png", b"<html>not a picture</html>"),
        ("video", "page.mp4", b"<html>not a film</html>"),
        ("audio", "red.png", None),
        ("caption", "page.srt", b"<html>no captions</html>"),
    ],
)
def test_a_source_of_the_wrong_kind_fails_the_render_by_name(
    running: Sandbox, client: httpx.Client, kind: str, name: str, content: bytes | None
) -> None:
    if content is not None:
        (running.state.files / name).write_bytes(content)
    edit = an_edit(running)
    source = f"{running.url}/files/{name}"
    edit["timeline"]["tracks"].append(
        {"clips": [{"asset": {"type": kind, "src": source}, "start": 0, "length": 1}]}
    )
    answer = finish(client, edit, "v1")
    assert answer["status"] == "failed"
    assert answer["error"].startswith(f"Invalid {kind} asset {source}: ")


def test_a_minute_is_a_credit_and_billed_once(running: Sandbox, client: httpx.Client) -> None:
    edit = an_edit(running, fps=12)
    edit["timeline"]["tracks"][0]["clips"][0]["length"] = 90
    before = len(running.bills("shotstack"))
    render = finish(client, edit, "v1")["id"]
    finish(client, an_edit(running), "stage")
    paid, free = running.bills("shotstack")[before:]
    assert (paid.request_id, paid.endpoint, paid.units, paid.usd) == (render, "edit/v1/render", 1.5, 0.45)
    assert (free.endpoint, free.usd) == ("edit/stage/render", 0.0)


def test_merge_fields_are_put_in(running: Sandbox, client: httpx.Client) -> None:
    edit = an_edit(running)
    clip = edit["timeline"]["tracks"][0]["clips"][0]
    clip["asset"]["src"] = f"{running.url}/files/{{{{NAME}}}}.png"
    clip["length"] = "{{SECONDS}}"
    edit["merge"] = [{"find": "NAME", "replace": "red"}, {"find": "SECONDS", "replace": 0.4}]
    assert merged(edit)["timeline"]["tracks"][0]["clips"][0]["length"] == 0.4
    answer = finish(client, edit)
    assert (answer["status"], answer["duration"]) == ("done", 0.4)


def test_the_rate_window_answers_429(tmp_path: Path) -> None:
    with Sandbox.running(folder=tmp_path) as sandbox:
        key = {"x-api-key": sandbox.state.keys.shotstack}
        with httpx.Client(base_url=f"{sandbox.url}/shotstack", headers=key) as client:
            first = [client.get("/edit/stage/render/x").status_code for _ in range(150)]
            late = client.get("/edit/stage/render/x")
            other = client.get("/edit/v1/render/x")
    assert set(first) == {404}
    assert late.status_code == 429 and late.json()["error"]["type"] == "rate_limit_error"
    assert other.status_code == 404, "the environments have windows of their own"


def test_a_rate_window_starts_anew_after_a_minute() -> None:
    now = 100.0
    window = RateWindow(2, clock=lambda: now)
    assert [window.admits() for _ in range(3)] == [True, True, False]
    now = 159.9
    assert not window.admits()
    now = 160.0
    assert window.admits()


def test_the_callback_is_told(running: Sandbox, client: httpx.Client) -> None:
    told: list[dict[str, Any]] = []
    heard = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()
            heard.set()

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            answer = finish(
                client, an_edit(running) | {"callback": f"http://127.0.0.1:{server.server_port}/done"}
            )
            assert heard.wait(30)
        finally:
            server.shutdown()
            thread.join()
    (message,) = told
    assert (message["type"], message["action"], message["status"]) == ("edit", "render", "done")
    assert (message["id"], message["url"], message["error"]) == (answer["id"], answer["url"], None)


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="no /proc here to look for children in")
def test_a_sandbox_that_stops_leaves_nothing_running(tmp_path: Path) -> None:
    with Sandbox.running(folder=tmp_path) as sandbox:
        Image.effect_noise((640, 360), 80).convert("RGB").save(sandbox.state.files / "red.png")
        edit = an_edit(sandbox, size={"width": 1280, "height": 720}, fps=60)
        clip = edit["timeline"]["tracks"][0]["clips"][0]
        clip |= {"length": 120, "effect": "zoomIn"}
        key = {"x-api-key": sandbox.state.keys.shotstack}
        with httpx.Client(base_url=f"{sandbox.url}/shotstack", headers=key) as client:
            render = client.post("/edit/stage/render", json=edit).json()["response"]["id"]
            deadline = time.monotonic() + 30
            while not commands_with(str(tmp_path)):
                assert time.monotonic() < deadline
                status = client.get(f"/edit/stage/render/{render}").json()["response"]["status"]
                assert status not in ("done", "failed")
                time.sleep(0.2)
    assert commands_with(str(tmp_path)) == []
    assert list((tmp_path / "tmp").iterdir()) == []


def commands_with(text: str) -> list[str]:
    """The command lines of running processes that hold a text; an ended one has none."""
    found: list[str] = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue
        if text.encode() in command and b"ffmpeg" in command.split(b"\0", 1)[0]:
            found.append(command.decode(errors="replace"))
    return found
