"""Limits for all workers together: exact under contention, free where there are none."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.money.conftest import LIMIT, Ledger, refused
from tests.support import DEADLINE_S, Blocked, Held

THREADS = 12


def at_once(dsn: str, worker: UUID, held: list[Held], **call: Any) -> list[str]:
    """Begin one call for each job, all at the same moment; returns "begun" or the SQLSTATE of each."""
    barrier = threading.Barrier(len(held))

    def one(job: Held) -> str:
        with psycopg.connect(dsn, autocommit=True) as connection:
            barrier.wait(30)
            try:
                Ledger(connection).begin(worker, job, **call)
            except psycopg.Error as error:
                return str(error.sqlstate)
            return "begun"

    with ThreadPoolExecutor(len(held)) as pool:
        return sorted(pool.map(one, held))


@pytest.mark.parametrize("limits", [{"maxConcurrent": 5}, {"maxPerMinute": 5}])
def test_many_workers_at_once_never_exceed_a_limit(
    ledger: Ledger, database: str, limits: dict[str, int]
) -> None:
    ledger.limit(**limits)
    worker, held = ledger.held(THREADS)

    assert at_once(database, worker, held) == [LIMIT] * (THREADS - 5) + ["begun"] * 5


def test_an_endpoint_has_its_own_limit_under_contention(ledger: Ledger, database: str) -> None:
    ledger.limit(endpoint="veo", maxConcurrent=3)
    worker, held = ledger.held(THREADS)

    assert at_once(database, worker, held, endpoint="veo") == [LIMIT] * (THREADS - 3) + ["begun"] * 3
    ledger.begin(worker, held[0], endpoint="flux")


def test_calls_that_come_and_go_never_exceed_the_limit(ledger: Ledger, database: str) -> None:
    ledger.limit(maxConcurrent=3)
    worker, held = ledger.held(8)
    lock, under_way, most = threading.Lock(), 0, 0

    def busy(job: Held) -> None:
        nonlocal under_way, most
        with psycopg.connect(database, autocommit=True) as connection:
            mine = Ledger(connection)
            deadline, begun = time.monotonic() + DEADLINE_S, 0
            while begun < 10:
                assert time.monotonic() < deadline, f"only {begun} calls got through"
                try:
                    call = mine.begin(worker, job)
                except psycopg.Error as error:
                    assert error.sqlstate == LIMIT
                    continue
                begun += 1
                with lock:
                    under_way += 1
                    most = max(most, under_way)
                mine.submitted(call)
                with lock:
                    under_way -= 1
                mine.close(call, usd=0.01)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(busy, held))

    assert most <= 3
    found = ledger.value(
        "select max(least_overlap.calls) from dreamcut_provider_calls call cross join lateral ("
        " select count(*) as calls from dreamcut_provider_calls other"
        " where other.created_at <= call.created_at and other.finished_at > call.created_at) least_overlap"
    )
    assert found <= 3


def test_the_second_call_waits_for_the_first_ones_transaction(ledger: Ledger, database: str) -> None:
    """What makes it exact: the provider's row is locked until the call can be seen. Without, both begin."""
    ledger.limit(maxConcurrent=1)
    worker, (one, two) = ledger.held(2)
    with psycopg.connect(database) as open_transaction:
        Ledger(open_transaction).begin(worker, one)
        with Blocked(database, lambda queue: Ledger(queue.connection).begin(worker, two)) as second:
            open_transaction.commit()
            with refused(LIMIT):
                second.result()


def test_without_a_row_nothing_is_locked_and_nothing_waits(ledger: Ledger, database: str) -> None:
    ledger.limit("elevenlabs", maxConcurrent=1)
    worker, (one, two) = ledger.held(2)
    with psycopg.connect(database) as open_transaction:
        Ledger(open_transaction).begin(worker, one)
        ledger.run("set lock_timeout = '2s'")
        ledger.begin(worker, two)
        locks = open_transaction.execute(
            "select count(*) from pg_locks where pid = pg_backend_pid() and mode like 'Row%%'"
            " and relation = 'dreamcut_providers'::regclass and mode <> 'AccessShareLock'"
        ).fetchone()
    assert locks == (0,)


def test_a_refusal_says_which_limit_and_how_long_to_wait(ledger: Ledger) -> None:
    ledger.limit(maxConcurrent=1)
    worker, (held,) = ledger.held(1)
    call = ledger.begin(worker, held)
    with refused(LIMIT) as concurrent:
        ledger.begin(worker, held)
    assert (concurrent["provider"], concurrent["reason"], concurrent["limit"]) == ("fal", "concurrent", 1)
    assert concurrent["message"] == "fal is at its limit of 1 calls at a time"

    ledger.close(call)
    ledger.limit(maxConcurrent=None, maxPerMinute=2)
    ledger.later(30)
    ledger.begin(worker, held)
    with refused(LIMIT) as minute:
        ledger.begin(worker, held)
    assert minute["reason"] == "per_minute" and 15 < minute["wait_s"] <= 30
    ledger.later(31)
    ledger.begin(worker, held)


def test_limits_change_while_calls_are_under_way(ledger: Ledger) -> None:
    worker, (held,) = ledger.held(1)
    for _ in range(3):
        ledger.begin(worker, held)
    ledger.limit(maxConcurrent=2)
    with refused(LIMIT):
        ledger.begin(worker, held)
    ledger.limit(maxConcurrent=4)
    ledger.begin(worker, held)
    ledger.limit(maxConcurrent=None)
    ledger.begin(worker, held)


def test_a_closed_call_makes_room_whatever_its_outcome(ledger: Ledger) -> None:
    ledger.limit(maxConcurrent=1)
    worker, (held,) = ledger.held(1)
    for status in ("succeeded", "failed", "cancelled", "unknown"):
        ledger.close(ledger.begin(worker, held), status)
    ledger.submitted(ledger.begin(worker, held))
    with refused(LIMIT):
        ledger.begin(worker, held)


@pytest.mark.parametrize("limits", [{"maxConcurrent": -1}, {"maxPerMinute": 0}, {"dailyLimitUsd": -0.01}])
def test_a_negative_limit_is_refused_by_the_database_too(ledger: Ledger, limits: dict[str, Any]) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        ledger.limit(**limits)


def test_an_unknown_limit_is_refused_with_the_known_ones(ledger: Ledger) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="maxPerHour") as caught:
        ledger.limit(maxPerHour=3)
    assert "maxPerMinute" in (caught.value.diag.message_hint or "")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="dailyLimitUsd"):
        ledger.limit(endpoint="veo", dailyLimitUsd=3)


# Slow-down


def slowed(ledger: Ledger, count: int) -> tuple[UUID, Held, list[UUID]]:
    """Calls under way, one of which was answered with 429."""
    worker, (held,) = ledger.held(1)
    calls = [ledger.begin(worker, held) for _ in range(count)]
    ledger.close(calls[0], "failed", error_class="rate_limited")
    return worker, held, calls[1:]


def test_a_429_halves_the_lane_from_what_was_under_way(ledger: Ledger) -> None:
    worker, held, calls = slowed(ledger, 8)
    assert (ledger.provider()["state"], ledger.provider()["concurrent_now"]) == ("slowed", 4)
    with refused(LIMIT) as info:
        ledger.begin(worker, held)
    assert info["limit"] == 4
    for call in calls[:4]:
        ledger.close(call)
    ledger.begin(worker, held)
    with refused(LIMIT):
        ledger.begin(worker, held)


def test_calls_that_were_sent_together_slow_it_down_once(ledger: Ledger) -> None:
    worker, held, calls = slowed(ledger, 8)
    for call in calls[:5]:
        ledger.close(call, "failed", error_class="rate_limited")
    assert ledger.provider()["concurrent_now"] == 4
    ledger.close(ledger.begin(worker, held), "failed", error_class="rate_limited")
    assert ledger.provider()["concurrent_now"] == 1


def test_it_recovers_by_one_call_a_minute_until_there_is_no_limit_again(ledger: Ledger) -> None:
    worker, held, calls = slowed(ledger, 8)
    for call in calls:
        ledger.close(call)
    for minutes in (1, 2, 3):
        ledger.later(60)
        assert ledger.provider()["concurrent_now"] == 4 + minutes
    ledger.later(60)
    assert (ledger.provider()["state"], ledger.provider()["concurrent_now"]) == ("ok", None)
    for _ in range(12):
        ledger.begin(worker, held)
    assert ledger.value("select slowed_at from dreamcut_providers") is None


def test_it_recovers_to_the_limit_that_was_set(ledger: Ledger) -> None:
    ledger.limit(maxConcurrent=6)
    worker, held, _ = slowed(ledger, 6)
    assert ledger.provider()["concurrent_now"] == 3
    ledger.later(3600)
    assert (ledger.provider()["state"], ledger.provider()["concurrent_now"]) == ("ok", 6)
    ledger.begin(worker, held)
    with refused(LIMIT):
        ledger.begin(worker, held)
