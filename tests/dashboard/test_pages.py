"""The dashboard over real HTTP: what its pages show, who may change what, and what it says of bad input."""

from __future__ import annotations

import html
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import psycopg
import pytest

from dreamcuts.client import Client
from dreamcuts.config import Settings
from dreamcuts.errors import ConfigError
from dreamcuts.server.alone import dashboard_server
from dreamcuts.server.dashboard.access import TRIES_A_MINUTE
from dreamcuts.server.dashboard.pages import PAGE_SIZE
from tests.dashboard.conftest import TOKEN, Film
from tests.retention.past import Past
from tests.support import Queue, wait_until

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
        ("/manifests?before=2026-01-31T12:00:00Z&id=x", 400, "is no manifest id"),
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


def test_all_jobs_of_a_manifest_are_changed_however_many_the_page_shows(
    board: str, connection: psycopg.Connection
) -> None:
    queue = Queue(connection)
    names = [f"job_{number}" for number in range(2300)]
    manifest = Client(connection).submit_manifest(
        {},
        [{"job_id": name, "type": "tts_elevenlabs"} for name in names]
        + [{"job_id": "last", "type": "render_shotstack", "depends_on": [names[0], names[-1]]}],
    )
    queue.finish("job_7", type="tts_elevenlabs")

    def statuses() -> dict[str, int]:
        found = queue.rows("select status, count(*) from dreamcut_jobs group by status")
        return {row["status"]: row["count"] for row in found}

    with signed_in(board) as client:
        page = client.get(f"/manifests/{manifest}").text
        assert page.count("the first 2,000 of 2,301") == 2
        assert page.count('class="node ') == 2000
        form = {"target": str(manifest), "key": key_of(page), "back": f"/manifests/{manifest}"}
        assert client.post("/act", data=form | {"what": "cancel-manifest"}).status_code == 303
        assert statuses() == {"completed": 1, "cancelled": 2300}
        assert "2,300 jobs are cancelled." in client.get("/").text
        assert client.post("/act", data=form | {"what": "cancel-manifest"}).status_code == 303
        assert "Nothing changed: every job has ended." in client.get("/").text
        assert client.post("/act", data=form | {"what": "retry-manifest"}).status_code == 303
        assert statuses() == {"completed": 1, "pending": 2300}
        assert "2,300 jobs are pending again." in client.get("/").text
    assert queue.inconsistencies() == []


def test_what_can_be_done_counts_the_jobs_that_the_page_does_not_show(
    board: str, connection: psycopg.Connection
) -> None:
    queue = Queue(connection)
    manifest = Client(connection).submit_manifest(
        {}, [{"job_id": f"job_{number:04}", "type": "work"} for number in range(2001)]
    )
    worker = queue.worker()
    held = {job.job_id: job for job in queue.claim(worker, 2001)}
    with signed_in(board) as client:
        assert "Cancel all" in client.get(f"/manifests/{manifest}").text
        last = held.pop("job_2000")
        queue.complete(worker, *held.values())
        assert "Cancel all" in client.get(f"/manifests/{manifest}").text  # the last one runs
        queue.fail(worker, last, error_class="invalid_request")
        # What several viewers share may be a second old.
        page = wait_until(
            lambda: "Retry what failed" in (text := client.get(f"/manifests/{manifest}").text) and text,
            "the page to show it",
        )
        assert "Cancel all" not in page


def test_jobs_in_the_archive_are_shown_as_such_and_cannot_be_changed(
    board: str, connection: psycopg.Connection
) -> None:
    past = Past(connection)
    manifest, jobs = past.ended_manifest(60, failed=True)
    other, others = past.ended_manifest(60)
    assert past.archive() == 4 and past.present() == set()
    with signed_in(board) as client:
        page = client.get(f"/manifests/{manifest}").text
        assert "The jobs of this manifest are in the archive since 20" in page
        assert page.count('class="node ') == 2 and "0 of 2 jobs" in page and "1 failed" in page
        assert "Retry what failed" not in page and "Cancel all" not in page
        page = client.get(f"/manifests/{other}").text
        assert "2 of 2 jobs" in page and "100 %" in page
        page = client.get(f"/jobs/{jobs['a']}").text
        assert "This job is in the archive since 20" in page and "it broke" in page
        assert page.count("<li><p><b>Attempt") == 2  # the failed attempts came along
        assert "/act" not in page
        page = client.get(f"/jobs/{others['b']}").text
        assert "https://assets.example/a" in page  # what it was built on is in the archive as well
        form = {"what": "retry-manifest", "target": str(manifest), "back": "/"}
        key = key_of(client.get("/").text)
        assert client.post("/act", data=form | {"key": key}).status_code == 303
        assert "Nothing changed" in client.get("/").text
        cards = client.get("/manifests").text
        assert cards.count("archived · ") == 2
        assert "2 of 2 jobs" in cards and "0 of 2 jobs" in cards


def test_a_manifest_that_went_on_after_it_was_archived_shows_both(
    board: str, connection: psycopg.Connection
) -> None:
    past = Past(connection)
    manifest, _ = past.ended_manifest(60)
    past.archive()
    past.add(manifest, "late")
    with signed_in(board) as client:
        page = client.get(f"/manifests/{manifest}").text
        assert "Jobs of this manifest are in the archive" in page
        assert page.count('class="node ') == 3 and "2 of 3 jobs" in page
        assert page.count(" archived</td>") == 2
        assert "Cancel all" in page


def test_older_manifests_follow_without_a_gap_also_those_of_one_transaction(
    open_board: str, connection: psycopg.Connection
) -> None:
    queue = Queue(connection)
    with connection.transaction():
        made = {str(queue.manifest()) for _ in range(PAGE_SIZE + 5)}
    made |= {str(queue.manifest()) for _ in range(PAGE_SIZE)}
    seen: list[str] = []
    address = f"{open_board}/manifests"
    for _ in range(10):
        page = httpx.get(address, timeout=20).text
        seen += re.findall(r'href="/dashboard/manifests/([0-9a-f-]{36})"', page)
        following = re.search(r'href="/dashboard(/manifests\?[^"]*before=[^"]*)"', page)
        if following is None:
            break
        address = open_board + html.unescape(following[1])
    assert len(seen) == len(set(seen)) == len(made)
    assert set(seen) == made


def test_events_bring_the_page_when_it_has_changed(
    board: str, film: Film, connection: psycopg.Connection
) -> None:
    def next_page(lines: object) -> str:
        data: list[str] = []
        for line in lines:
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


@pytest.mark.parametrize("path", ["/", "/events?page=/", "/static/style.css", "/sign-in"])
def test_under_a_foreign_name_nothing_is_read(board: str, path: str) -> None:
    """A page whose name was made to point here (DNS rebinding) sends its own name along."""
    answer = httpx.get(board + path, headers={"host": "evil.example:8080"}, timeout=20)
    assert answer.status_code == 403
    assert "evil.example" in answer.text and "add it to DASHBOARD_HOSTS" in answer.text


def test_names_of_this_machine_and_of_the_setting_are_answered(database: str) -> None:
    settings = Settings.load(database_url=database, dashboard_hosts="Films.example.com, studio-1")
    with dashboard_server(settings, "127.0.0.1", 0) as address:
        port = address.split(":")[2].split("/")[0]
        for name in (
            f"127.0.0.1:{port}", "localhost", f"[::1]:{port}", "10.1.2.3", f"{socket.gethostname()}:{port}",
            "films.example.com", "studio-1:443",
        ):  # fmt: skip
            answer = httpx.get(f"{address}sign-in", headers={"host": name}, timeout=20)
            assert "read-only" in answer.text, name
        for name in ("example.com", "evil.films.example.com", "localhost.evil.example", ""):
            assert httpx.get(address, headers={"host": name}, timeout=20).status_code in (400, 403), name
    everybody = Settings.load(database_url=database, dashboard_hosts="*")
    with dashboard_server(everybody, "127.0.0.1", 0) as address:
        answer = httpx.get(f"{address}sign-in", headers={"host": "any.example"}, timeout=20)
        assert "read-only" in answer.text


def test_a_wrong_host_name_names_the_setting(database: str) -> None:
    settings = Settings.load(database_url=database, dashboard_hosts="https://films.example.com")
    with (
        pytest.raises(ConfigError, match=r"DASHBOARD_HOSTS: 'https://films\.example\.com' is no host name"),
        dashboard_server(settings, "127.0.0.1", 0),
    ):
        pass


def test_a_taken_port_names_the_option(database: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with (
            pytest.raises(ConfigError, match="--port"),
            dashboard_server(Settings.load(database_url=database), "127.0.0.1", taken.getsockname()[1]),
        ):
            pass
