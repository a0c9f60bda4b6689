"""`dreamcuts manifests`: look at manifests, follow them, and change them."""

from __future__ import annotations

import click
from rich.console import Console

from dreamcuts.admin import MANIFEST_STATUSES, Admin
from dreamcuts.archive import Archive
from dreamcuts.cli import tables
from dreamcuts.cli.common import database_url, json_option, print_json
from dreamcuts.cli.costs import print_amounts
from dreamcuts.cli.jobs import RETRY, cancelling
from dreamcuts.cli.selection import Change, Selection, change_jobs
from dreamcuts.money import Money

_FIELDS = (
    "id", "user_id", "status", "output_url", "error_message", "validation_errors", "created_at", "started_at",
    "completed_at", "archived_at", "processing_time_ms",
)  # fmt: skip


@click.group()
def manifests() -> None:
    """Look at manifests and what they cost, follow them, retry and cancel all their jobs.

    A MANIFEST is a uuid or the beginning of one (4 digits or more).
    """


@manifests.command("list")
@click.option("--status", type=click.Choice(MANIFEST_STATUSES))
@click.option("--limit", "-n", type=click.IntRange(1, 10_000), default=50, show_default=True)
@json_option
def list_manifests(status: str | None, limit: int, as_json: bool) -> None:
    """List manifests, newest first, with the progress of their jobs."""
    with Admin.connect(database_url()) as admin:
        rows = admin.list_manifests(status=status, limit=limit)
    if as_json:
        print_json(rows)
    elif rows:
        tables.show(tables.manifests_table(rows))
    else:
        click.echo("No such manifests.", err=True)


@manifests.command()
@click.argument("manifest")
@click.option("--archived", is_flag=True, help="With its jobs from the archive.")
@json_option
def show(manifest: str, archived: bool, as_json: bool) -> None:
    """Show one MANIFEST with its jobs and what they cost. `--json` holds the whole manifest."""
    kind = Archive if archived else Admin
    with kind.connect(database_url()) as admin:
        row = admin.manifest(admin.find_manifest(manifest))
    if as_json:
        print_json(row)
        return
    out = tables.console()
    out.print(tables.details(row, _FIELDS))
    if row["jobs"]:
        out.print()
        tables.show(tables.jobs_table(row["jobs"], whole=True))
    elif row["archived_at"] is not None and not archived:
        click.echo("\nIts jobs are in the archive: give --archived to see them.")
    if row["spend"]:
        out.print()
        out.print(
            tables.rows_table(row["spend"], {"provider": "PROVIDER", "calls": "CALLS", "cost_usd": "USD"})
        )


@manifests.command()
@click.argument("manifest")
@click.option("--dry-run", is_flag=True, help="Only count the jobs that would be retried.")
@json_option
def retry(manifest: str, dry_run: bool, as_json: bool) -> None:
    """Let all failed jobs of a MANIFEST run again, with what their failure cancelled.

    What an operator cancelled stays so: see `dreamcuts jobs retry -m MANIFEST --state cancelled`.
    """
    _change_all(RETRY, manifest, dry_run, as_json)


@manifests.command()
@click.argument("manifest")
@click.option("--reason", default="cancelled by an operator", help="Kept with the jobs.")
@click.option("--dry-run", is_flag=True, help="Only count the jobs that would be cancelled.")
@json_option
def cancel(manifest: str, reason: str, dry_run: bool, as_json: bool) -> None:
    """Cancel all jobs of a MANIFEST that are pending or running."""
    _change_all(cancelling(reason), manifest, dry_run, as_json)


@manifests.command()
@click.argument("manifest")
def watch(manifest: str) -> None:
    """Follow a MANIFEST until all its jobs have ended. Exit code 1 if it is not done then."""
    from dreamcuts.tail import follow_manifest

    with Admin.connect(database_url()) as admin:
        # Soft-wrapped: a URL in a line longer than the terminal, or than a pipe's 80 columns, stays whole.
        out = Console(highlight=False, soft_wrap=True)
        is_done = follow_manifest(admin, admin.find_manifest(manifest), out)
    if not is_done:
        raise click.exceptions.Exit(1)


def _change_all(change: Change, manifest: str, dry_run: bool, as_json: bool) -> None:
    chosen = Selection((), None, manifest, None, None, None)
    with Admin.connect(database_url()) as admin:
        change_jobs(admin, change, (), chosen, dry_run=dry_run, yes=True, as_json=as_json)


@manifests.command()
@click.argument("manifest")
@json_option
def cost(manifest: str, as_json: bool) -> None:
    """Show what a MANIFEST cost, job by job, in US dollars; see `dreamcuts costs` for the columns."""
    with Money.connect(database_url()) as money:
        row = money.manifest_costs(money.find_manifest(manifest))
    if as_json:
        print_json(row)
        return
    if not row["jobs"]:
        click.echo("No calls.", err=True)
        return
    names = {"job_id": "JOB", "provider": "PROVIDER", "endpoint": "ENDPOINT"}
    print_amounts([*row["jobs"], {"job_id": "total", **row["total"]}], names)
    if row["limit_usd"] is not None:
        click.echo(f"\nmaxTotalCost: ${row['limit_usd']}")
    if row["unknown"]:
        tables.console().print("\n[bold]Calls of unknown outcome, which may have been billed[/]")
        columns = {"job_id": "JOB", "endpoint": "ENDPOINT", "request_id": "REQUEST", "error": "WHY"}
        tables.console().print(tables.rows_table(row["unknown"], columns))
