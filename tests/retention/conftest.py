"""A queue whose jobs can have ended as long ago as a test likes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.retention.past import Past


@pytest.fixture
def past(connection: psycopg.Connection[Any]) -> Iterator[Past]:
    queue = Past(connection)
    yield queue
    assert queue.inconsistencies() == []
