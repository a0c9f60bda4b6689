"""`dreamcuts dashboard`: the dashboard without a worker."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import click

from dreamcuts.config import Settings
from dreamcuts.db.migrate import status
from dreamcuts.log import known_secrets, setup_logging


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8090,
    show_default=True,
    help="0 lets the system choose one.",
)
def dashboard(host: str, port: int) -> None:
    """Serve the dashboard: how the queue stands, each film as a graph of jobs, and what failed.

    Any worker with ENABLE_HEALTH_CHECK=true serves it, too, at /dashboard. It is read-only, unless
    DASHBOARD_TOKEN is set: whoever signs in with that token may retry, cancel, pause and resume. It shows
    payloads to everybody who reaches it, so put it behind a proxy of yours before you open it to a network.
    """
    from dreamcuts.server.alone import dashboard_server

    settings = Settings.load()
    setup_logging(settings.log_level, settings.log_format, known_secrets(settings))
    status(settings.secret("DATABASE_URL")).check()
    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ended.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    with dashboard_server(settings, host, port) as address:
        click.echo(f"The dashboard is on {address}")
        ended.wait()
