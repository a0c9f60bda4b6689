"""`dreamcuts submit`: a manifest with its jobs."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console

from dreamcuts.admin import Admin
from dreamcuts.cli.common import database_url, json_option, print_json, read_object
from dreamcuts.config import Settings
from dreamcuts.errors import ManifestInvalid
from dreamcuts.film import fetch_film
from dreamcuts.jobs.registry import load_job_types
from dreamcuts.manifest.validate import plan_manifest
from dreamcuts.progress import Follower


@click.command()
@click.argument("manifest")
@click.option("--wait", is_flag=True, help="Follow the jobs until all have ended.")
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the film here. Implies --wait.",
)
@click.option("--dry-run", is_flag=True, help="Check the manifest and list its jobs; write nothing.")
@json_option
def submit(manifest: str, wait: bool, output: Path | None, dry_run: bool, as_json: bool) -> None:
    """Submit the MANIFEST in a JSON file (- for stdin), and print its id.

    A manifest with `jobs` is taken as it stands; otherwise its jobs are derived from its scenes. All its
    problems are listed at once, and then nothing is written.

    \b
        dreamcuts submit manifest.json
        dreamcuts submit manifest.json --wait --output film.mp4
    """
    settings = Settings.load()
    body = read_object(manifest, "The manifest")
    models = {name: job_type.payload_model for name, job_type in load_job_types().items()}
    try:
        jobs = [spec.as_row() for spec in plan_manifest(body, models)]
    except ManifestInvalid as error:
        if as_json:
            print_json({"problems": error.problems})
        raise
    if dry_run:
        if as_json:
            print_json(jobs)
        for job in jobs if not as_json else ():
            waits = f"  after {', '.join(job['depends_on'])}" if job["depends_on"] else ""
            click.echo(f"{job['job_id']:<28} {job['type']}{waits}")
        return
    with Admin.connect(database_url(settings)) as admin:
        created = admin.client.submit_manifest(body, jobs)
        if not wait and output is None:
            print_json({"id": created, "jobs": len(jobs)}) if as_json else click.echo(str(created))
            return
        click.echo(f"Manifest {created}", err=True)
        Follower(Console(stderr=True), str((body.get("metadata") or {}).get("title") or "")).follow(
            admin, created
        )
        result = admin.manifest(created)
    if as_json:
        print_json({name: result[name] for name in ("id", "status", "output_url", "error_message")})
    if result["status"] != "done":
        raise click.ClickException(f"The manifest ended {result['status']}: {result['error_message']}")
    if output is not None:
        fetch_film(result["output_url"], output, settings)
        click.echo(f"Wrote {output}", err=True)
    if not as_json:
        click.echo(result["output_url"])
    sys.stdout.flush()
