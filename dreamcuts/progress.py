"""Following a manifest on the terminal: a row for each job and a bar for the whole, or plain lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from uuid import UUID

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from dreamcuts.admin import OVER, Admin, Row

POLL_S = 0.15
_MARKS = {
    "completed": ("✓", "green"),
    "failed": ("✗", "red"),
    "cancelled": ("–", "magenta"),
    "ready": ("·", "cyan"),
    "delayed": ("…", "yellow"),
    "blocked": ("·", "bright_black"),
}


class Follower:
    """Shows a manifest's jobs until all have ended. On a terminal a live table, elsewhere a line a change."""

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title
        self._started = time.monotonic()
        self._seen: dict[str, str] = {}
        self._spinner = Spinner("dots", style="blue")

    def follow(self, admin: Admin, manifest: UUID, check: Callable[[], None] = lambda: None) -> list[Row]:
        """Wait for the manifest's jobs to end; returns them. `check` is called in between, and may raise."""
        jobs = admin.manifest_jobs(manifest)
        if not self._console.is_terminal:
            while True:
                self._print_changes(jobs)
                if _all_over(jobs):
                    return jobs
                check()
                time.sleep(POLL_S)
                jobs = admin.manifest_jobs(manifest)
        with Live(self._picture(jobs), console=self._console, refresh_per_second=10, transient=False) as live:
            while not _all_over(jobs):
                check()
                time.sleep(POLL_S)
                jobs = admin.manifest_jobs(manifest)
                live.update(self._picture(jobs))
            live.update(self._picture(jobs), refresh=True)
        return jobs

    def _print_changes(self, jobs: Iterable[Row]) -> None:
        for job in jobs:
            state = job["state"]
            if self._seen.get(job["job_id"]) == state or state == "blocked":
                continue
            self._seen[job["job_id"]] = state
            took = (
                f" in {job['processing_time_ms'] / 1000:.1f} s"
                if job["processing_time_ms"] and state in OVER
                else ""
            )
            note = f": {job['error_message']}" if job["error_message"] else ""
            elapsed = time.monotonic() - self._started
            self._console.print(
                f"{elapsed:6.1f} s  {job['job_id']:<28} {state}{took}{note}", markup=False, highlight=False
            )

    def _picture(self, jobs: list[Row]) -> RenderableType:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("", width=1)
        table.add_column("Job", no_wrap=True)
        table.add_column("State", width=10)
        table.add_column("Try", justify="right")
        table.add_column("Time", justify="right", width=7)
        table.add_column("", overflow="ellipsis", no_wrap=True)
        # On a low terminal the finished jobs go first: what is under way must stay in sight.
        room = max(self._console.size.height - 6, 5)
        shown = jobs if len(jobs) <= room else [job for job in jobs if job["state"] not in OVER][:room]
        for job in shown:
            state = job["state"]
            mark, style = _MARKS.get(state, ("", "blue"))
            took = job["processing_time_ms"]
            table.add_row(
                self._spinner if state == "processing" else Text(mark, style),
                Text(job["job_id"]),
                Text(state, style),
                str(job["attempts"]) if job["attempts"] else "",
                f"{took / 1000:.1f} s" if took is not None else "",
                Text(job["error_message"] or "", "red"),
            )
        return Group(Text(self._title, "bold"), table, self._bar(jobs))

    def _bar(self, jobs: list[Row]) -> RenderableType:
        over = sum(job["state"] in OVER for job in jobs)
        row = Table.grid(padding=(0, 1))
        row.add_row(
            ProgressBar(total=max(len(jobs), 1), completed=over, width=40),
            f"{over}/{len(jobs)} jobs",
            f"{time.monotonic() - self._started:.0f} s",
        )
        return row


def _all_over(jobs: list[Row]) -> bool:
    return all(job["status"] in OVER for job in jobs)
