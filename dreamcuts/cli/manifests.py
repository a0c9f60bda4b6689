"""`dreamcuts manifests`: list, show, cost."""

from __future__ import annotations

import click

from dreamcuts.admin import MANIFEST_STATUSES, Admin
from dreamcuts.cli import tables
from dreamcuts.cli.common import database_url, json_option, print_json
from dreamcuts.cli.costs import print_amounts
from dreamcuts.money import Money

_FIELDS = (
    "id", "user_id", "status", "output_url", "error_message", "validation_errors", "created_at", "started_at",
    "completed_at", "processing_time_ms",
)  # fmt: skip


@click.group()
def manifests() -> None:
    """List and show manifests, and what they cost.

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
        tables.console().print(tables.manifests_table(rows))
    else:
        click.echo("No such manifests.", err=True)


@manifests.command()
@click.argument("manifest")
@json_option
def show(manifest: str, as_json: bool) -> None:
    """Show one MANIFEST with its jobs and what they cost. `--json` holds the whole manifest."""
    with Admin.connect(database_url()) as admin:
        row = admin.manifest(admin.find_manifest(manifest))
    if as_json:
        print_json(row)
        return
    out = tables.console()
    out.print(tables.details(row, _FIELDS))
    if row["jobs"]:
        out.print()
        out.print(tables.jobs_table(row["jobs"]))
    if row["spend"]:
        out.print()
        out.print(
            tables.rows_table(row["spend"], {"provider": "PROVIDER", "calls": "CALLS", "cost_usd": "USD"})
        )


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
