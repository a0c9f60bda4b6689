"""The dashboard over real HTTP: what its pages show, who may change what, and what it says of bad input."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import psycopg
import pytest

from dreamcuts.config import Settings
from dreamcuts.errors import ConfigError
from dreamcuts.server.alone import dashboard_server
from dreamcuts.server.dashboard.access import TRIES_A_MINUTE
from tests.dashboard.conftest import TOKEN, Film

PAGES = ("/", "/manifests", "/jobs", "/workers", "/providers")
NOBODY = "00000000-0000-4000-8000-000000000000"


def key_of(page: str) -> str:
    found = re.search(r'name="key" value="([0-9a-f]+)"', page)
    assert found is not None
    return found[1]


@contextmanager
def signed_in(board: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=board, timeout=20) as client:
        answer = client.post("/sign-in", data={"token": TOKEN})
        assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard/")
        yield client


def test_every_page_answers_on_an_empty_queue(open_board: str) -> None:
    for page in PAGES:
        answer = httpx.get(open_board + page, timeout=20)
        assert answer.status_code == 200, page
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert not re.search(r"<script(?! src)|\sstyle=|\son\w+=|https?://(?!www\.w3\.org)", answer.text), (
            page
        )


def test_pages_show_the_film_and_escape_what_others_wrote(board: str, film: Film) -> None:
    overview = httpx.get(f"{board}/", timeout=20).text
    assert "The &lt;b&gt;lighthouse&lt;/b&gt;" in overview
    assert "invalid request" in overview
    manifest = httpx.get(f"{board}/manifests/{film.manifest}", timeout=20).text
    for name in film.jobs:
        assert name in manifest
    assert "waits for jobs that do not exist: job_never_made" in manifest
    assert '<audio data-keep="job_tts_s1" src="http://127.0.0.1:9/s1.mp3"' in manifest
    assert "$0.42" in manifest
    job = httpx.get(f"{board}/jobs/{film.jobs['job_lipsync_s1']}", timeout=20).text
    assert "{{job_result:job_tts_s1}}" in job and "http://127.0.0.1:9/s1.mp3" in job
    job = httpx.get(f"{board}/jobs/{film.jobs['job_gen_bad']}", timeout=20).text
    assert "the prompt is &lt;i&gt;empty&lt;/i&gt;" in job and "<i>empty" not in job
    assert "studio-1" in httpx.get(f"{board}/workers", timeout=20).text
    assert "elevenlabs" in httpx.get(f"{board}/providers", timeout=20).text
    assert "job_gen_now" in httpx.get(f"{board}/jobs", timeout=20).text


def test_a_url_that_is_none_is_never_linked(board: str, film: Film, connection: psycopg.Connection) -> None:
    connection.execute("update dreamcut_jobs set output_url = 'javascript:alert(1)//x.mp3'")
    for page in (f"/manifests/{film.manifest}", f"/jobs/{film.jobs['job_tts_s1']}"):
        text = httpx.get(board + page, timeout=20).text
        assert not re.search(r"""(?:src|href)=["']javascript:""", text)


@pytest.mark.parametrize(
    ("path", "code", "says"),
    [
        ("/manifests/nonsense", 400, "&#39;nonsense&#39; is no manifest id: it must be a uuid."),
        ("/jobs/%3Cscript%3E", 400, "is no job id"),
        (f"/jobs/{NOBODY}", 404, "There is no job"),
        (f"/manifests/{NOBODY}", 404, "There is no manifest"),
        ("/manifests?status=finished", 400, "status must be one of planning"),
        ("/manifests?before=yesterday", 400, "before must be a time"),
        ("/nowhere", 404, "/dashboard/nowhere does not exist."),
        ("/act", 405, "does not take GET"),
        ("/events?page=/nowhere", 404, "/dashboard/nowhere does not exist."),
        ("/events?page=/jobs/x", 200, ""),
    ],
)
def test_bad_input_is_told_what_is_wrong(open_board: str, path: str, code: int, says: str) -> None:
    if code == 200:  # an event stream: the trouble comes as an event
        with httpx.stream("GET", open_board + path, timeout=20) as stream:
            lines = stream.iter_lines()
            while not (line := next(lines)).startswith("event:"):
                pass
            assert line == "event: trouble"
            assert "is no job id" in next(lines)
        return
    answer = httpx.get(open_board + path, timeout=20)
    assert answer.status_code == code
    assert says in answer.text
    assert "Traceback" not in answer.text


def test_without_a_token_nobody_signs_in_or_changes_anything(open_board: str, film: Film) -> None:
    page = httpx.get(f"{open_board}/jobs/{film.jobs['job_gen_bad']}", timeout=20).text
    assert "Read-only" in page and "/act" not in page
    answer = httpx.post(f"{open_board}/sign-in", data={"token": ""}, timeout=20)
    assert answer.status_code == 403 and "DASHBOARD_TOKEN" in answer.text
    forged = {"dreamcuts_session": "9999999999.x." + "0" * 64}
    body = {"what": "retry-job", "target": str(film.jobs["job_gen_bad"]), "key": ""}
    answer = httpx.post(f"{open_board}/act", data=body, cookies=forged, timeout=20)
    assert answer.status_code == 403


def test_signing_in_sets_a_strict_cookie_and_a_wrong_token_does_not(board: str) -> None:
    answer = httpx.post(f"{board}/sign-in", data={"token": "wrong"}, timeout=20)
    assert answer.status_code == 403 and "set-cookie" not in answer.headers
    answer = httpx.post(f"{board}/sign-in", data={"token": TOKEN}, timeout=20)
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and "path=/dashboard" in cookie
    assert TOKEN not in answer.headers["set-cookie"]
    behind = {"x-forwarded-proto": "https"}
    answer = httpx.post(f"{board}/sign-in", data={"token": TOKEN}, headers=behind, timeout=20)
    assert "secure" in answer.headers["set-cookie"].lower()
    for _ in range(TRIES_A_MINUTE):
        answer = httpx.post(f"{board}/sign-in", data={"token": "guess"}, timeout=20)
    answer = httpx.post(f"{board}/sign-in", data={"token": TOKEN}, timeout=20)
    assert answer.status_code == 429


def test_a_change_needs_the_session_and_its_form(
    board: str, film: Film, connection: psycopg.Connection
) -> None:
    def status() -> str:
        row = connection.execute(
            "select status from dreamcut_jobs where id = %s", [film.jobs["job_gen_bad"]]
        ).fetchone()
        assert row is not None
        return str(row[0])

    body = {"what": "retry-job", "target": str(film.jobs["job_gen_bad"]), "back": "/jobs"}
    assert httpx.post(f"{board}/act", data=body, timeout=20).status_code == 403
    with signed_in(board) as client:
        page = client.get(f"/jobs/{film.jobs['job_gen_bad']}").text
        answer = client.post("/act", data=body)
        assert answer.status_code == 403 and "Load the page again" in answer.text
        answer = client.post("/act", data=body | {"key": "0" * 64})
        assert answer.status_code == 403
        assert status() == "failed"
        answer = client.post("/act", data=body | {"key": key_of(page)})
        assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard/jobs")
        assert status() == "pending"
        assert "1 job is pending again." in client.get("/jobs").text
        assert "1 job is pending again." not in client.get("/jobs").text
        with signed_in(board) as other:
            answer = other.post("/act", data=body | {"key": key_of(page)})
            assert answer.status_code == 403  # a form of another session


def test_actions_reach_the_queue(board: str, film: Film, connection: psycopg.Connection) -> None:
    with signed_in(board) as client:
        key = key_of(client.get("/").text)

        def do(what: str, target: str) -> httpx.Response:
            return client.post("/act", data={"what": what, "target": target, "key": key, "back": "/"})

        assert do("cancel-manifest", str(film.manifest)).status_code == 303
        rows = connection.execute("select job_id, status from dreamcut_jobs").fetchall()
        assert dict(rows) == {
            "job_tts_s1": "completed",
            "job_gen_bad": "failed",
            "job_gen_now": "cancelled",
            "job_lipsync_s1": "cancelled",
            "job_render": "cancelled",
        }
        assert do("retry-manifest", str(film.manifest)).status_code == 303
        rows = connection.execute("select distinct status from dreamcut_jobs order by 1").fetchall()
        assert rows == [("completed",), ("pending",)]
        assert do("cancel-job", str(film.jobs["job_render"])).status_code == 303
        assert do("pause", "elevenlabs").status_code == 303
        page = client.get("/providers").text
        assert "paused" in page and "until somebody resumes it" in page
        assert do("resume", "elevenlabs").status_code == 303
        row = connection.execute(
            "select paused_until from dreamcut_providers where name = 'elevenlabs'"
        ).fetchone()
        assert row == (None,)
        for what, target, code in (
            ("drop-database", "x", 400),
            ("retry-job", "x", 400),
            ("pause", "", 400),
        ):
            assert do(what, target).status_code == code, what
        answer = client.post(
            "/act", data={"back": "//evil.example/", "what": "resume", "target": "fal", "key": key}
        )
        assert answer.headers["location"].startswith("/dashboard/")
        assert client.post("/act", content=b"x" * 20_000).status_code == 413
        assert client.post("/sign-out", data={"key": key}).status_code == 303
        assert do("pause", "elevenlabs").status_code == 403


def test_events_bring_the_page_when_it_has_changed(
    board: str, film: Film, connection: psycopg.Connection
) -> None:
    def next_page(lines: object) -> str:
        data: list[str] = []
        for line in lines:  # type: ignore[attr-defined]
            if line.startswith("data: "):
                data.append(line.removeprefix("data: "))
            elif not line and data:
                return "\n".join(data)
        raise AssertionError("the stream ended")

    address = f"{board}/events?page=/jobs/{film.jobs['job_gen_now']}"
    with httpx.stream("GET", address, timeout=30) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = stream.iter_lines()
        first = next_page(lines)
        assert "processing" in first and "<nav" not in first
        connection.execute("select dreamcut_cancel_jobs(%s)", [[film.jobs["job_gen_now"]]])
        while "cancelled by an operator" not in next_page(lines):
            pass


def test_without_the_database_a_page_says_so() -> None:
    settings = Settings.load(database_url="postgresql://nobody@127.0.0.1:1/none")
    with dashboard_server(settings, "127.0.0.1", 0) as address:
        answer = httpx.get(address, timeout=30)
    assert answer.status_code == 503
    assert "The database does not answer" in answer.text and "Traceback" not in answer.text


def test_a_taken_port_names_the_option(database: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with (
            pytest.raises(ConfigError, match="--port"),
            dashboard_server(Settings.load(database_url=database), "127.0.0.1", taken.getsockname()[1]),
        ):
            pass
