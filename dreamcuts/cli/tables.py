"""Tables and details for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from dreamcuts import wording
from dreamcuts.cli.types import short_type_name

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
    """Milliseconds as `0.8 s`, `42 s`, `3 min 05 s` or `2 h 10 min`; nothing for None."""
    return "" if milliseconds is None else wording.duration(milliseconds)


def age(moment: datetime | None) -> str:
    """How long ago, e.g. `3 min 05 s`."""
    return (
        "" if moment is None else duration(max(0, int((datetime.now(UTC) - moment).total_seconds() * 1000)))
    )


@dataclass(frozen=True, slots=True)
class Bar:
    """A cell that shows `done` of `total`; it is drawn as wide as there is room."""

    done: int
    total: int

    def drawn(self, width: int) -> Text:
        full = min(width, -(-self.done * width // max(self.total, 1)))
        return Text.assemble(("█" * full, "blue"), ("░" * (width - full), "bright_black"))


Cell = str | Text | Bar
BAR_WIDTH = 27


@dataclass(slots=True)
class Column:
    """A column of Lines. One without `least` is never cut, so that no number or id is ever shown in part."""

    title: str
    least: int | None = None
    """It may be shortened to this many characters, and what is cut off is marked."""
    first: int | None = None
    """Down to this many it gives way before any other column does."""
    leave_out: int = 0
    """Where shortening is not enough, columns are left out: the highest first, 0 never."""
    right: bool = False


class Lines:
    """A table with one line a row that fits its terminal: columns are shortened, then left out.

    Where stdout is no terminal nothing is cut: each row is one line, however long. With `whole` the last
    column is not cut on a terminal either: it goes on in the lines below.
    """

    def __init__(
        self, columns: Sequence[Column], rows: Iterable[Sequence[Cell]], *, whole: bool = False
    ) -> None:
        self._columns = columns
        self._whole = whole
        self._rows = [[Text(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = list(range(len(self._columns)))
        widths = [self._natural(place) for place in shown]
        if console.is_terminal:
            shown, widths = self._fit(widths, options.max_width)
        yield self._line([Text(self._columns[place].title, "bold") for place in shown], shown, widths)
        for row in self._rows:
            cells = [row[place] for place in shown]
            if not self._whole or not isinstance(cells[-1], Text):
                yield self._line(cells, shown, widths)
                continue
            first, *others = cells[-1].wrap(console, widths[shown[-1]], overflow="fold") or [Text()]
            yield self._line([*cells[:-1], first], shown, widths)
            for other in others:
                yield self._line([*(Text() for _ in cells[:-1]), other], shown, widths)

    def _natural(self, place: int) -> int:
        cells = (row[place] for row in self._rows)
        lengths = [BAR_WIDTH if isinstance(cell, Bar) else cell.cell_len for cell in cells]
        return max([len(self._columns[place].title), *lengths])

    def _fit(self, natural: list[int], room: int) -> tuple[list[int], list[int]]:
        """The columns that are shown, and the width of each column, shown or not."""
        shown = list(range(len(natural)))
        least = [width if (least := column.least) is None else min(width, least)
                 for width, column in zip(natural, self._columns, strict=True)]  # fmt: skip
        while True:
            over = sum(natural[place] for place in shown) + 2 * (len(shown) - 1) - room
            slack = {place: natural[place] - least[place] for place in shown}
            more = [place for place in shown if self._columns[place].leave_out]
            if over <= sum(slack.values()) or not more:
                break
            shown.remove(max(more, key=lambda place: self._columns[place].leave_out))
        if over > sum(slack.values()):  # a very narrow terminal: whatever may be shortened at all is
            slack = {place: natural[place] - 4 for place in shown if self._columns[place].least is not None}
        widths = list(natural)
        for place in shown:
            first = self._columns[place].first
            if first is not None and over > 0:
                cut = min(over, max(0, widths[place] - first))
                widths[place] -= cut
                over -= cut
                slack[place] -= cut
        # Each gives in proportion to what it has over; the last ones take what rounding left.
        left = sum(slack.values())
        for place, own in slack.items():
            cut = 0 if over <= 0 or left <= 0 else min(own, -(-over * own // left))
            widths[place] -= cut
            over -= cut
            left -= own
        return shown, widths

    def _line(self, cells: Sequence[Text | Bar], shown: Sequence[int], widths: Sequence[int]) -> Text:
        line = Text(no_wrap=True, overflow="ignore", end="\n")
        for number, (place, cell) in enumerate(zip(shown, cells, strict=True)):
            text = cell.drawn(widths[place]) if isinstance(cell, Bar) else cell.copy()
            text.truncate(widths[place], overflow="ellipsis")
            space = " " * (widths[place] - text.cell_len)
            line.append("  " if number else "")
            line.append_text(Text(space) + text if self._columns[place].right else text + Text(space))
        line.rstrip()
        return line


def show(table: RenderableType) -> None:
    """Print a table on stdout; a line that is longer than a pipe's imagined width is left whole."""
    out = console()
    out.print(table, crop=out.is_terminal)


def jobs_table(jobs: Iterable[Mapping[str, Any]], *, whole: bool = False) -> Lines:
    """Jobs, a row each: what they are, how they stand, and why; `whole`: the why in full."""
    columns = [
        Column("ID"),
        Column("JOB", least=16),
        Column("TYPE", least=13),
        Column("STATE"),
        Column("ATTEMPT", leave_out=1),
        Column("TIME", leave_out=2),
        Column("AGE", leave_out=3),
        Column("NOTE", least=26, first=40),
    ]
    rows = (
        (
            str(job["id"])[:8],
            one_line(job["job_id"]),
            short_type_name(job["type"]),
            state_text(job["state"]),
            f"{job['attempts']}/{job['max_attempts']}",
            duration(job["processing_time_ms"]),
            age(job["created_at"]),
            one_line(job["error_message"] or job["reason"] or job["output_url"]),
        )
        for job in jobs
    )
    return Lines(columns, rows, whole=whole)


def manifests_table(manifests: Iterable[Mapping[str, Any]]) -> Lines:
    """Manifests, a row each, with the progress of their jobs."""
    columns = [
        Column("ID"),
        Column("TITLE", least=16),
        Column("STATUS"),
        Column("JOBS"),
        Column("TIME", leave_out=1),
        Column("AGE", leave_out=2),
        Column("NOTE", least=26, first=40),
    ]
    rows = []
    for manifest in manifests:
        failed = f", {manifest['failed']} failed" if manifest["failed"] else ""
        rows.append(
            (
                str(manifest["id"])[:8],
                one_line(manifest["title"]),
                state_text(manifest["status"]),
                f"{manifest['completed']}/{manifest['jobs']}{failed}",
                duration(manifest["processing_time_ms"]),
                age(manifest["created_at"]),
                one_line(manifest["error_message"] or manifest["output_url"]),
            )
        )
    return Lines(columns, rows)


def one_line(text: str | None) -> str:
    """A text of several lines as one."""
    return " ".join((text or "").split())


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
