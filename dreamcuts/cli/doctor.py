"""`dreamcuts doctor`: is everything there that a worker needs?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import click
from rich.table import Table
from rich.text import Text

from dreamcuts.cli import tables
from dreamcuts.cli.common import json_option, print_json
from dreamcuts.config import Settings, SettingsWrong
from dreamcuts.doctor import CHECKS, examine, worst
from dreamcuts.doctor_settings import without_wrong
from dreamcuts.findings import Finding, Level
from dreamcuts.jobs.registry import load_job_types, resolve_types

_MARKS = {
    Level.OK: ("OK", "green"),
    Level.WARNING: ("warning", "yellow"),
    Level.FAILURE: ("FAILURE", "bold red"),
}


@click.command()
@click.option("--types", "-t", help="Only what these job types need, e.g. tts,music. Default: all.")
@click.option("--only", "-o", multiple=True, type=click.Choice(CHECKS), help="May be given more than once.")
@json_option
def doctor(types: str | None, only: tuple[str, ...], as_json: bool) -> None:
    """Check what a worker needs: settings, keys, database, storage, disk; and say what to do about it.

    Costs nothing: keys are tried with calls that are free. Exit code 1 if something fails; a warning is for
    you to judge.
    """
    import anyio

    wrong: Mapping[str, str] = {}
    try:
        settings = Settings.load()
    except SettingsWrong as error:
        wrong = error.problems
        settings = without_wrong(wrong)
    known = load_job_types()
    served = resolve_types([name for name in types.split(",") if name], known) if types else known.values()
    # What cannot be read is always said: other checks may have gone on without it.
    checks = [check for check in CHECKS if not only or check in only or (wrong and check == "settings")]
    findings = anyio.run(examine, settings, list(served), checks, wrong)
    result = worst(findings)
    if as_json:
        print_json({"result": result, "findings": [asdict(finding) for finding in findings]})
    else:
        tables.console().print(_table(findings))
    if result is Level.FAILURE:
        raise click.exceptions.Exit(1)


def _table(findings: list[Finding]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        mark, style = _MARKS[finding.level]
        table.add_row(Text(mark, style), Text(finding.check), Text(finding.text))
        if finding.way_out:
            table.add_row("", "", Text(f"-> {finding.way_out}", style))
    return table
