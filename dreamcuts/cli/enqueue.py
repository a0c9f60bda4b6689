"""`dreamcuts enqueue`: one job."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import click
from pydantic import ValidationError

from dreamcuts.admin import Admin
from dreamcuts.cli.common import database_url, json_option, parse_json, print_json, read_json
from dreamcuts.cli.types import full_type_name
from dreamcuts.jobs.registry import load_job_types
from dreamcuts.wording import reason


@click.command()
@click.argument("type_name", metavar="TYPE")
@click.option("--payload", "-p", default="{}", help="JSON, @FILE with JSON, or - for stdin.")
@click.option("--manifest", "-m", help="The manifest that it belongs to.")
@click.option("--job-id", help="Its name in the manifest. Default: a new one.")
@click.option("--depends-on", "-d", multiple=True, metavar="JOB_ID", help="May be given more than once.")
@click.option("--priority", type=int, default=5, show_default=True, help="Higher is sooner.")
@click.option("--max-attempts", type=click.IntRange(1, 1000), default=3, show_default=True)
@click.option(
    "--delay", type=click.FloatRange(0), metavar="SECONDS", help="Not before so many seconds from now."
)
@json_option
def enqueue(
    type_name: str,
    payload: str,
    manifest: str | None,
    job_id: str | None,
    depends_on: tuple[str, ...],
    priority: int,
    max_attempts: int,
    delay: float | None,
    as_json: bool,
) -> None:
    """Add one job of TYPE to the queue, and print its id.

    \b
        dreamcuts enqueue tts --payload '{"text": "[excited] Hello!", "voiceId": "..."}'
        dreamcuts enqueue gen_image_falai --payload @lighthouse.json
    """
    body = _payload(payload)
    type_full = full_type_name(type_name)
    job_type = load_job_types().get(type_full)
    if job_type is None:
        click.echo(
            f"Note: no job type {type_name!r} is installed here; the job waits for a worker that serves it.",
            err=True,
        )
    else:
        try:
            job_type.payload_model.model_validate(body)
        except ValidationError as error:
            lines = [
                f"{'.'.join(str(part) for part in issue['loc']) or 'payload'}: {reason(issue)}"
                for issue in error.errors(include_url=False, include_input=False)
            ]
            raise click.ClickException(f"The payload does not fit {type_full}: {'; '.join(lines)}.") from None
    if depends_on and not manifest:
        raise click.UsageError("--depends-on names jobs of a manifest: give --manifest too.")
    with Admin.connect(database_url()) as admin:
        job = admin.client.enqueue(
            type_full,
            body,
            manifest_id=admin.find_manifest(manifest) if manifest else None,
            job_id=job_id,
            depends_on=depends_on,
            priority=priority,
            max_attempts=max_attempts,
            run_at=datetime.now(UTC) + timedelta(seconds=delay) if delay else None,
        )
    if as_json:
        print_json({"id": job, "type": type_full})
    else:
        click.echo(str(job))


def _payload(given: str) -> dict[str, Any]:
    if given == "-":
        value = read_json("-", "The payload")
    elif given.startswith("@"):
        value = read_json(given[1:], "The payload")
    else:
        value = parse_json(given, "--payload")
    if not isinstance(value, dict):
        raise click.UsageError(f"The payload must be a JSON object, not {type(value).__name__}.")
    return value
