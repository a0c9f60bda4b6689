"""`dreamcuts work`: a worker process."""

from __future__ import annotations

import click

from dreamcuts.cli.types import chosen_slots
from dreamcuts.config import Settings
from dreamcuts.errors import ConfigError
from dreamcuts.jobs.registry import load_job_types
from dreamcuts.log import known_secrets, setup_logging
from dreamcuts.processes import end_with_parent
from dreamcuts.providers.registry import provider_settings
from dreamcuts.reload import run_reloading, watched_paths
from dreamcuts.service import run_service


@click.command()
@click.option("--types", "-t", help="Job types, e.g. tts,music or tts:5,video:1. Default: all.")
@click.option("--concurrency", "-c", type=click.IntRange(1, 1000), help="Jobs at a time of each type.")
@click.option("--until-idle", is_flag=True, help="End when no job of these types is left to do.")
@click.option(
    "--shutdown-timeout",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long running jobs may go on after SIGTERM.",
)
@click.option("--log-level", type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False))
@click.option("--log-format", type=click.Choice(["text", "json"]))
@click.option(
    "--pooler/--no-pooler",
    default=None,
    help="DATABASE_URL leads to a pooler in transaction mode: no prepared statements, no LISTEN. "
    "Default: find out at the start.",
)
@click.option("--reload", is_flag=True, help="For development: restart when a file changes.")
@click.option("--with-parent", is_flag=True, hidden=True, help="End when stdin closes.")
def work(
    types: str | None,
    concurrency: int | None,
    until_idle: bool,
    shutdown_timeout: float,
    log_level: str | None,
    log_format: str | None,
    pooler: bool | None,
    reload: bool,
    with_parent: bool,
) -> None:
    """Run a worker: claim jobs and carry them out, until it is told to end.

    Any number may run, on any number of machines. SIGTERM or Ctrl-C lets running jobs finish within the
    shutdown timeout and then hands them back, the attempt not used up; a second one hands back at once.

    \b
        dreamcuts work                              all types, with their usual numbers
        dreamcuts work --types tts,music -c 3
        dreamcuts work --types tts:5,video:1 --log-format json
        dreamcuts work --reload                     while you write a job type
    """
    if with_parent:
        end_with_parent()
    settings = Settings.load()
    level, form = log_level or settings.log_level, log_format or settings.log_format
    setup_logging(level, form, known_secrets(settings))
    # Again, now that a plugin which does not load can be told of: the others bring secrets of their own.
    setup_logging(level, form, known_secrets(settings, provider_settings()))
    if until_idle and not settings.enable_workers:
        raise ConfigError(
            "ENABLE_WORKERS is false, so no job is claimed, and --until-idle would wait for ever. "
            "Unset the one or leave out the other."
        )
    known = load_job_types()
    slots = chosen_slots(types, concurrency, settings, known)
    if reload:
        context = click.get_current_context()
        context.exit(run_reloading(given_arguments(context), watched_paths(known.values())))
    run_service(
        settings,
        known,
        slots,
        until_idle=until_idle,
        shutdown_timeout=shutdown_timeout,
        pooled=pooler,
    )


def given_arguments(context: click.Context) -> list[str]:
    """The options that were given, as words, for a child process that runs the command without --reload."""
    words: list[str] = []
    for parameter in context.command.params:
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        if source is not click.core.ParameterSource.COMMANDLINE or name in ("reload", "with_parent"):
            continue
        value = context.params[name]
        if not isinstance(value, bool):
            words += [parameter.opts[0], str(value)]
        else:
            words.append(parameter.opts[0] if value else parameter.secondary_opts[0])
    return words
