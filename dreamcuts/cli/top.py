"""`dreamcuts top`: the queue and its workers at a glance, live."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import click
import psycopg
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from dreamcuts.admin import Row
from dreamcuts.cli import tables
from dreamcuts.cli.common import database_url, json_option, print_json
from dreamcuts.cli.types import short_type_name
from dreamcuts.cli.workers import workers_table
from dreamcuts.db.address import without_password
from dreamcuts.errors import DatabaseError
from dreamcuts.fleet import Fleet, Snapshot

_STATES = ("ready", "delayed", "blocked", "processing")
_BARS = " ▁▂▃▄▅▆▇█"
MINUTES = 30
LISTED = 20
"""Manifests and errors that are looked for; a terminal shows those that it has room for."""


@click.command()
@click.option("--once", is_flag=True, help="Print it once and end, for scripts and logs.")
@click.option(
    "--interval", type=click.FloatRange(0.2, 60), default=1.0, show_default=True, metavar="SECONDS",
    help="Time between two looks.",
)  # fmt: skip
@json_option
def top(once: bool, interval: float, as_json: bool) -> None:
    """Show the queue live: what waits, who works, what failed, how fast it goes. Ctrl-C ends it.

    Running jobs are those that workers held at their last heartbeat. It fits itself to the terminal, and says
    what it has no room for. When the database goes away it keeps the last picture, and goes on when it is
    back. When stdout is no terminal, it prints once. `--json` holds the same as rows.
    """
    dsn = database_url()
    out = tables.console()
    if not as_json and not once and out.is_terminal:
        _watch(dsn, out, interval)
        return
    with Fleet.connect(dsn) as fleet:
        seen = fleet.snapshot(minutes=MINUTES)
    if as_json:
        print_json({name: getattr(seen, name) for name in seen.__dataclass_fields__})
    else:
        tables.show(picture(seen, out.size.width if out.is_terminal else None, None))


def _watch(dsn: str, out: Console, interval: float) -> None:
    """Show a new picture each `interval` until Ctrl-C. Only a first look that fails is an error."""
    seen: Snapshot | None = None
    since = ""
    try:
        with Live(console=out, screen=True, auto_refresh=False) as live:
            while True:
                try:
                    with Fleet.connect(dsn) as fleet:
                        while True:
                            seen = fleet.snapshot(minutes=MINUTES, failures=LISTED, manifests=LISTED)
                            since = ""
                            live.update(picture(seen, *out.size), refresh=True)
                            time.sleep(interval)
                except (psycopg.OperationalError, psycopg.InterfaceError, DatabaseError) as error:
                    if seen is None:
                        raise
                    since = since or f"{datetime.now(UTC):%H:%M:%S}"
                    away = f"Database away since {since} UTC, trying again: {without_password(dsn, error)}"
                    live.update(picture(seen, *out.size, away=away), refresh=True)
                    time.sleep(interval)
    except KeyboardInterrupt:
        return


def picture(seen: Snapshot, width: int | None, height: int | None, *, away: str = "") -> RenderableType:
    """The whole screen, on a terminal of so many columns and lines: lists are cut to what fits, and say so.

    None: as wide, or as high, as it comes. `away` says that the database is, and since when.
    """
    head = [_line(away, "bold red")] if away else []
    head += _headline(seen, width)
    sections = [
        section
        for section in (
            _Section("Workers", seen.workers, None, workers_table),
            _Section("Manifests under way", seen.manifests, LISTED, _manifests),
            _Section("Newest errors", seen.failures, LISTED, _failures),
        )
        if section.rows
    ]
    depth = _Section("", seen.depth, None, _depth)
    foot = [] if seen.workers else [_line("No worker is there. `dreamcuts work` starts one.", "yellow")]
    left_out = _share_out(depth, sections, None if height is None else height - len(head) - len(foot))
    parts: list[RenderableType] = [*head, *depth.drawn()]
    for section in sections:
        parts += section.drawn()
    if left_out:
        parts.append(_line(f"No room for: {', '.join(left_out)}", "yellow"))
    return Group(*parts, *foot)


def _line(text: str, style: str = "") -> Text:
    """One line, whatever the width: the height is counted."""
    return Text(text, style, no_wrap=True, overflow="ellipsis")


@dataclass(slots=True)
class _Section:
    """A list on the screen, the number of its lines that are shown, and whether there is air above it."""

    title: str
    rows: list[Row]
    most: int | None
    """With so many rows there may be more than were looked for. None: these are all."""
    table: Callable[[list[Row]], RenderableType]
    shown: int = 0
    air: bool = True

    @property
    def overhead(self) -> int:
        """Lines besides the rows: air, the title, the names of the columns."""
        return self.air + bool(self.title) + 1

    def drawn(self) -> list[RenderableType]:
        hidden = len(self.rows) - self.shown
        more = f"… and {hidden} more{' or more' if len(self.rows) == self.most else ''}" if hidden else ""
        parts: list[RenderableType] = [Text()] if self.air else []
        if self.title:
            parts.append(
                Text.assemble((self.title, "bold underline"), "  " if more else "", (more, "yellow"))
            )
        parts.append(self.table(self.rows[: self.shown]))
        if more and not self.title:
            parts.append(Text(more, "yellow"))
        return parts


def _share_out(depth: _Section, sections: list[_Section], height: int | None) -> list[str]:
    """Decide how many rows of each list are shown; returns what is left out altogether.

    The queue comes first and may take half of the screen. The others share what is left, a row in turn, so
    that a short list is not cut for the sake of a long one; those that get no row are named.
    """
    depth.shown = len(depth.rows)
    for section in sections:
        section.shown = len(section.rows)
    if height is None:
        return []
    left_out: list[str] = []
    everything = depth.overhead + max(depth.shown, 1) + sum(one.overhead + one.shown for one in sections)
    if everything <= height:
        return left_out
    for section in (depth, *sections):
        section.air = False
    if depth.shown > (half := max(height // 2 - depth.overhead, 1)):
        depth.shown = max(half - 1, 1)  # one line says how many more there are
    room = height - depth.overhead - max(depth.shown, 1) - (depth.shown < len(depth.rows))
    while sections and room < sum(section.overhead + 1 for section in sections) + bool(left_out):
        section = sections.pop()
        left_out.insert(0, f"{section.title.lower()} ({len(section.rows)})")
    room -= sum(section.overhead for section in sections) + bool(left_out)
    for section in sections:
        section.shown = 0
    while room > 0 and (open_ones := [one for one in sections if one.shown < len(one.rows)]):
        for section in open_ones[:room]:
            section.shown += 1
            room -= 1
    return left_out


def _headline(seen: Snapshot, width: int | None) -> list[Text]:
    minutes = {row["minute"]: row for row in seen.throughput}
    now = datetime.now(UTC)
    ages = {int((now - minute).total_seconds() // 60): row for minute, row in minutes.items()}
    done = [int(ages.get(age, {}).get("completed", 0)) for age in range(MINUTES - 1, -1, -1)]
    waiting = sum(row[state] for row in seen.depth for state in ("ready", "delayed", "blocked"))
    running = sum(row["processing"] for row in seen.depth)
    slots = sum(row["slots"] for row in seen.depth)
    parts = [
        Text.assemble(("DreamCuts", "bold"), f"  {now:%Y-%m-%d %H:%M:%S} UTC"),
        Text.assemble(
            (f"{waiting} waiting", "cyan"), "  ", (f"{running} running", "blue"), f" in {slots} slots"
        ),
        Text.assemble((f"{sum(done[-6:-1]) / 5:.1f} completed a minute", "green"), f" {sparkline(done)}"),
    ]
    failed = sum(int(row["failed"]) for row in seen.throughput)
    if failed:
        parts.append(Text(f"{failed} failed in {MINUTES} min", "red"))
    if seen.scaling:
        names = ", ".join(
            row["profile"] if row["type"] == "*" else f"{short_type_name(row['type'])} {row['slots']}"
            for row in seen.scaling
        )
        parts.append(Text(f"scaled: {names}", "yellow"))
    lines = [_line("")]
    for part in parts:
        if lines[-1] and width is not None and lines[-1].cell_len + 3 + part.cell_len > width:
            lines.append(_line(""))
        lines[-1].append("   " if lines[-1] else "").append_text(part)
    return lines


def sparkline(values: list[int]) -> str:
    """Numbers as a line of small bars."""
    most = max(values, default=0)
    return "".join(_BARS[-(-value * (len(_BARS) - 1) // most)] if most else _BARS[0] for value in values)


def _depth(rows: list[Row]) -> RenderableType:
    if not rows:
        return Text("no job is open, and no worker is there", "dim")
    columns = [tables.Column("TYPE", least=13)]
    columns += [tables.Column(name.upper(), right=True) for name in _STATES]
    columns += [tables.Column("SLOTS", right=True), tables.Column("WORKERS", right=True, leave_out=1)]
    columns.append(tables.Column("", least=6, leave_out=2))
    lines: list[list[tables.Cell]] = []
    for row in rows:
        load: tables.Cell = tables.Bar(row["processing"], row["slots"]) if row["slots"] else ""
        if not row["workers"] and any(row[state] for state in _STATES):
            load = Text("no worker serves this type", "yellow")
        lines.append(
            [
                short_type_name(row["type"]),
                *(
                    Text(str(row[state]), tables.STATE_STYLES[state] if row[state] else "dim")
                    for state in _STATES
                ),
                str(row["slots"]),
                str(row["workers"]),
                load,
            ]
        )
    return tables.Lines(columns, lines)


def _manifests(rows: list[Row]) -> tables.Lines:
    columns = [tables.Column("ID"), tables.Column("TITLE", least=12), tables.Column("JOBS", right=True)]
    columns += [tables.Column("DONE", right=True), tables.Column("TIME", leave_out=1)]
    columns.append(tables.Column("LEFT", leave_out=2))
    lines = [
        (
            str(row["id"])[:8],
            tables.one_line(row["title"]),
            f"{row['jobs'] - row['open_jobs']}/{row['jobs']}",
            f"{row['percent']:g} %",
            tables.duration(row["elapsed_ms"]),
            "" if row["time_left_ms"] is None else f"about {tables.duration(row['time_left_ms'])}",
        )
        for row in rows
    ]
    return tables.Lines(columns, lines)


def _failures(rows: list[Row]) -> tables.Lines:
    columns = [
        tables.Column("ID"),
        tables.Column("JOB", least=12),
        tables.Column("STATE"),
        tables.Column("CLASS", leave_out=1),
        tables.Column("ATTEMPT", leave_out=3),
        tables.Column("AGO", leave_out=2),
        tables.Column("MESSAGE", least=20, first=50),
    ]
    lines: list[list[tables.Cell]] = []
    for row in rows:
        state = "retrying" if row["status"] in ("pending", "processing") else row["status"]
        lines.append(
            [
                str(row["id"])[:8],
                row["job_id"],
                Text(state, tables.STATE_STYLES.get(state, "yellow")),
                row["error_class"],
                f"{row['attempts']}/{row['max_attempts']}",
                tables.age(row["updated_at"]),
                tables.one_line(row["error_message"]),
            ]
        )
    return tables.Lines(columns, lines)
