"""Following a manifest: plain lines without a terminal, a table and a bar on one."""

from __future__ import annotations

import io
import json
from pathlib import Path

import psycopg
import pytest
from rich.console import Console

from dreamcuts.admin import Admin
from dreamcuts.manifest.validate import plan_manifest
from dreamcuts.progress import Follower

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "demo.json"


@pytest.mark.parametrize("terminal", [False, True])
def test_follows_to_the_end(database: str, connection: psycopg.Connection, terminal: bool) -> None:
    body = json.loads(EXAMPLE.read_text())
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=100, height=40, color_system=None)
    with Admin.connect(database) as admin:
        created = admin.client.submit_manifest(body, [spec.as_row() for spec in plan_manifest(body)])
        job = admin.find_job(f"{created}/job_tts_s1")
        looks = iter(range(1000))

        def cancel_all() -> None:
            if next(looks) == 1:
                jobs = [job["id"] for job in admin.manifest_jobs(created)]
                admin.client.cancel(jobs, "[bold]enough[/]")

        jobs = Follower(console, "A [title]").follow(admin, created, cancel_all)
        assert admin.job(job)["state"] == "cancelled"
    assert {row["state"] for row in jobs} == {"cancelled"}
    text = stream.getvalue()
    assert "job_tts_s1" in text and "cancelled" in text
    assert "[bold]enough[/]" in text  # shown as it is, not taken for markup
    if terminal:
        assert "A [title]" in text
        assert f"{len(jobs)}/{len(jobs)} jobs" in text
    else:
        assert "\x1b" not in text
        states = [line.split()[3:4] for line in text.splitlines() if " job_tts_s1 " in line]
        assert states == [["ready"], ["cancelled:"]]


def test_what_the_check_raises_ends_it(database: str) -> None:
    body = json.loads(EXAMPLE.read_text())

    def check() -> None:
        raise RuntimeError("a worker ended early")

    with Admin.connect(database) as admin:
        created = admin.client.submit_manifest(body, [spec.as_row() for spec in plan_manifest(body)])
        with pytest.raises(RuntimeError, match="ended early"):
            Follower(Console(file=io.StringIO()), "").follow(admin, created, check)
