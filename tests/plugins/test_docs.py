"""docs/plugins.md does what it says: its files are installed and its tests are run."""

from __future__ import annotations

import inspect
import re
import tomllib
from pathlib import Path

import psycopg

from dreamcuts.client import Client
from dreamcuts.testing import JobRun, run_job_async
from tests.plugins.conftest import REPOSITORY, Site

TEXT = (REPOSITORY / "docs" / "plugins.md").read_text("utf-8")


def block(file_name: str) -> str:
    """The code that follows a paragraph which begins with the file's name."""
    found = re.search(
        rf"^`{re.escape(file_name)}`[^\n]*:\n\n```\w+\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE
    )
    assert found is not None, file_name
    return found[1]


def install(site: Site) -> None:
    points = tomllib.loads(block("pyproject.toml"))["project"]["entry-points"]
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in points.items()
    ]
    site.add("acme-swatches", "\n".join(lines), acme_swatches=block("acme_swatches.py"))


def test_every_block_of_python_is_used() -> None:
    assert TEXT.count("```python") == 2


def test_the_documented_tests_pass(site: Site, tmp_path: Path) -> None:
    install(site)
    tests = tmp_path / "test_swatches.py"
    tests.write_text(block("test_swatches.py"))
    done = site.run("-m", "pytest", str(tests), "-q", "-W", "error", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


def test_the_documented_plugin_works_when_installed(site: Site, connection: psycopg.Connection) -> None:
    install(site)
    Client(connection).enqueue("paint_swatch", {"colour": "#ff8800"})
    work = ("work", "--types", "swatch", "--until-idle")
    refused = site.dreamcuts(*work)
    assert refused.returncode == 2 and "SWATCHES_KEY (needed for swatch)" in refused.stderr

    worked = site.dreamcuts(*work, SWATCHES_KEY="paint-1234")
    assert worked.returncode == 0, worked.stderr
    row = connection.execute("select status, error_message from dreamcut_jobs").fetchone()
    assert row == ("completed", None)
    assert connection.execute("select cost_usd::text from dreamcut_provider_calls").fetchone() == (
        "0.010000",
    )


def test_a_plugins_settings_are_read_from_the_dotenv_file_too(
    site: Site, connection: psycopg.Connection
) -> None:
    install(site)
    Client(connection).enqueue("paint_swatch", {"colour": "#ff8800"})
    Path(".env.local").write_text("SWATCHES_KEY=paint-5678\n")
    worked = site.dreamcuts("work", "--types", "swatch", "--until-idle")
    assert worked.returncode == 0, worked.stderr
    assert connection.execute("select status from dreamcut_jobs").fetchone() == ("completed",)


def test_every_option_and_field_is_documented() -> None:
    options = list(inspect.signature(run_job_async).parameters)[2:]
    documented = re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE)
    assert documented == options
    for name in JobRun.__slots__:
        assert f"`{name}`" in TEXT, name
