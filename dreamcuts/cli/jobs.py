"""`dreamcuts jobs`: list, show, retry, cancel."""

from __future__ import annotations

from uuid import UUID

import click

from dreamcuts.admin import JOB_STATES, Admin, Row
from dreamcuts.cli import tables
from dreamcuts.cli.common import database_url, json_option, print_json
from dreamcuts.cli.types import full_type_name

_FIELDS = (
    "id", "manifest_id", "job_id", "type", "state", "reason", "priority", "attempts", "max_attempts",
    "error_class", "error_message", "output_url", "depends_on", "tags", "worker_id", "next_retry_at",
    "created_at", "started_at", "completed_at", "processing_time_ms", "retry_policy", "metadata", "payload",
    "result",
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


@click.group()
def jobs() -> None:
    """List, show, retry and cancel jobs.

    A JOB is a uuid, the beginning of one (4 digits or more), or MANIFEST/JOB_ID:

    \b
        dreamcuts jobs show 5f3c
        dreamcuts jobs retry 91ab/job_tts_s1
    """


@jobs.command("list")
@click.option(
    "--state", "states", multiple=True, type=click.Choice(JOB_STATES), help="May be given more than once."
)
@click.option("--type", "type_name", help="A job type, e.g. tts or tts_elevenlabs.")
@click.option("--manifest", "-m", help="Only the jobs of this manifest.")
@click.option("--limit", "-n", type=click.IntRange(1, 10_000), default=50, show_default=True)
@json_option
def list_jobs(
    states: tuple[str, ...], type_name: str | None, manifest: str | None, limit: int, as_json: bool
) -> None:
    """List jobs, newest first.

    \b
        dreamcuts jobs list --state failed --state cancelled
        dreamcuts jobs list --type tts -m 91ab --json
    """
    wanted = full_type_name(type_name) if type_name else None
    with Admin.connect(database_url()) as admin:
        chosen = admin.find_manifest(manifest) if manifest else None
        rows = admin.list_jobs(states=states, type=wanted, manifest=chosen, limit=limit)
    if as_json:
        print_json(rows)
    elif rows:
        tables.console().print(tables.jobs_table(rows))
    else:
        click.echo("No such jobs.", err=True)


@jobs.command()
@click.argument("job")
@json_option
def show(job: str, as_json: bool) -> None:
    """Show one JOB: its state and why, its payload, failed attempts, and calls to providers."""
    with Admin.connect(database_url()) as admin:
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
@click.argument("job", nargs=-1, required=True)
@json_option
def retry(job: tuple[str, ...], as_json: bool) -> None:
    """Let each failed or cancelled JOB run again, with all its attempts.

    What its failure cancelled comes with it, and so do failed dependencies that it cannot do without. A job
    in backoff runs at once.
    """
    with Admin.connect(database_url()) as admin:
        changed = admin.client.retry([admin.find_job(reference) for reference in job])
        _report(
            admin,
            changed,
            "pending again",
            "a job that is pending, running or completed cannot be retried",
            as_json,
        )


@jobs.command()
@click.argument("job", nargs=-1, required=True)
@click.option("--reason", default="cancelled by an operator", help="Kept with the job.")
@json_option
def cancel(job: tuple[str, ...], reason: str, as_json: bool) -> None:
    """Cancel each JOB that is pending or running, and everything that depends on it."""
    with Admin.connect(database_url()) as admin:
        changed = admin.client.cancel([admin.find_job(reference) for reference in job], reason)
        _report(admin, changed, "cancelled", "a job that has ended cannot be cancelled", as_json)


def _report(admin: Admin, changed: list[UUID], what: str, otherwise: str, as_json: bool) -> None:
    rows: list[Row] = [admin.job(job) for job in changed]
    if as_json:
        print_json([{name: row[name] for name in ("id", "manifest_id", "job_id", "state")} for row in rows])
    for row in rows if not as_json else ():
        click.echo(f"{row['job_id']} is {what} ({row['id']})")
    if not changed:
        raise click.ClickException(f"Nothing changed: {otherwise}.")
