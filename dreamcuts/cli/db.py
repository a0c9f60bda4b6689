"""`dreamcuts db`: migrate, status, sql, archive, prune."""

from __future__ import annotations

from datetime import timedelta

import click

from dreamcuts.cli.common import database_url, json_option, print_json
from dreamcuts.cli.moments import span
from dreamcuts.config import Settings


@click.group()
def db() -> None:
    """Bring the database's schema up to date; archive what ended long ago, and prune the archive."""


@db.command()
def migrate() -> None:
    """Apply what the schema lacks. Safe while workers run, to run again, and by two at once."""
    from dreamcuts.db.migrate import migrate as run

    applied = run(database_url())
    for name in applied:
        click.echo(f"applied {name}")
    if not applied:
        click.echo("The schema is up to date.")


@db.command()
@json_option
def status(as_json: bool) -> None:
    """Say how the schema stands to this version of DreamCuts. Exit code 1 if a worker could not run on it."""
    from dreamcuts.db.migrate import status as read

    found = read(database_url())
    if as_json:
        print_json(
            {
                "applied": list(found.applied),
                "pending": [migration.number for migration in found.pending],
                "functionsCurrent": found.functions_current,
                "current": found.is_current,
            }
        )
    else:
        click.echo(f"Migrations applied: {', '.join(str(number) for number in found.applied) or 'none'}")
    if as_json and not found.is_current:
        raise click.exceptions.Exit(1)
    found.check()
    if not as_json:
        click.echo("The schema is up to date.")


@db.command()
def sql() -> None:
    """Print the whole schema as one script, e.g. for Supabase's SQL editor. Needs no database.

    For psql, keep the password out of the command line, where everybody on the machine can read it: in
    ~/.pgpass, or with the whole address in ~/.pg_service.conf.

    \b
        dreamcuts db sql > schema.sql
        PGSERVICE=dreamcuts psql -v ON_ERROR_STOP=1 -f schema.sql
    """
    from dreamcuts.db.migrate import full_sql

    click.echo(full_sql(), nl=False)


@db.command()
@click.option(
    "--after", type=span, metavar="TIME", help="For completed jobs. Default: ARCHIVE_AFTER_DAYS (7 days)."
)
@click.option(
    "--failed-after",
    type=span,
    metavar="TIME",
    help="For failed and cancelled ones. Default: ARCHIVE_FAILED_AFTER_DAYS (30 days).",
)
def archive(after: timedelta | None, failed_after: timedelta | None) -> None:
    """Move jobs that ended long ago to the archive now.

    Workers do this by themselves. By hand it is for a database whose workers may not create tables, and for
    a first time that has much to move. Safe while workers run: it works in small transactions.
    """
    from dreamcuts.archive import Archive

    settings = Settings.load()
    after = after or timedelta(days=settings.archive_after_days) or None
    failed_after = failed_after or timedelta(days=settings.archive_failed_after_days) or None
    with Archive.connect(database_url(settings)) as found:
        moved = found.move(after, failed_after, lambda so_far: click.echo(f"{so_far} jobs ...", err=True))
    click.echo(f"Moved {moved} job{'s' if moved != 1 else ''} to the archive")


@db.command()
@click.option(
    "--older-than",
    type=span,
    required=True,
    metavar="TIME",
    help="E.g. 90d. Counts from the end of the manifest, or of a job without one.",
)
@click.option("--manifests", is_flag=True, help="Also delete the rows of the manifests whose jobs these are.")
@click.option("--yes", "-y", is_flag=True, help="Drop. Without it: only say what would be dropped.")
@json_option
def prune(older_than: timedelta, manifests: bool, yes: bool, as_json: bool) -> None:
    """Drop archived jobs for good: the months that are older than that as a whole.

    The ledger of what was paid stays, and so do files in the storage. A month goes as a whole, what failed
    with what was completed: to keep what failed for longer, copy it to a table of your own before.
    """
    from dreamcuts.archive import Archive

    with Archive.connect(database_url()) as archive:
        months = archive.prune(older_than, dry_run=not yes)
        deleted = archive.prune_manifests(older_than) if manifests and yes else 0
    if as_json:
        print_json({"dropped": yes, "months": months, "manifestsDeleted": deleted})
        return
    for row in months:
        did = "dropped" if yes else "would drop"
        size = f"{row['bytes'] / 1e6:.1f} MB"
        click.echo(
            f"{did} {row['month']:%Y-%m}: {row['jobs']} jobs, {row['attempts']} failed attempts, {size}"
        )
    if deleted:
        click.echo(f"deleted {deleted} manifest{'s' if deleted != 1 else ''}")
    if not months:
        click.echo("No month of the archive is that old.")
    elif not yes:
        click.echo("Nothing was dropped; --yes does it.")
