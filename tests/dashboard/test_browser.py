"""The dashboard in a real Chromium: nothing is blocked, pages follow the queue, phones and keyboards work."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dreamcuts.sandbox import Sandbox
from dreamcuts.sandbox.ffmpeg import ffmpeg_exe
from tests.chaos.machine import clean_environment
from tests.dashboard.conftest import TOKEN, Film
from tests.fleet.running import Processes
from tests.support import Queue, wait_until

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
DEADLINE_MS = 20_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class Watched:
    """A page and everything that its console complained of."""

    def __init__(self, browser: Any, **options: Any) -> None:
        self._context = browser.new_context(**options)
        self.page = self._context.new_page()
        self.page.set_default_timeout(DEADLINE_MS)
        self.complaints: list[str] = []
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _heard(self, message: Any) -> None:
        # The test's assets stand on a port that nothing listens on.
        if message.type in ("error", "warning") and "ERR_CONNECTION" not in message.text:
            self.complaints.append(message.text)

    def close(self) -> None:
        self._context.close()


@pytest.fixture
def desk(browser: Any) -> Iterator[Watched]:
    watched = Watched(browser, viewport={"width": 1280, "height": 800}, color_scheme="light")
    yield watched
    watched.close()


def test_pages_load_whole_and_follow_the_queue(
    desk: Watched, board: str, film: Film, connection: psycopg.Connection
) -> None:
    page = desk.page
    page.goto(f"{board}/manifests/{film.manifest}")
    page.wait_for_selector("#live[data-state=on]")
    assert page.locator("svg a.node").count() == 5
    assert page.locator("svg path.edge").count() == 3
    assert page.locator("a.node.s-processing").count() == 1
    connection.execute("select dreamcut_cancel_jobs(%s)", [[film.jobs["job_gen_now"]]])
    page.wait_for_selector("a.node.s-cancelled >> nth=2")
    assert page.locator("audio[data-keep=job_tts_s1]").count() == 1
    page.locator("a.node", has_text="job_gen_bad").click()
    page.wait_for_selector("text=the prompt is <i>empty</i>")
    for name in ("Overview", "Manifests", "Jobs", "Workers", "Providers"):
        page.locator("nav[aria-label=Pages] a", has_text=name).click()
        page.wait_for_selector(f"nav a[aria-current=page] >> text={name}")
        page.wait_for_selector("#live[data-state=on]")
    assert desk.complaints == []


def test_an_update_leaves_players_focus_and_open_details_alone(
    desk: Watched, board: str, film: Film, connection: psycopg.Connection
) -> None:
    page = desk.page
    page.goto(f"{board}/jobs/{film.jobs['job_gen_bad']}")
    page.wait_for_selector("#live[data-state=on]")
    page.locator("summary").click()
    page.locator(".crumbs a").focus()
    page.evaluate("window.before = document.activeElement")
    connection.execute("select dreamcut_retry_jobs(%s)", [[film.jobs["job_gen_bad"]]])
    page.wait_for_selector(".head .s-ready")
    assert page.evaluate("document.activeElement === window.before")
    assert page.evaluate("document.querySelector('details').open")

    page.goto(f"{board}/manifests/{film.manifest}")
    page.wait_for_selector("#live[data-state=on]")
    page.evaluate("window.player = document.querySelector('audio')")
    connection.execute("select dreamcut_cancel_jobs(%s)", [[film.jobs["job_gen_now"]]])
    page.wait_for_selector("a.node[aria-label='job_gen_now: cancelled']")
    assert page.evaluate("document.querySelector('audio') === window.player")
    assert desk.complaints == []


def test_signing_in_and_cancelling_by_keyboard(
    desk: Watched, board: str, film: Film, connection: psycopg.Connection
) -> None:
    page = desk.page
    page.goto(f"{board}/sign-in")
    page.wait_for_selector("input:focus")
    page.keyboard.type("not the token")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=That is not the token.")
    page.wait_for_selector("input:focus")
    page.keyboard.type(TOKEN)
    page.keyboard.press("Enter")
    page.wait_for_selector("text=Sign out")
    page.goto(f"{board}/jobs/{film.jobs['job_gen_now']}")
    questions: list[str] = []

    def refuse(dialog: Any) -> None:
        questions.append(dialog.message)
        dialog.dismiss()

    page.once("dialog", refuse)
    page.locator("button.danger").focus()
    page.keyboard.press("Enter")
    assert questions == ["Cancel?"]
    assert page.locator(".said").count() == 0
    page.once("dialog", lambda dialog: dialog.accept())
    page.locator("button.danger").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("text=1 job is cancelled.")
    row = connection.execute(
        "select status, error_message from dreamcut_jobs where id = %s", [film.jobs["job_gen_now"]]
    ).fetchone()
    assert row == ("cancelled", "cancelled in the dashboard")


def make_film(target: Path) -> None:
    """Six seconds of picture and sound, H.264 and AAC as the render makes them."""
    target.parent.mkdir(parents=True)
    pictures = ("-f", "lavfi", "-i", "testsrc2=size=640x360:rate=25:duration=6")
    sound = ("-f", "lavfi", "-i", "sine=frequency=330:duration=6")
    coding = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-preset", "ultrafast", "-c:a", "aac")
    command = [ffmpeg_exe(), "-v", "error", *pictures, *sound, *coding, "-movflags", "+faststart", target]
    subprocess.run(command, check=True, timeout=120)


def test_the_finished_film_plays_in_the_page_and_goes_on_when_the_page_changes(
    desk: Watched, database: str, connection: psycopg.Connection, sandbox: Sandbox, tmp_path: Path
) -> None:
    """The film is served by the worker whose dashboard shows it."""
    make_film(tmp_path / "assets" / "films" / "film.mp4")
    environment = {
        **clean_environment(), **sandbox.environment(), "DATABASE_URL": database,
        "STORAGE_DIR": str(tmp_path / "assets"), "STORAGE_BASE_URL": "http://127.0.0.1:9/files",
        "ENABLE_HEALTH_CHECK": "true", "HEALTH_CHECK_PORT": "0",
    }  # fmt: skip
    queue = Queue(connection)
    manifest, jobs = queue.graph({"speech": [], "render": ["speech"]})
    with Processes(environment) as processes:
        worker = processes.work("--types", "sound_effects")
        worker.wait_log("serves sound_effects")
        line = next(line for line in worker.lines if "Health server on" in line)
        base = line.split()[-1].removesuffix("/health")
        queue.finish("speech")
        queue.finish("render")
        queue.run(
            "update dreamcut_production_manifest set output_url = %s where id = %s",
            f"{base}/files/films/film.mp4",
            manifest,
        )
        page = desk.page
        page.goto(f"{base}/dashboard/manifests/{manifest}")
        page.wait_for_selector("#live[data-state=on]")
        wait_until(lambda: page.evaluate("document.querySelector('video.large').readyState >= 1"))
        assert page.evaluate("document.querySelector('video.large').duration") == pytest.approx(6, abs=0.2)
        page.evaluate("window.film = document.querySelector('video.large')")
        page.locator("video.large").click()
        wait_until(lambda: page.evaluate("film.ended || film.currentTime > 0 && !film.paused"))
        assert page.evaluate("film.videoWidth") == 640

        queue.run("update dreamcut_jobs set error_message = 'changed' where id = %s", jobs["speech"])
        page.wait_for_selector("td.note >> text=changed")
        assert page.evaluate("document.querySelector('video.large') === film && film.error === null")
        wait_until(lambda: page.evaluate("film.ended || film.currentTime > 1"))
    assert desk.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_every_page_fits_its_screen_in_light_and_dark(
    browser: Any, board: str, film: Film, scheme: str, width: int
) -> None:
    watched = Watched(browser, viewport={"width": width, "height": 844}, color_scheme=scheme)
    page = watched.page
    for path in (
        "/", "/manifests", f"/manifests/{film.manifest}", "/jobs", f"/jobs/{film.jobs['job_gen_bad']}",
        "/workers", "/providers", "/sign-in", "/nowhere",
    ):  # fmt: skip
        page.goto(board + path)
        page.wait_for_selector("h1")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        shade = page.evaluate("getComputedStyle(document.body).backgroundColor")
        red = int(shade.removeprefix("rgb(").split(",")[0])
        assert (red > 200) == (scheme == "light"), path
        assert len(page.screenshot()) > 5_000, path
    assert [line for line in watched.complaints if "404" not in line] == []
    watched.close()
