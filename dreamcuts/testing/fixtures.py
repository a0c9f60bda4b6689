"""Fixtures for pytest. One line in the top conftest.py of a plugin's tests makes them known:

    pytest_plugins = ["dreamcuts.testing.fixtures"]

They are asked for, not forced on: DreamCuts registers no pytest plugin of its own, so that projects which
merely have it installed pay nothing for it when pytest starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dreamcuts.testing.database import scratch_database
from dreamcuts.testing.run import JobRun, run_job


@pytest.fixture
def dreamcuts_database() -> Iterator[str]:
    """The URL of a new database with the schema, dropped after the test."""
    with scratch_database() as dsn:
        yield dsn


@pytest.fixture
def run_dreamcuts_job(dreamcuts_database: str, tmp_path: Path) -> Callable[..., JobRun]:
    """`run_dreamcuts_job(MyJob(), payload, ...)`: as run_job, in the test's own database and `tmp_path`."""

    def run(job: Any, payload: dict[str, Any] | None = None, **options: Any) -> JobRun:
        return run_job(
            job, payload, **{"database": dreamcuts_database, "folder": tmp_path / "assets"} | options
        )

    return run
