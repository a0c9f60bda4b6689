"""`dreamcuts db`: migrate, status, sql."""

from __future__ import annotations

import click

from dreamcuts.cli.common import database_url, json_option, print_json


@click.group()
def db() -> None:
    """Bring the database's schema up to date."""


@db.command()
def migrate() -> None:
    """Apply what the schema lacks, all of it in one transaction. Safe to run again, and by two at once."""
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

    \b
        dreamcuts db sql | psql "$DATABASE_URL"
    """
    from dreamcuts.db.migrate import full_sql

    click.echo(full_sql(), nl=False)
