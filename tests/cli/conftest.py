"""Running the CLI inside the test process, with the settings that a test gives it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import click.testing
import pytest

from dreamcuts.cli import cli

Run = Callable[..., click.testing.Result]


@pytest.fixture
def run() -> Iterator[Run]:
    """`run("jobs", "list", input=..., DATABASE_URL=...)` gives exit_code, stdout and stderr."""

    def invoke(*arguments: str, input: str | None = None, **environment: str) -> click.testing.Result:
        runner = click.testing.CliRunner(env=environment)
        return runner.invoke(cli, list(arguments), input=input, prog_name="dreamcuts")

    yield invoke


@pytest.fixture
def here(run: Run, database: str) -> Run:
    """As `run`, on the test's own database."""

    def invoke(*arguments: str, input: str | None = None, **environment: str) -> click.testing.Result:
        return run(*arguments, input=input, **{"DATABASE_URL": database, **environment})

    return invoke
