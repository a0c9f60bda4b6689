"""The `dreamcuts` command. A command's module is imported when it is used, so that help is instant."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from dreamcuts import __version__
from dreamcuts.cli.failures import explain

_COMMANDS = {
    # name: (module:attribute, what `dreamcuts --help` says of it)
    "demo": ("dreamcuts.cli.demo:demo", "Make a whole video on this machine, without any account."),
    "work": ("dreamcuts.cli.work:work", "Run a worker: claim jobs and carry them out."),
    "submit": ("dreamcuts.cli.submit:submit", "Submit a manifest and its jobs."),
    "enqueue": ("dreamcuts.cli.enqueue:enqueue", "Add one job to the queue."),
    "jobs": ("dreamcuts.cli.jobs:jobs", "Look at jobs, follow them, and change them."),
    "manifests": ("dreamcuts.cli.manifests:manifests", "Look at manifests, follow them, and change them."),
    "workers": ("dreamcuts.cli.workers:workers", "List, drain, restart and scale workers anywhere."),
    "top": ("dreamcuts.cli.top:top", "Show the queue and its workers live."),
    "providers": ("dreamcuts.cli.providers:providers", "List, limit, pause, resume and test providers."),
    "costs": ("dreamcuts.cli.costs:costs", "Show what calls to providers cost."),
    "db": ("dreamcuts.cli.db:db", "Bring the schema up to date; archive and prune."),
    "doctor": ("dreamcuts.cli.doctor:doctor", "Check everything that a worker needs, with the way out."),
    "dashboard": ("dreamcuts.cli.dashboard:dashboard", "Serve the dashboard."),
    "bench": ("dreamcuts.cli.bench:bench", "Measure what a database server can do."),
    "sandbox": ("dreamcuts.cli.sandbox:sandbox", "Run local stand-ins of the providers."),
}


class _Commands(click.Group):
    """Loads a command when it is named, and turns errors into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.ClickException, click.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(130)
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            message, code = explain(error)
            click.echo(f"Error: {message}", err=True)
            ctx.exit(code)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Settings come from the environment and from .env.local; DATABASE_URL says where the queue is.",
)
@click.version_option(__version__, message="dreamcuts %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """DreamCuts: a job queue in Postgres that turns a manifest into a finished video.

    \b
    New here?    dreamcuts demo
    For real:    export DATABASE_URL=postgresql://...
                 dreamcuts db migrate
                 dreamcuts work &
                 dreamcuts submit manifest.json --wait --output film.mp4
    """


def main() -> None:
    """Run the command line; never returns. Exit codes: 0 done, 1 failed, 2 usage or settings."""
    sys.exit(cli(prog_name="dreamcuts"))
