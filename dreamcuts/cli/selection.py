"""Choosing jobs by what they are: the filters of `dreamcuts jobs`, and changes to all that fit them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import click

from dreamcuts import wording
from dreamcuts.admin import JOB_STATES, Admin, Row
from dreamcuts.cli.common import print_json
from dreamcuts.cli.moments import since
from dreamcuts.cli.types import check_type, full_type_name
from dreamcuts.errors import ErrorClass

MOST = 10_000
"""Jobs that are looked for at a time."""
AT_ONCE = 500
"""Jobs that one transaction changes: it locks their manifests, and outcomes of these wait for it."""

_OPTIONS = (
    click.option(
        "--state", "states", multiple=True, type=click.Choice(JOB_STATES), help="May be given more than once."
    ),
    click.option("--type", "type_name", help="A job type, e.g. tts or tts_elevenlabs."),
    click.option("--manifest", "-m", help="Only the jobs of this manifest."),
    click.option(
        "--class", "error_class", metavar="CLASS", help=f"Class of the error: {', '.join(ErrorClass)}."
    ),
    click.option(
        "--newer-than", "newer", type=since, metavar="TIME",
        help="Made within so long (30m, 7d), or since a date.",
    ),
    click.option(
        "--older-than", "older", type=since, metavar="TIME", help="Made longer ago, or before a date.",
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Selection:
    """The filters as they were given."""

    states: tuple[str, ...]
    type_name: str | None
    manifest: str | None
    error_class: str | None
    newer: datetime | None
    older: datetime | None

    @property
    def is_given(self) -> bool:
        """Whether anything is filtered by."""
        return any((self.states, self.type_name, self.manifest, self.error_class, self.newer, self.older))

    def find(
        self, admin: Admin, limit: int, *, states: Sequence[str] = (), thorough: bool = False
    ) -> list[Row]:
        """The jobs that fit, newest first. `states` counts where none was given; see Admin.list_jobs.

        Raises UsageError if there are none, and nobody knows the type.
        """
        found = admin.list_jobs(
            states=self.states or states,
            type=full_type_name(self.type_name) if self.type_name else None,
            manifest=admin.find_manifest(self.manifest) if self.manifest else None,
            error_class=self.error_class,
            created_after=self.newer,
            created_before=self.older,
            limit=limit,
            thorough=thorough,
        )
        if not found and self.type_name:
            check_type(admin, self.type_name)
        return found


def filters(function: Callable[..., Any]) -> Callable[..., Any]:
    """A command's options that choose jobs; they come in as one `selection`."""

    def gathered(
        *arguments: Any,
        states: tuple[str, ...],
        type_name: str | None,
        manifest: str | None,
        error_class: str | None,
        newer: datetime | None,
        older: datetime | None,
        **others: Any,
    ) -> Any:
        if error_class is not None and error_class not in set(ErrorClass):
            raise click.UsageError(f"--class: {error_class!r} is none of {', '.join(ErrorClass)}.")
        selection = Selection(states, type_name, manifest, error_class, newer, older)
        return function(*arguments, selection=selection, **others)

    gathered.__doc__, gathered.__name__ = function.__doc__, function.__name__
    # Options that the function itself brought were collected on it; click looks for them on what it wraps.
    gathered.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
    decorated: Callable[..., Any] = gathered
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


@dataclass(frozen=True, slots=True)
class Change:
    """Something to do with jobs: `what` becomes of them, and `done` is said of one to which it was done."""

    verb: str
    done: str
    what: str
    otherwise: str
    """Why it is not done to a job."""
    act: Callable[[Admin, list[UUID]], list[UUID]]
    states: tuple[str, ...]
    """Which jobs a filter without --state means."""
    reaches: str = ""
    """The state that a job may also come to with another one: what depends on it is cancelled, too."""


def change_jobs(
    admin: Admin,
    change: Change,
    references: tuple[str, ...],
    selection: Selection,
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Do `change` to the jobs named, or to all that the filters fit, once that is confirmed."""
    if bool(references) == selection.is_given:
        raise click.UsageError("Name each JOB, or choose jobs by options such as --class; not both.")
    if references:
        chosen = [admin.find_job(reference) for reference in references]
        if dry_run:
            _say_count(change, [admin.job(job) for job in chosen], as_json)
            return
        report(admin, chosen, change, as_json)
        return
    found = selection.find(admin, MOST, states=change.states, thorough=True)
    if dry_run:
        _say_count(change, found, as_json)
        return
    if not found:
        if as_json:
            print_json({"changed": 0, "jobs": []})
        else:
            click.echo("No job fits: nothing changed.")
        return
    if not yes:
        _confirm(change, found)
    changed: list[UUID] = []
    while found:
        step = [done for batch in _batches([row["id"] for row in found]) for done in change.act(admin, batch)]
        changed += step
        # What was changed fits no more. If nothing was, the rest never will be.
        found = (
            selection.find(admin, MOST, states=change.states, thorough=True)
            if step and len(found) == MOST
            else []
        )
    if as_json:
        print_json({"changed": len(changed), "jobs": changed})
    else:
        number = wording.many(len(changed), "job")
        click.echo(f"{number} {'is' if len(changed) == 1 else 'are'} {change.what}")
    if not changed:
        raise click.ClickException(f"Nothing changed: {change.otherwise}.")


def report(admin: Admin, chosen: list[UUID], change: Change, as_json: bool) -> None:
    """Do `change` to these jobs and say what became of each, and of those that came with them.

    Ends with exit code 1 if one of them was not changed. JSON holds those that were; stderr names the others.
    """
    before = {job: admin.job(job)["state"] for job in chosen}
    changed = list(change.act(admin, chosen))
    others = [admin.job(job) for job in before if job not in set(changed)]
    came_with = [row for row in others if row["state"] == change.reaches != before[row["id"]]]
    rows = [*(admin.job(job) for job in changed), *came_with]
    place = {job: number for number, job in enumerate(chosen)}  # as they were named; what came with them last
    rows.sort(key=lambda row: place.get(row["id"], len(place)))
    if as_json:
        print_json([{name: row[name] for name in ("id", "manifest_id", "job_id", "state")} for row in rows])
    for row in rows if not as_json else ():
        click.echo(f"{row['job_id']} is {change.what} ({row['id']})")
    left = [row for row in others if row not in came_with]
    for row in left:
        click.echo(f"{row['job_id']} is {row['state']}: not {change.done} ({row['id']})", err=True)
    if left:
        why = change.otherwise
        raise click.ClickException(f"{why[0].upper()}{why[1:]}." if rows else f"Nothing changed: {why}.")


def _say_count(change: Change, found: list[Row], as_json: bool) -> None:
    counts: dict[str, int] = {}
    for row in found:
        kind = f"{row['type']} {row['state']}" + (f" ({row['error_class']})" if row["error_class"] else "")
        counts[kind] = counts.get(kind, 0) + 1
    if as_json:
        print_json({"would_change": len(found), "by_kind": counts})
        return
    more = " or more" if len(found) == MOST else ""
    click.echo(f"Would {change.verb} {wording.many(len(found), 'job')}{more}")
    for kind, number in sorted(counts.items(), key=lambda item: -item[1]):
        click.echo(f"{number:>7}  {kind}")


def _confirm(change: Change, found: list[Row]) -> None:
    question = f"{change.verb.capitalize()} {wording.many(len(found), 'job')}?"
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Nobody is there to answer: give --yes, or look with --dry-run.")
    click.confirm(question, abort=True, err=True)


def _batches(jobs: list[UUID]) -> Iterator[list[UUID]]:
    for start in range(0, len(jobs), AT_ONCE):
        yield jobs[start : start + AT_ONCE]
