"""`dreamcuts jobs`: look at jobs, follow them, and change them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from rich.console import Console

from dreamcuts.admin import Admin
from dreamcuts.archive import Archive
from dreamcuts.cli import tables
from dreamcuts.cli.common import database_url, json_option, print_json
from dreamcuts.cli.selection import Change, Selection, change_jobs, filters, report
from dreamcuts.errors import NotFound
from dreamcuts.tail import follow_job, follow_manifest

_FIELDS = (
    "id", "manifest_id", "job_id", "type", "state", "reason", "priority", "attempts", "max_attempts",
    "error_class", "error_message", "output_url", "depends_on", "tags", "worker_id", "next_retry_at",
    "created_at", "started_at", "completed_at", "archived_at", "processing_time_ms", "retry_policy",
    "metadata", "payload", "result",
)  # fmt: skip
_ATTEMPTS = {"attempt": "ATTEMPT", "outcome": "OUTCOME", "error_class": "CLASS", "error_message": "MESSAGE"}
_CALLS = {
    "provider": "PROVIDER",
    "endpoint": "ENDPOINT",
    "status": "STATUS",
    "request_id": "REQUEST",
    "cost_usd": "USD",
    "error": "ERROR",
}


_many_jobs = click.argument("job", nargs=-1)
_some_jobs = click.argument("job", nargs=-1, required=True)
_dry_run = click.option("--dry-run", is_flag=True, help="Only count the jobs that would be changed.")
_yes = click.option("--yes", "-y", is_flag=True, help="Do not ask before changing what the options choose.")
_archived = click.option("--archived", is_flag=True, help="In the archive of jobs that ended long ago.")

RETRY = Change(
    "retry",
    "retried",
    "pending again",
    "a job that is pending, running or completed cannot be retried",
    lambda admin, jobs: admin.client.retry(jobs),
    states=("failed",),
)
RUN_NOW = Change(
    "run",
    "hurried",
    "ready",
    "only a delayed job can be hurried; see `dreamcuts jobs show` for what a job waits for",
    lambda admin, jobs: admin.client.run_now(jobs),
    states=("delayed",),
)
RELEASE = Change(
    "release",
    "released",
    "ready again",
    "only a running job can be released",
    lambda admin, jobs: admin.client.release(jobs),
    states=("processing",),
)


def cancelling(reason: str) -> Change:
    """Cancelling for a reason."""
    return Change(
        "cancel",
        "cancelled",
        "cancelled",
        "a job that has ended cannot be cancelled",
        lambda admin, jobs: admin.client.cancel(jobs, reason),
        states=("pending", "processing"),
        reaches="cancelled",
    )


@click.group()
def jobs() -> None:
    """Look at jobs, follow them, and change them.

    A JOB is a uuid, the beginning of one (4 digits or more), or MANIFEST/JOB_ID:

    \b
        dreamcuts jobs show 5f3c
        dreamcuts jobs retry 91ab/job_tts_s1
    """


@jobs.command("list")
@filters
@_archived
@click.option("--limit", "-n", type=click.IntRange(1, 10_000), default=50, show_default=True)
@json_option
def list_jobs(selection: Selection, archived: bool, limit: int, as_json: bool) -> None:
    """List jobs, newest first.

    --state processing shows what workers held at their last heartbeat, and what was claimed among the newest
    jobs since: there is no index of running jobs, which every claim would pay for.

    \b
        dreamcuts jobs list --state failed --class transient --newer-than 1d
        dreamcuts jobs list --type tts -m 91ab --json
    """
    with _where(archived) as admin:
        rows = selection.find(admin, limit)
    if as_json:
        print_json(rows)
    elif rows:
        tables.show(tables.jobs_table(rows))
    else:
        click.echo("No such jobs.", err=True)


@jobs.command()
@click.argument("job")
@_archived
@json_option
def show(job: str, archived: bool, as_json: bool) -> None:
    """Show one JOB: its state and why, its payload, failed attempts, and calls to providers."""
    with _where(archived) as admin:
        row = admin.job(admin.find_job(job))
    if as_json:
        print_json(row)
        return
    out = tables.console()
    out.print(tables.details(row, _FIELDS))
    for title, name, columns in (
        ("Attempts that did not succeed", "attempts_made", _ATTEMPTS),
        ("Calls to providers", "provider_calls", _CALLS),
    ):
        if row[name]:
            out.print(f"\n[bold]{title}[/]")
            out.print(tables.rows_table(row[name], columns))


@jobs.command()
@click.argument("reference", metavar="JOB|MANIFEST")
def tail(reference: str) -> None:
    """Follow a JOB, or all jobs of a MANIFEST, until the end: states, failed attempts, calls to providers.

    Exit code 1 if it ends otherwise than completed.
    """
    out = Console(highlight=False, soft_wrap=True)
    with Admin.connect(database_url()) as admin:
        try:
            job = admin.find_job(reference)
        except NotFound as no_job:
            try:
                manifest = admin.find_manifest(reference)
            except NotFound:
                raise no_job from None
            ended_well = follow_manifest(admin, manifest, out)
        else:
            ended_well = follow_job(admin, job, out)
    if not ended_well:
        raise click.exceptions.Exit(1)


def _choice(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a command that changes jobs, as `change_jobs` takes them."""
    return filters(_dry_run(_yes(json_option(function))))


def _changing(name: str, change: Change, text: str) -> None:
    """A command that does `change` to jobs that are named, or chosen by options."""

    @_many_jobs
    @_choice
    def command(job: tuple[str, ...], **choice: Any) -> None:
        with Admin.connect(database_url()) as admin:
            change_jobs(admin, change, job, **choice)

    jobs.command(name, help=text)(command)


_changing(
    "retry",
    RETRY,
    """Let each failed or cancelled JOB run again, with all its attempts.

    What its failure cancelled comes with it, and so do failed dependencies that it cannot do without. A job
    in backoff runs at once. In place of JOBs, options can choose them: failed ones, unless --state says
    otherwise.

    \b
        dreamcuts jobs retry 91ab/job_tts_s1
        dreamcuts jobs retry --class quota --type tts --newer-than 1d --dry-run
    """,
)
_changing(
    "run-now",
    RUN_NOW,
    """Let each delayed JOB, scheduled or in backoff, run now; or all that the options choose.""",
)
_changing(
    "release",
    RELEASE,
    """Take each running JOB from its worker and make it ready, the attempt not used up.

    For a worker that lives but does nothing. One that is dead loses its jobs by itself. A call to a provider
    that is under way is picked up by whoever claims the job next.
    """,
)


@jobs.command()
@_many_jobs
@click.option("--reason", default="cancelled by an operator", help="Kept with the job.")
@_choice
def cancel(job: tuple[str, ...], reason: str, **choice: Any) -> None:
    """Cancel each JOB that is pending or running, and everything that depends on it; or all that the options
    choose.
    """
    with Admin.connect(database_url()) as admin:
        change_jobs(admin, cancelling(reason), job, **choice)


@jobs.command("set-priority")
@_some_jobs
@click.option(
    "--priority", "-p", type=click.IntRange(-(2**31), 2**31 - 1), required=True, help="Higher is sooner."
)
@json_option
def set_priority(job: tuple[str, ...], priority: int, as_json: bool) -> None:
    """Give each JOB that has not begun another priority (usually 0 to 20; 5 if nothing else was said)."""
    change = Change(
        "move",
        "moved",
        f"at priority {priority}",
        "only a pending job has a place in the queue",
        lambda admin, chosen: admin.client.set_priority(chosen, priority),
        states=(),
    )
    with Admin.connect(database_url()) as admin:
        report(admin, [admin.find_job(one) for one in job], change, as_json)


@jobs.command("drop-dependency")
@click.argument("job")
@click.argument("depends_on", metavar="JOB_ID")
@json_option
def drop_dependency(job: str, depends_on: str, as_json: bool) -> None:
    """Let a blocked JOB run without the dependency JOB_ID, e.g. one that was never inserted."""
    with Admin.connect(database_url()) as admin:
        found = admin.find_job(job)
        if not admin.client.drop_dependency(found, depends_on):
            waits = admin.job(found)["reason"] or "it waits for nothing"
            raise click.ClickException(f"The job does not wait for {depends_on!r}: {waits}.")
        row = admin.job(found)
    if as_json:
        print_json({name: row[name] for name in ("id", "manifest_id", "job_id", "state", "reason")})
        return
    click.echo(f"{row['job_id']} is {row['state']}" + (f": {row['reason']}" if row["reason"] else ""))


def _where(archived: bool) -> Any:
    kind: Callable[[str], Any] = Archive.connect if archived else Admin.connect
    return kind(database_url())
