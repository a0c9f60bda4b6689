"""`dreamcuts workers`: list, drain, restart, scale."""

from __future__ import annotations

from typing import get_args
from uuid import UUID

import click
from rich.text import Text

from dreamcuts import wording
from dreamcuts.admin import Row
from dreamcuts.cli import tables
from dreamcuts.cli.common import database_url, json_option, print_json
from dreamcuts.cli.types import check_type, full_type_name, short_type_name
from dreamcuts.fleet import Fleet, Profile
from dreamcuts.worker.steering import Command

_STYLES = {"live": "green", "draining": "yellow", "silent": "red", "lost": "red", "stopped": "bright_black"}


@click.group()
def workers() -> None:
    """List workers on all machines, and drain, restart or scale them.

    What you ask for goes through the database: workers hear of it within moments, or with their next
    heartbeat. A WORKER is its id, the beginning of one, or a job type: then all workers that serve it.

    \b
        dreamcuts workers list
        dreamcuts workers scale image --slots 4
        dreamcuts workers restart tts
        dreamcuts workers drain --host render-2 --wait
    """


@workers.command("list")
@click.option("--all", "everything", is_flag=True, help="Also those that ended within the last day.")
@json_option
def list_workers(everything: bool, as_json: bool) -> None:
    """List workers: where they run, what they serve, and what they do now (at their last heartbeat)."""
    with Fleet.connect(database_url()) as fleet:
        rows = fleet.workers(all=everything)
    if as_json:
        print_json(rows)
    elif rows:
        tables.show(workers_table(rows))
    else:
        click.echo("No worker is there. `dreamcuts work` starts one.", err=True)


_which = (
    click.argument("worker", nargs=-1),
    click.option("--host", help="Only those on this machine."),
    click.option("--all", "everyone", is_flag=True, help="All workers."),
    click.option("--reason", default="asked by an operator", help="Shown in the worker's log."),
    click.option("--wait", is_flag=True, help="Return when they have ended."),
    click.option(
        "--timeout", type=click.FloatRange(0), default=600.0, show_default=True, metavar="SECONDS",
        help="How long --wait waits.",
    ),
    json_option,
)  # fmt: skip


def _choosing(function: click.decorators.FC) -> click.decorators.FC:
    for decorate in reversed(_which):
        function = decorate(function)
    return function


@workers.command()
@click.option("--now", is_flag=True, help="Hand running jobs back at once, the attempt not used up.")
@_choosing
def drain(
    now: bool,
    worker: tuple[str, ...],
    host: str | None,
    everyone: bool,
    reason: str,
    wait: bool,
    timeout: float,
    as_json: bool,
) -> None:
    """Let each WORKER claim no more, finish its jobs within its shutdown timeout, and end.

    It ends with code 0 and stays away: systemd restarts it only when told to.
    """
    command = Command.DRAIN_NOW if now else Command.DRAIN
    _command(command, worker, host, everyone, reason, timeout if wait else None, as_json)


@workers.command()
@_choosing
def restart(
    worker: tuple[str, ...],
    host: str | None,
    everyone: bool,
    reason: str,
    wait: bool,
    timeout: float,
    as_json: bool,
) -> None:
    """Let each WORKER drain and start anew, e.g. with a release that was installed meanwhile.

    Its process replaces itself; one that systemd runs ends with code 75 and is started by systemd. The fresh
    one is another worker with an id of its own.
    """
    _command(Command.RESTART, worker, host, everyone, reason, timeout if wait else None, as_json)


@workers.command()
@click.argument("type_name", metavar="[TYPE]", required=False)
@click.option(
    "--slots", type=click.IntRange(0, 1000), help="Jobs at a time in each worker process; 0: claim none."
)
@click.option(
    "--profile",
    type=click.Choice(get_args(Profile)),
    help="high: twice as many; low: half; normal: as started.",
)
@click.option("--reset", is_flag=True, help="As many as each worker was started with.")
@json_option
def scale(
    type_name: str | None, slots: int | None, profile: Profile | None, reset: bool, as_json: bool
) -> None:
    """Change how many jobs of TYPE each worker process runs at a time, or of all types by a profile.

    It holds until it is changed again, for workers that start later too. A type's own number wins over the
    profile. Jobs that run are left to end. Without options: show what is scaled.

    \b
        dreamcuts workers scale image --slots 4
        dreamcuts workers scale image --reset
        dreamcuts workers scale --profile low
    """
    if type_name and (slots is not None) + reset != 1:
        raise click.UsageError("For a TYPE give either --slots or --reset.")
    if not type_name and (slots is not None or reset):
        raise click.UsageError("Say which TYPE. For all types at once there is --profile.")
    if type_name and profile:
        raise click.UsageError("--profile is for all types: leave out the TYPE, or give --slots.")
    with Fleet.connect(database_url()) as fleet:
        told: list[UUID] = []
        if type_name:
            full = full_type_name(type_name)
            check_type(fleet, type_name)
            told = fleet.scale_type(full, slots)
        elif profile:
            told = fleet.scale_profile(profile)
        rows = fleet.scaling()
    if as_json:
        print_json({"told": told, "scaling": rows})
        return
    if type_name or profile:
        click.echo(f"{_count(told)} of it." if told else "No live worker is concerned; those that start are.")
    for row in rows:
        whole = row["type"] == "*"
        what = (
            f"all other types: {row['profile']}"
            if whole
            else f"{short_type_name(row['type'])}: {row['slots']}"
        )
        click.echo(what)
    if not rows:
        click.echo("Nothing is scaled: each worker runs as many jobs as it was started with.")


def workers_table(rows: list[Row]) -> tables.Lines:
    """Workers, a row each. What they do is shown as long as there is room for it."""
    columns = [
        tables.Column("ID"),
        tables.Column("HOST", least=12),
        tables.Column("PID", right=True, leave_out=1),
        tables.Column("STATE"),
        tables.Column("SLOTS", least=36, first=60),
        tables.Column("UP", leave_out=2),
        tables.Column("HEARD", leave_out=3),
        tables.Column("VERSION", leave_out=4),
        tables.Column("NOTE", least=10),
    ]
    lines: list[tuple[tables.Cell, ...]] = []
    for row in rows:
        note = (
            f"asked to {row['command'].replace('_', ' ')}: {row['command_reason']}" if row["command"] else ""
        )
        lines.append(
            (
                str(row["id"])[:8],
                row["host"],
                str(row["pid"]),
                Text(row["state"], _STYLES.get(row["state"], "")),
                slots_text(row),
                tables.age(row["started_at"]),
                f"{tables.duration(row['silent_ms'])} ago",
                row["version"],
                tables.one_line(note),
            )
        )
    if not any(row["command"] for row in rows):  # no room for what nobody has
        columns, lines = columns[:-1], [line[:-1] for line in lines]
    return tables.Lines(columns, lines)


def slots_text(row: Row) -> str:
    """`tts 2/3, image 0/4`: jobs under way and slots of each type."""
    running = row["running"] or {}
    return ", ".join(
        f"{short_type_name(name)} {running.get(name, 0)}/{slots}"
        for name, slots in zip(row["types"], row["slots"], strict=True)
    )


def _command(
    command: Command,
    worker: tuple[str, ...],
    host: str | None,
    everyone: bool,
    reason: str,
    wait_s: float | None,
    as_json: bool,
) -> None:
    if not worker and host is None and not everyone:
        raise click.UsageError("Say which: a WORKER or a type, --host, or --all.")
    if worker and everyone:
        raise click.UsageError("Give either a WORKER or --all.")
    with Fleet.connect(database_url()) as fleet:
        names = {full_type_name(name): name for name in worker}
        chosen = fleet.find_workers(names, host=host, as_given=names)
        told = fleet.command(chosen, command, reason)
        if not told:
            where = "" if host is None else f" on {host}"
            raise click.ClickException(f"No worker is there{where} to heed it. See `dreamcuts workers list`.")
        if as_json:
            print_json({"command": command, "workers": told})
        else:
            click.echo(f"{_count(told)}: {', '.join(str(one)[:8] for one in told)}")
        if wait_s is not None:
            fleet.wait_ended(told, wait_s)
            if not as_json:
                click.echo("They have ended." if len(told) > 1 else "It has ended.")


def _count(told: list[UUID]) -> str:
    return f"{wording.many(len(told), 'worker')} told"
