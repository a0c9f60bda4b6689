"""Tables and details for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

STATE_STYLES = {
    "ready": "cyan",
    "blocked": "bright_black",
    "delayed": "yellow",
    "processing": "blue",
    "rendering": "blue",
    "completed": "green",
    "done": "green",
    "failed": "red",
    "cancelled": "magenta",
}


def console() -> Console:
    """For stdout. When that is no terminal, tables are as wide as they need to be: nothing is cut off."""
    plain = Console(highlight=False)
    return plain if plain.is_terminal else Console(highlight=False, width=240)


def state_text(state: str) -> Text:
    """A state in its colour."""
    return Text(state, STATE_STYLES.get(state, ""))


def duration(milliseconds: int | None) -> str:
    """Milliseconds as `0.8 s`, `42 s`, `3 min 05 s` or `2 h 10 min`."""
    if milliseconds is None:
        return ""
    seconds = milliseconds / 1000
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def age(moment: datetime | None) -> str:
    """How long ago, e.g. `3 min 05 s`."""
    return (
        "" if moment is None else duration(max(0, int((datetime.now(UTC) - moment).total_seconds() * 1000)))
    )


def jobs_table(jobs: Iterable[Mapping[str, Any]]) -> Table:
    """Jobs, a row each: what they are, how they stand, and why."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("ID", no_wrap=True)
    for name in ("JOB", "TYPE", "STATE", "ATTEMPT", "TIME", "AGE"):
        table.add_column(name, no_wrap=True)
    table.add_column("NOTE", overflow="fold")
    for job in jobs:
        table.add_row(
            str(job["id"])[:8],
            Text(job["job_id"]),
            Text(job["type"]),
            state_text(job["state"]),
            f"{job['attempts']}/{job['max_attempts']}",
            duration(job["processing_time_ms"]),
            age(job["created_at"]),
            Text(job["error_message"] or job["reason"] or job["output_url"] or ""),
        )
    return table


def manifests_table(manifests: Iterable[Mapping[str, Any]]) -> Table:
    """Manifests, a row each, with the progress of their jobs."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("ID", "TITLE", "STATUS", "JOBS", "TIME", "AGE"):
        table.add_column(name, no_wrap=True)
    table.add_column("NOTE", overflow="fold")
    for manifest in manifests:
        failed = f", {manifest['failed']} failed" if manifest["failed"] else ""
        table.add_row(
            str(manifest["id"])[:8],
            Text(manifest["title"] or ""),
            state_text(manifest["status"]),
            f"{manifest['completed']}/{manifest['jobs']}{failed}",
            duration(manifest["processing_time_ms"]),
            age(manifest["created_at"]),
            Text(manifest["error_message"] or manifest["output_url"] or ""),
        )
    return table


def details(row: Mapping[str, Any], names: Iterable[str]) -> Table:
    """Chosen fields of a row, one a line; what is empty is left out."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name in names:
        value = row.get(name)
        if value is None or value in ({}, [], ""):
            continue
        if name in ("state", "status"):
            shown = state_text(value)
        elif name.endswith("_ms"):
            shown = Text(duration(value))
        elif isinstance(value, dict):
            shown = Text(json.dumps(value, indent=2, ensure_ascii=False))
        elif isinstance(value, list):
            shown = Text(", ".join(str(item) for item in value))
        elif isinstance(value, datetime):
            shown = Text(value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"))
        else:
            shown = Text(str(value))
        table.add_row(name.removesuffix("_ms").replace("_", " "), shown)
    return table


def rows_table(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> Table:
    """Rows with chosen columns: `{"error_class": "CLASS"}`."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in columns.values():
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if row[name] is None else str(row[name])) for name in columns))
    return table
