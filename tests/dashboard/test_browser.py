"""The dashboard in a real Chromium: nothing is blocked, pages follow the queue, phones and keyboards work."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.dashboard.conftest import TOKEN, Film

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
    page.keyboard.type("not the token")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=That is not the token.")
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
