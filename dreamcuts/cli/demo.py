"""`dreamcuts demo`: a whole video on this machine."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType

import click
from rich.console import Console

from dreamcuts.cli.common import read_object
from dreamcuts.config import Settings


@click.command()
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("out/demo.mp4"),
    show_default=True,
)
@click.option("--manifest", "manifest_file", help="Another manifest than the example's.")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".data"),
    show_default=True,
    help="Where the embedded Postgres and the logs are kept.",
)
def demo(output: Path, manifest_file: str | None, data: Path) -> None:
    """Make a whole video on this machine: no account, no key, no network.

    Starts a Postgres of its own (or uses DATABASE_URL), local stand-ins of the providers and two workers,
    submits the example's manifest and writes the film. Ctrl-C ends it all.
    """
    from dreamcuts.demo import examples_folder, run_demo

    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    settings = Settings.load()
    body = read_object(manifest_file or str(examples_folder() / "demo.json"), "The manifest")
    database = settings.secret("DATABASE_URL") if settings.has("DATABASE_URL") else None
    console = Console(highlight=False)
    result = run_demo(body, output.absolute(), data.absolute(), console, database)
    attempts = sum(job["attempts"] for job in result.jobs)
    console.print()
    console.print(
        f"[bold green]{output}[/] is ready: {result.film_seconds:g} s of film, {result.size / 1e6:.1f} MB",
        soft_wrap=True,
    )
    console.print(
        f"{len(result.jobs)} jobs in {attempts} attempts, {result.seconds:.1f} s in all. "
        f"The real providers would have billed about ${result.cost_usd:.2f}.",
        soft_wrap=True,
    )


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
