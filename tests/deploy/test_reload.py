"""`dreamcuts work --reload` as a real process."""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path

import psycopg
import pytest

import dreamcuts
from dreamcuts.cli import cli
from tests.deploy.processes import Process, Start

PACKAGE = Path(dreamcuts.__file__).resolve().parent


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the package, which a test may change."""
    folder = tmp_path / "checkout"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, folder / "dreamcuts", ignore=ignored)
    shutil.copytree(PACKAGE.parent / "sql", folder / "sql")
    return folder


def reloading(start: Start, checkout: Path, *arguments: str) -> Process:
    """`-m` puts the working folder first, so PYTHONPATH is what makes the copy win in the child, too."""
    return start(
        "work", "--types", "tts:2", "--reload", *arguments,
        program=[sys.executable, "-P", "-m", "dreamcuts"], PYTHONPATH=str(checkout),
    )  # fmt: skip


def test_change_restarts_the_worker_and_ctrl_c_ends_it(
    start: Start, checkout: Path, connection: psycopg.Connection
) -> None:
    pytest.importorskip("watchfiles")
    process = reloading(start, checkout)
    process.wait_for_line("serves tts:2")
    (checkout / "notes.txt").write_text("not watched")
    file = checkout / "dreamcuts/worker/status.py"
    file.write_text(file.read_text() + "# changed\n")
    process.wait_for_line("serves tts:2", count=2)
    assert "status.py changed; restarting the worker" in process.log
    assert process.end(signal.SIGINT) == 0, process.log
    rows = connection.execute("select state, count(*) from dreamcut_workers group by 1").fetchall()
    assert rows == [("stopped", 2)], "a worker did not leave in order"
    assert "Traceback" not in process.log


def test_mistake_is_mended_by_the_next_change(start: Start, checkout: Path) -> None:
    pytest.importorskip("watchfiles")
    process = reloading(start, checkout)
    process.wait_for_line("serves tts:2")
    file = checkout / "dreamcuts/worker/status.py"
    good = file.read_text()
    file.write_text(good + "this is no Python\n")
    process.wait_for_line("it starts again at the next change")
    file.write_text(good)
    process.wait_for_line("serves tts:2", count=2)
    assert process.end(signal.SIGTERM) == 0, process.log


def test_until_idle_ends_both(start: Start, checkout: Path) -> None:
    pytest.importorskip("watchfiles")
    assert reloading(start, checkout, "--until-idle").end() == 0


def test_settings_that_come_later_are_read(start: Start, checkout: Path) -> None:
    pytest.importorskip("watchfiles")
    process = reloading(start, checkout)
    process.wait_for_line("serves tts:2")
    settings = Path.cwd() / ".env.local"
    for count, text in ((2, "LOG_LEVEL=INFO\n"), (3, "LOG_LEVEL=info\n")):
        fresh = settings.with_suffix(".new")  # as an editor does it: another file takes the name
        fresh.write_text(text)
        fresh.rename(settings)
        process.wait_for_line("serves tts:2", count=count)
    assert process.log.count(".env.local changed; restarting the worker") == 2
    assert process.end(signal.SIGINT) == 0, process.log


def test_missing_package_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    with pytest.raises(SystemExit) as ended:
        cli(["work", "--reload"], prog_name="dreamcuts")
    assert ended.value.code == 2
    assert "pip install 'dreamcuts[reload]'" in capsys.readouterr().err
