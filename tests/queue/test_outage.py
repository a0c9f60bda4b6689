"""What counts as an outage: the database is away, not somebody's lock or an operator's cancel."""

from __future__ import annotations

import math

import asyncpg
import pytest

from dreamcuts.db.pool import CONTENTION_ERRORS, RETRY_ERRORS
from dreamcuts.queue.outage import Outage


@pytest.mark.parametrize("error", CONTENTION_ERRORS)
def test_an_answer_is_no_outage(error: type[Exception], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    outage = Outage()
    outage.failed(error("held by somebody"))
    assert outage.seconds_since() == math.inf
    assert "does not answer" not in caplog.text and "held by somebody" in caplog.text
    assert error in RETRY_ERRORS


def test_an_outage_is_told_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage()
    for error in (ConnectionRefusedError("no"), asyncpg.ReadOnlySQLTransactionError("a standby")):
        outage.failed(error)
    assert outage.seconds_since() == 0
    outage.ended()
    outage.ended()
    assert 0 < outage.seconds_since() < math.inf
    assert [line.count("The database") for line in caplog.messages] == [1, 1]
