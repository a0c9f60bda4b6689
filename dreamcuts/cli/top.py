"""`dreamcuts top`: the queue and its workers at a glance, live."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dreamcuts.admin import Row
from dreamcuts.cli import tables
from dreamcuts.cli.common import database_url, json_option, print_json
from dreamcuts.cli.types import short_type_name
from dreamcuts.cli.workers import workers_table
from dreamcuts.fleet import Fleet, Snapshot

_STATES = ("ready", "delayed", "blocked", "processing")
_BARS = " ▁▂▃▄▅▆▇█"
MINUTES = 30


@click.command()
@click.option("--once", is_flag=True, help="Print it once and end, for scripts and logs.")
@click.option(
    "--interval", type=click.FloatRange(0.2, 60), default=1.0, show_default=True, metavar="SECONDS",
    help="Time between two looks.",
)  # fmt: skip
@json_option
def top(once: bool, interval: float, as_json: bool) -> None:
    """Show the queue live: what waits, who works, what failed, how fast it goes. Ctrl-C ends it.

    Running jobs are those that workers held at their last heartbeat. When stdout is no terminal, it prints
    once. `--json` holds the same as rows.
    """
    with Fleet.connect(database_url()) as fleet:
        if as_json:
            seen = fleet.snapshot(minutes=MINUTES)
            print_json({name: getattr(seen, name) for name in seen.__dataclass_fields__})
            return
        out = tables.console()
        if once or not out.is_terminal:
            out.print(picture(fleet.snapshot(minutes=MINUTES), None))
            return
        _watch(fleet, out, interval)


def _watch(fleet: Fleet, out: Console, interval: float) -> None:
    try:
        with Live(console=out, screen=True, auto_refresh=False) as live:
            while True:
                live.update(picture(fleet.snapshot(minutes=MINUTES), out.size.height), refresh=True)
                time.sleep(interval)
    except KeyboardInterrupt:
        return


def picture(seen: Snapshot, height: int | None) -> RenderableType:
    """The whole screen. On a terminal of `height` lines the lists below are cut to what fits."""
    parts: list[RenderableType] = [_headline(seen), Text(), _depth(seen.depth)]
    room = None if height is None else height - 4 - max(len(seen.depth), 1)
    for title, table, lines in (
        ("Workers", workers_table(seen.workers), len(seen.workers)),
        ("Manifests under way", _manifests(seen.manifests), len(seen.manifests)),
        ("Newest errors", _failures(seen.failures), len(seen.failures)),
    ):
        if not lines or (room is not None and room < lines + 3):
            continue
        room = None if room is None else room - lines - 3
        parts += [Text(), Text(title, "bold underline"), table]
    if not seen.workers:
        parts += [Text(), Text("No worker is there. `dreamcuts work` starts one.", "yellow")]
    return Group(*parts)


def _headline(seen: Snapshot) -> Text:
    minutes = {row["minute"]: row for row in seen.throughput}
    now = datetime.now(UTC)
    ages = {int((now - minute).total_seconds() // 60): row for minute, row in minutes.items()}
    done = [int(ages.get(age, {}).get("completed", 0)) for age in range(MINUTES - 1, -1, -1)]
    waiting = sum(row[state] for row in seen.depth for state in ("ready", "delayed", "blocked"))
    running = sum(row["processing"] for row in seen.depth)
    slots = sum(row["slots"] for row in seen.depth)
    line = Text.assemble(
        ("DreamCuts", "bold"), f"  {now:%Y-%m-%d %H:%M:%S} UTC   ",
        (f"{waiting} waiting", "cyan"), "  ", (f"{running} running", "blue"), f" in {slots} slots   ",
        (f"{sum(done[-6:-1]) / 5:.1f} completed a minute", "green"),
        f" {sparkline(done)}",
    )  # fmt: skip
    failed = sum(int(row["failed"]) for row in seen.throughput)
    if failed:
        line.append(f"   {failed} failed in {MINUTES} min", "red")
    if seen.scaling:
        names = ", ".join(
            row["profile"] if row["type"] == "*" else f"{short_type_name(row['type'])} {row['slots']}"
            for row in seen.scaling
        )
        line.append(f"   scaled: {names}", "yellow")
    return line


def sparkline(values: list[int]) -> str:
    """Numbers as a line of small bars."""
    most = max(values, default=0)
    return "".join(_BARS[-(-value * (len(_BARS) - 1) // most)] if most else _BARS[0] for value in values)


def _depth(rows: list[Row]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("TYPE", no_wrap=True)
    for name in (*_STATES, "slots", "workers"):
        table.add_column(name.upper(), justify="right", no_wrap=True)
    table.add_column("", width=27)
    for row in rows:
        unserved = not row["workers"] and any(row[state] for state in _STATES)
        load = ProgressBar(total=max(row["slots"], 1), completed=row["processing"], width=27)
        table.add_row(
            Text(short_type_name(row["type"])),
            *(
                Text(str(row[state]), tables.STATE_STYLES[state] if row[state] else "dim")
                for state in _STATES
            ),
            str(row["slots"]),
            str(row["workers"]),
            Text("no worker serves this type", "yellow") if unserved else load if row["slots"] else "",
        )
    if not rows:
        table.add_row(Text("no job is open, and no worker is there", "dim"))
    return table


def _number(value: int, style: str) -> Text:
    return Text(str(value), style if value else "dim")


def _manifests(rows: list[Row]) -> Table:
    titles = {"done": "JOBS", "percent": "PERCENT", "time": "TIME", "left": "LEFT"}
    shown: list[dict[str, Any]] = [
        {
            "id": str(row["id"])[:8],
            "title": row["title"],
            "done": f"{row['jobs'] - row['open_jobs']}/{row['jobs']}",
            "percent": f"{row['percent']:g} %",
            "time": tables.duration(row["elapsed_ms"]),
            "left": "" if row["time_left_ms"] is None else f"about {tables.duration(row['time_left_ms'])}",
        }
        for row in rows
    ]
    return tables.rows_table(shown, {"id": "ID", "title": "TITLE"} | titles)


def _failures(rows: list[Row]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("ID", "JOB", "STATE", "CLASS", "ATTEMPT", "AGO"):
        table.add_column(name, no_wrap=True)
    table.add_column("MESSAGE", overflow="ellipsis", no_wrap=True)
    for row in rows:
        state = "retrying" if row["status"] in ("pending", "processing") else row["status"]
        table.add_row(
            str(row["id"])[:8],
            Text(row["job_id"]),
            Text(state, tables.STATE_STYLES.get(state, "yellow")),
            Text(row["error_class"]),
            f"{row['attempts']}/{row['max_attempts']}",
            tables.age(row["updated_at"]),
            Text(" ".join((row["error_message"] or "").split())),
        )
    return table
