"""Who was paid for what: the sandbox's bills against the ledger's rows, and against the causes known to us.

Nothing is taken on trust here. A bill belongs to the job that its body names. A second one for a job is
explained by a call that is `unknown`, and only if nobody could know its request's id, and only if something
that was done to that very process, job or request tells why. So an engine that forgets to pick a request up
is found out: its calls are `unknown` too, but their ids are stored.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from dreamcuts.sandbox.billing import Bill, Billing

DIRECT = ("elevenlabs",)
"""Providers that answer in the request itself: there is no id to store, and nothing to pick up."""
SUBMIT_S = 5.0
"""A submission is over by then, also on a busy machine and with a delay of ours."""
SLACK_S = 0.5
"""Between a fault and the moment at which it was written down."""
OUTAGES = ("postgres_crash", "cut_all", "cut_one")
MARK = re.compile(rb"\bfor-(g\d+_j\d+)\b")
"""plan.marked() in a body; an edit also holds the names of other jobs, whose files it is made of."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Something that was done: to a process (`pid`), to a job, to a request at a provider, or to Postgres."""

    kind: str
    at: float
    until: float = 0.0
    pid: int | None = None
    job_id: str | None = None
    provider: str | None = None

    def meets(self, begin: float, end: float) -> bool:
        """Whether it fell into that time."""
        return self.at <= end + SLACK_S and max(self.at, self.until) >= begin - SLACK_S


@dataclass(frozen=True, slots=True)
class Paid:
    """A bill, and the job that its request's body names."""

    provider: str
    request_id: str
    job_id: str | None


class NamedBilling(Billing):
    """The sandbox's bills, each with the job that the billed body names."""

    def __init__(self) -> None:
        super().__init__()
        self._names: dict[str, str] = {}

    def record(self, provider: str, endpoint: str, request_id: str, **bill: Any) -> Bill:
        found = MARK.search(bill.get("body", b""))
        if found:
            self._names[request_id] = found[1].decode()
        return super().record(provider, endpoint, request_id, **bill)

    def paid(self) -> list[Paid]:
        return [
            Paid(bill.provider, bill.request_id, self._names.get(bill.request_id)) for bill in self.bills()
        ]


@dataclass(frozen=True)
class Ledger:
    """All that the judge looks at. `calls` are rows of dreamcut_provider_calls, `jobs` the paid jobs' status.

    `pids` tells the process of each incarnation, `stalled` the claims (job_id, number) whose lease was over.
    """

    bills: Sequence[Paid]
    calls: Sequence[Mapping[str, Any]]
    jobs: Mapping[str, str]
    pids: Mapping[UUID, int]
    causes: Sequence[Cause] = ()
    stalled: frozenset[tuple[str, int]] = frozenset()


@dataclass
class Judgement:
    """`explained` counts the calls that were lost by kind of cause; the others are violations."""

    explained: Counter[str] = field(default_factory=Counter)
    unpaid_or_twice: list[str] = field(default_factory=list)
    given_up: list[str] = field(default_factory=list)


def judge(ledger: Ledger) -> Judgement:
    """Compare bills, calls and causes."""
    verdict = Judgement()
    may_pay_again: Counter[str] = Counter()
    left = [cause for cause in ledger.causes if cause.provider]
    for call, end in _without_known_end(ledger):
        name = call["job_id"]
        cause = _cause(ledger, call, end, left)
        if cause is None:
            verdict.given_up.append(
                f"{call['provider']} call of {name} (claim {call['claim']}, request {call['request_id']}) is"
                f" {call['status']}, and nothing explains it: {call['error']}"
            )
            continue
        if cause.provider:
            left.remove(cause)  # one fault hits one request
        verdict.explained[cause.kind] += 1
        # While Postgres is away a worker keeps the id in memory: an outage alone costs no second request.
        if cause.kind not in OUTAGES or call["provider"] in DIRECT:
            may_pay_again[name] += 1
    paid = Counter(bill.job_id for bill in ledger.bills)
    for bill in ledger.bills:
        if bill.job_id not in ledger.jobs:
            verdict.unpaid_or_twice.append(f"bill {bill.provider} {bill.request_id} belongs to no job")
    verdict.unpaid_or_twice += [
        f"{name} was billed {times} times; {may_pay_again[name]} of its calls were lost by a fault"
        for name, times in paid.items()
        if name in ledger.jobs and times > 1 + may_pay_again[name]
    ]
    verdict.unpaid_or_twice += [
        f"{name} has a result, and no bill"
        for name, status in ledger.jobs.items()
        if status == "completed" and not paid[name]
    ]
    return verdict


def _without_known_end(ledger: Ledger) -> list[tuple[Mapping[str, Any], float]]:
    """Calls after which their job went on without what they made, and until when a fault explains that.

    Of a cancelled job a call may well be closed although its id is known: nobody waits for what it makes.
    """
    found = []
    later: dict[str, float] = {}
    for call in sorted(ledger.calls, key=lambda call: call["created_at"], reverse=True):
        name = call["job_id"]
        begin = _seconds(call["created_at"])
        closed = _seconds(call["finished_at"]) if call["finished_at"] else begin
        if call["status"] == "unknown" and (is_lost(call) or ledger.jobs.get(name) != "cancelled"):
            found.append((call, closed))
        elif call["status"] == "succeeded" and call["provider"] in DIRECT and name in later:
            found.append((call, later[name]))  # made, and lost before it was the job's outcome
        later[name] = begin
    return found[::-1]


def is_lost(call: Mapping[str, Any]) -> bool:
    """Whether nobody knew the id of the request when the call was closed: it is not there, or came later."""
    if call["request_id"] is None:
        return True
    return bool(call["submitted_at"] and call["finished_at"] and call["submitted_at"] > call["finished_at"])


def _cause(ledger: Ledger, call: Mapping[str, Any], end: float, requests: Sequence[Cause]) -> Cause | None:
    """What was done to this call: to its request, its process, its job; at last to Postgres."""
    direct = call["provider"] in DIRECT
    if not direct and not is_lost(call):
        return None  # its id was stored: whoever claimed the job next could have picked it up
    begin = _seconds(call["created_at"])
    pid = ledger.pids.get(call["worker_id"])
    outages = [cause for cause in ledger.causes if cause.kind in OUTAGES and cause.meets(begin, end)]
    if not direct and not outages:
        end = min(end, begin + SUBMIT_S)  # by then its id is stored, unless Postgres is away
    if call["status"] == "unknown":
        for cause in sorted(requests, key=lambda cause: abs(cause.at - begin)):
            if cause.provider == call["provider"] and cause.meets(begin, end):
                return cause
    for cause in ledger.causes:
        mine = (cause.pid is not None and cause.pid == pid) or cause.job_id == call["job_id"]
        if mine and not cause.provider and cause.meets(begin, end):
            return cause
    if direct and (call["job_id"], call["claim"]) in ledger.stalled:
        return Cause("lease over", begin)
    return outages[0] if outages else None


def _seconds(at: datetime) -> float:
    return at.timestamp()
