"""`dreamcuts costs`: where the money goes."""

from __future__ import annotations

from datetime import datetime
from typing import Any, cast

import click

from dreamcuts import wording
from dreamcuts.cli import tables
from dreamcuts.cli.common import database_url, json_option, print_json
from dreamcuts.cli.moments import since
from dreamcuts.money import GROUPS, By, Money, total

_AMOUNTS = {
    "calls": "CALLS",
    "spent_usd": "SPENT",
    "reserved_usd": "RESERVED",
    "uncertain_usd": "UNCERTAIN",
    "saved_usd": "SAVED",
    "unpriced_calls": "UNPRICED",
}


@click.command()
@click.option("--by", type=click.Choice(GROUPS), default="provider", show_default=True)
@click.option(
    "--since", "begin", type=since, metavar="TIME", help="So long ago (12h, 7d, 2w) or a date. Default: all."
)
@json_option
def costs(by: str, begin: datetime | None, as_json: bool) -> None:
    """Show what calls to providers cost, in US dollars.

    SPENT is what was billed, as far as it is known; RESERVED are calls under way; UNCERTAIN are calls whose
    outcome nobody knows; SAVED are calls that were not made because their result was there; UNPRICED is the
    number of calls whose price is not known. Days are in UTC.

    \b
        dreamcuts costs --by provider --since 7d
        dreamcuts costs --by day --since 2026-11-01 --json
    """
    with Money.connect(database_url()) as money:
        rows = money.costs(cast(By, by), begin)
    if as_json:
        print_json({"by": by, "since": begin, "rows": rows, "total": total(rows)})
    elif rows:
        print_amounts([*rows, {"key": "total", **total(rows)}], {"key": by.upper()})
    else:
        click.echo("No calls.", err=True)


def print_amounts(rows: list[dict[str, Any]], names: dict[str, str]) -> None:
    """Rows of spend as a table: the columns of `names`, then the amounts; none that is zero everywhere."""
    always = {"calls", "spent_usd"}
    shown = {name: title for name, title in _AMOUNTS.items() if name in always or any(r[name] for r in rows)}
    lines = [
        {name: row.get(name) for name in names}
        | {name: dollars(row[name]) if name.endswith("_usd") else row[name] for name in shown}
        for row in rows
    ]
    tables.console().print(tables.rows_table(lines, names | shown))


def dollars(amount: Any) -> str:
    """An amount for a table: to a hundredth of a cent."""
    return wording.dollars(amount, digits=4)
