"""The plugin of examples/, installed beside DreamCuts, works like a built-in."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psycopg
import pytest
from PIL import Image

from dreamcuts.client import Client
from tests.plugins.conftest import CHARTS, REPOSITORY, Site

DATA = [{"label": "rye", "value": 1}, {"label": "wheat", "value": 3}]


@pytest.fixture
def charts(site: Site, tmp_path: Path) -> Site:
    site.add_project(CHARTS)
    site.environment["CHARTS_DIR"] = str(tmp_path / "charts")
    return site


def test_a_worker_finds_it_and_draws(charts: Site, connection: psycopg.Connection) -> None:
    enqueued = charts.dreamcuts("enqueue", "chart", "--payload", json.dumps({"title": "Flour", "data": DATA}))
    assert enqueued.returncode == 0 and enqueued.stderr == ""

    worked = charts.dreamcuts("work", "--types", "chart", "--until-idle")

    assert worked.returncode == 0, worked.stderr
    assert "serves chart:2" in worked.stderr and "left out" not in worked.stderr
    row = connection.execute("select type, status, error_message, output_url from dreamcut_jobs").fetchone()
    assert row is not None and row[:3] == ("generate_chart_gptimage", "completed", None)
    with Image.open(unquote(urlsplit(row[3]).path)) as picture:
        assert (picture.format, picture.size) == ("PNG", (1280, 720))


def test_its_payload_is_checked_when_it_is_enqueued(charts: Site) -> None:
    refused = charts.dreamcuts("enqueue", "chart", "--payload", json.dumps({"data": DATA, "width": 1}))
    assert refused.returncode == 1
    assert "The payload does not fit generate_chart_gptimage: width: Input should be" in refused.stderr


def test_without_it_the_job_waits(site: Site, connection: psycopg.Connection) -> None:
    Client(connection).enqueue("generate_chart_gptimage", {"data": DATA})
    refused = site.dreamcuts("work", "--types", "chart", "--until-idle")
    assert refused.returncode == 2 and "Job type 'chart' does not exist" in refused.stderr
    assert connection.execute("select status from dreamcut_jobs").fetchone() == ("pending",)


def test_its_own_tests_pass(charts: Site) -> None:
    done = charts.run(
        "-m", "pytest", str(CHARTS / "tests"), "-q", "-p", "no:cacheprovider", PYTHONDONTWRITEBYTECODE="1"
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout and "skipped" not in done.stdout


def test_dreamcuts_knows_nothing_of_it() -> None:
    for path in (REPOSITORY / "dreamcuts").rglob("*.py"):
        text = path.read_text("utf-8")
        assert "dreamcuts_charts" not in text and "matplotlib" not in text, path
