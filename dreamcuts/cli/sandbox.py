"""`dreamcuts sandbox`: the providers' stand-ins, in the foreground."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dreamcuts.cli.common import json_option
from dreamcuts.errors import ConfigError
from dreamcuts.processes import end_with_parent

if TYPE_CHECKING:  # for its cost: it brings the media tools
    from dreamcuts.sandbox import Sandbox


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Default: a free one.")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep what is made here. Default: thrown away.",
)
@click.option("--speed", type=click.FloatRange(0.01, 1000), default=1.0, help="Shorten simulated waiting.")
@click.option("--with-parent", is_flag=True, hidden=True, help="End when stdin closes.")
@json_option
def sandbox(port: int, folder: Path | None, speed: float, with_parent: bool, as_json: bool) -> None:
    """Run local stand-ins of ElevenLabs, fal, Shotstack and Supabase Storage until Ctrl-C.

    They speak the real wire formats, make real media and cost nothing. The lines that it prints point a
    worker in another shell to them:

    \b
        dreamcuts sandbox > sandbox.env &
        source sandbox.env
        dreamcuts work
    """
    import anyio

    try:
        from dreamcuts.sandbox import serve
    except ImportError as error:
        raise ConfigError(
            f"The sandbox's parts are not installed ({error.name} is missing). "
            "Install them with `pip install 'dreamcuts[demo]'`."
        ) from None

    def ready(running: Sandbox) -> None:
        environment = running.environment()
        if as_json:
            click.echo(json.dumps(environment))
        else:
            for name, value in environment.items():
                click.echo(f"export {name}={shlex.quote(value)}")
        sys.stdout.flush()
        if not as_json:
            click.echo(f"The sandbox answers at {running.url}; Ctrl-C ends it.", err=True)

    if with_parent:
        end_with_parent()

    async def run() -> None:
        await serve(port=port, folder=folder, speed=speed, on_ready=ready)

    try:
        anyio.run(run)
    except OSError as error:
        raise ConfigError(
            f"The sandbox cannot listen on port {port}: {error.strerror}. Choose another --port."
        ) from None
