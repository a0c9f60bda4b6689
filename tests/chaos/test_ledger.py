"""A judge of bills is no use if it passes an engine that pays twice: forged ledgers are shown to it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from tests.chaos.ledger import Cause, Judgement, Ledger, NamedBilling, Paid, judge

JOB = "g1_j1"
WORKER, OTHER = uuid4(), uuid4()
PIDS = {WORKER: 100, OTHER: 200}


def call(status: str, at: float, end: float, request: str | None = None, **more: Any) -> dict[str, Any]:
    """A row of the ledger, its times in seconds of the run."""
    return {
        "job_id": JOB, "provider": "fal", "claim": 1, "worker_id": WORKER, "status": status,
        "request_id": request, "created_at": when(at), "submitted_at": when(at + 0.1) if request else None,
        "finished_at": when(end), "error": None, **more,
    }  # fmt: skip


def when(at: float) -> datetime:
    return datetime.fromtimestamp(1_000_000 + at, UTC)


def cause(kind: str, at: float, until: float = 0.0, **to: Any) -> Cause:
    return Cause(kind, 1_000_000 + at, 1_000_000 + (until or at), **to)


def bills(*requests: str, provider: str = "fal") -> list[Paid]:
    return [Paid(provider, request, JOB) for request in requests]


KILLED = cause("kill", 10.0, pid=100)
LOST = call("unknown", 9.9, 14)
AGAIN = call("succeeded", 14, 17, "r2", claim=2, worker_id=OTHER)
TWICE = Ledger(bills("r1", "r2"), [LOST, AGAIN], {JOB: "completed"}, PIDS, [KILLED])
"""Killed between the submit and the storing of its id: the one window that remains."""


def violations(found: Judgement) -> int:
    return len(found.unpaid_or_twice) + len(found.given_up)


def test_one_bill_for_one_job_is_fine() -> None:
    assert violations(judge(replace(TWICE, bills=bills("r2"), calls=[AGAIN], causes=[]))) == 0


def test_a_second_bill_is_explained_by_a_kill_before_the_id_was_known() -> None:
    found = judge(TWICE)
    assert (violations(found), found.explained) == (0, {"kill": 1})


def test_an_open_call_that_is_not_picked_up_is_found_out() -> None:
    """What an engine writes that never picks a call up: closed as `unknown`, with its id, and paid again."""
    given_up = call("unknown", 9.0, 14, "r1", error="no step of the job's chain makes this call any more")
    for causes in ([], [KILLED], [KILLED, cause("request dropped", 9.0, provider="fal")]):
        found = judge(replace(TWICE, calls=[given_up, AGAIN], causes=causes))
        assert len(found.unpaid_or_twice) == 1 and len(found.given_up) == 1


@pytest.mark.parametrize(
    "causes",
    [
        pytest.param([], id="nothing happened"),
        pytest.param([replace(KILLED, pid=200)], id="another process was killed"),
        pytest.param([cause("kill", 20, pid=100)], id="killed after the call was given up"),
        pytest.param([cause("kill", 5, pid=100)], id="killed before the call began"),
        pytest.param([cause("operator_release", 10, job_id="g1_j2")], id="another job was released"),
        pytest.param([cause("request dropped", 10, provider="shotstack")], id="another provider's answer"),
        pytest.param([cause("postgres_crash", 9, 12)], id="an outage, through which the id is kept"),
    ],
)  # fmt: skip
def test_a_second_bill_without_a_cause_of_its_own_is_found_out(causes: list[Cause]) -> None:
    assert judge(replace(TWICE, causes=causes)).unpaid_or_twice


def test_a_kill_long_after_the_submit_explains_nothing() -> None:
    """The id should have been there by then; unless Postgres was away, and the worker still had it."""
    forgotten = [call("unknown", 3, 14), AGAIN]
    killed = cause("kill", 13, pid=100)
    assert violations(judge(replace(TWICE, calls=forgotten, causes=[killed]))) == 2
    found = judge(replace(TWICE, calls=forgotten, causes=[killed, cause("postgres_crash", 4, 12)]))
    assert violations(found) == 0


def test_a_third_bill_is_one_too_many() -> None:
    found = judge(replace(TWICE, bills=bills("r1", "r2", "r3")))
    assert found.unpaid_or_twice == ["g1_j1 was billed 3 times; 1 of its calls were lost by a fault"]


def test_one_lost_answer_explains_one_call() -> None:
    calls = [LOST, call("unknown", 10.2, 14), AGAIN]
    dropped = cause("request dropped", 10, provider="fal")
    ledger = replace(TWICE, bills=bills("r1", "r1b", "r2"), calls=calls)
    assert violations(judge(replace(ledger, causes=[dropped]))) == 2
    assert violations(judge(replace(ledger, causes=[dropped, replace(dropped, at=dropped.at + 0.3)]))) == 0


def test_an_id_that_came_after_its_call_was_closed_was_not_known() -> None:
    """A worker that was stopped in the middle of its submit and went on when its job was another's."""
    late = call("unknown", 9.9, 14, "r1", submitted_at=when(14.5))
    stopped = cause("stop_long", 10, 14.5, pid=100)
    found = judge(replace(TWICE, calls=[late, AGAIN], causes=[stopped]))
    assert (violations(found), found.explained) == (0, {"stop_long": 1})
    assert violations(judge(replace(TWICE, calls=[late, AGAIN], causes=[]))) == 2


def test_a_lost_call_of_a_cancelled_job_may_have_its_id() -> None:
    closed = call("unknown", 9, 14, "r1", provider="shotstack", error="the job was cancelled")
    ledger = Ledger(bills("r1", provider="shotstack"), [closed], {JOB: "cancelled"}, PIDS)
    assert violations(judge(ledger)) == 0


def test_a_direct_call_is_paid_again_where_its_claim_was_lost_and_not_else() -> None:
    first = call("succeeded", 9, 10, provider="elevenlabs")
    second = call("succeeded", 14, 15, provider="elevenlabs", claim=2, worker_id=OTHER)
    ledger = replace(TWICE, bills=bills("r1", "r2", provider="elevenlabs"), calls=[first, second])
    assert violations(judge(ledger)) == 0
    assert violations(judge(replace(ledger, causes=[], stalled=frozenset({(JOB, 1)})))) == 0
    assert violations(judge(replace(ledger, causes=[cause("cut_all", 11, 12)]))) == 0
    assert violations(judge(replace(ledger, causes=[]))) == 2


def test_a_result_without_a_bill_and_a_bill_without_a_job_are_found_out() -> None:
    assert judge(replace(TWICE, bills=[])).unpaid_or_twice == ["g1_j1 has a result, and no bill"]
    for stranger in (None, "g9_j9"):
        found = judge(replace(TWICE, bills=[*bills("r1", "r2"), Paid("fal", "r9", stranger)]))
        assert found.unpaid_or_twice == ["bill fal r9 belongs to no job"]


def test_a_bill_is_known_by_the_job_that_its_body_names() -> None:
    billing = NamedBilling()
    for number, body in enumerate((b'{"prompt": "a lantern, for-g12_j3, beside g7_j1"}', b"{}")):
        billing.record("fal", "model", f"r{number}", units=1, unit="image", usd=0, body=body)
    assert billing.paid() == [Paid("fal", "r0", "g12_j3"), Paid("fal", "r1", None)]
