"""What must be true after a chaos run, whatever happened in it; each with a figure.

The queue is not believed: a trigger of the harness notes every change of a job's status, and of an outcome
that was written, and the sandbox counts for itself what it billed (ledger.py compares).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.chaos.jobtypes import STEP
from tests.chaos.ledger import Cause, Judgement, Ledger, Paid, judge
from tests.chaos.plan import ATTEMPTS
from tests.support import Queue

WITNESS = """
create table chaos_changes (
    seq     bigint generated always as identity primary key,
    job     uuid not null,
    was     text not null,
    became  text not null,
    worker  uuid,
    claim   int not null,
    unmet   int not null,
    at      timestamptz not null default clock_timestamp()
);

create function chaos_note() returns trigger language plpgsql as $$
begin
    insert into chaos_changes (job, was, became, worker, claim, unmet)
    select new.id, old.status, new.status, coalesce(new.worker_id, old.worker_id), new.claims,
        case when new.status = 'processing' then (
            select count(*)
            from unnest(new.depends_on) as needed
            left join dreamcut_jobs cause on cause.manifest_id = new.manifest_id and cause.job_id = needed
            where cause.status is null
                or cause.status in ('pending', 'processing')
                or cause.status <> 'completed'
                    and new.metadata ->> 'onDependencyFailure' is distinct from 'run'
        ) else 0 end;
    return null;
end $$;

create trigger chaos_witness after update on dreamcut_jobs
for each row when (
    old.status is distinct from new.status
    -- What has ended must not change any more, be it only its result.
    or old.completed_at is not null and (
        old.result is distinct from new.result
        or old.output_url is distinct from new.output_url
        or old.error_class is distinct from new.error_class
        or old.error_message is distinct from new.error_message
        or old.completed_at is distinct from new.completed_at
        or old.processing_time_ms is distinct from new.processing_time_ms
        or old.attempts is distinct from new.attempts
        or old.claims is distinct from new.claims
    )
)
execute function chaos_note();
"""
"""Made in the database of a run before its jobs."""


@dataclass(frozen=True)
class Verdict:
    """An invariant: how often it was looked at, and every violation."""

    name: str
    looked_at: int
    violations: list[str]


def check(
    queue: Queue, bills: Sequence[Paid], causes: Sequence[Cause], jobs: int, cancelled: set[str]
) -> tuple[list[Verdict], Judgement]:
    """Look at everything. `cancelled` are the job_ids that the harness itself cancelled."""
    rows = queue.rows("select *, manifest_id::text as manifest from dreamcut_jobs")
    ledger = read_ledger(queue, bills, causes)
    judgement = judge(ledger)
    open_calls = [f"{call['job_id']}: {call['status']}" for call in ledger.calls if not call["finished_at"]]
    verdicts = [
        _accounted(queue, rows, jobs),
        _ended_with_a_reason(rows, cancelled),
        _written_once(queue),
        _claims_are_whole(queue, rows),
        _order(queue, rows),
        Verdict("counters equal recomputed ones", len(rows), [str(row) for row in queue.inconsistencies()]),
        _no_dead_worker(queue),
        _deploys(queue, causes),
        Verdict("billed requests = jobs + explained retries", len(bills), judgement.unpaid_or_twice),
        Verdict("every lost call has its cause", len(ledger.calls), judgement.given_up),
        Verdict("no call is left open", len(ledger.calls), open_calls),
    ]
    return verdicts, judgement


def read_ledger(queue: Queue, bills: Sequence[Paid], causes: Sequence[Cause]) -> Ledger:
    """What ledger.py judges, out of the database."""
    jobs = queue.rows("select job_id, status from dreamcut_jobs where type <> %s", STEP)
    stalled = queue.rows(
        "select job.job_id, attempt.claim from dreamcut_job_attempts attempt"
        " join dreamcut_jobs job on job.id = attempt.job where attempt.error_class = 'stalled'"
    )
    return Ledger(
        bills=bills,
        calls=queue.rows("select * from dreamcut_provider_calls order by created_at"),
        jobs={row["job_id"]: row["status"] for row in jobs},
        pids={row["id"]: row["pid"] for row in queue.rows("select id, pid from dreamcut_workers")},
        causes=causes,
        stalled=frozenset((row["job_id"], row["claim"]) for row in stalled),
    )


def _accounted(queue: Queue, rows: list[dict[str, Any]], jobs: int) -> Verdict:
    open_jobs = queue.rows("select * from dreamcut_job_states where completed_at is null")
    wrong = [f"{row['job_id']} is {row['state']}: {row['reason']}" for row in open_jobs]
    if len(rows) != jobs:
        wrong.append(f"{jobs} jobs were inserted, {len(rows)} are there")
    return Verdict("every job has ended", len(rows), wrong)


def _ended_with_a_reason(rows: list[dict[str, Any]], cancelled: set[str]) -> Verdict:
    status = {(row["manifest"], row["job_id"]): row["status"] for row in rows}
    wrong = []
    for row in rows:
        causes = [status.get((row["manifest"], name)) for name in row["depends_on"]]
        reason = row["error_class"]
        match row["status"]:
            case "completed":
                fine = reason is None and row["result"] is not None
                fine = fine and (row["type"] != STEP or row["result"]["claim"] == row["claims"])
            case "failed":
                fine = reason == "invalid_request" if row["attempts"] < ATTEMPTS else reason is not None
            case "cancelled":
                fine = (
                    any(cause in ("failed", "cancelled") for cause in causes)
                    if reason == "dependency_failed"
                    else reason == "cancelled" and row["job_id"] in cancelled
                )
            case _:
                fine = True  # reported as not ended
        if not fine:
            wrong.append(f"{row['job_id']} {row['status']}: {reason} {row['error_message']} {row['result']}")
    return Verdict("every end has its reason", len(rows), wrong)


def _written_once(queue: Queue) -> Verdict:
    ends = queue.rows(
        "select job, claim, count(*) as ends, array_agg(became) as became from chaos_changes"
        " where became in ('completed', 'failed', 'cancelled') group by job, claim"
    )
    wrong = [f"{row['job']} ended {row['ends']} times: {row['became']}" for row in ends if row["ends"] > 1]
    again = queue.rows(
        "select job, was, became from chaos_changes where was in ('completed', 'failed', 'cancelled')"
    )
    wrong += [f"{row['job']} went from {row['was']} to {row['became']}" for row in again]
    return Verdict("every outcome is written once", len(ends), wrong)


def _claims_are_whole(queue: Queue, rows: list[dict[str, Any]]) -> Verdict:
    began = queue.rows("select job, claim, count(*) as times from chaos_changes where was = 'pending'"
                       " and became = 'processing' group by job, claim")  # fmt: skip
    wrong = [
        f"claim {row['claim']} of {row['job']} began {row['times']} times"
        for row in began
        if row["times"] > 1
    ]
    claims = Counter(row["job"] for row in began)
    wrong += [
        f"{row['job_id']} counts {row['claims']} claims, and had {claims[row['id']]}"
        for row in rows
        if claims[row["id"]] != row["claims"]
    ]
    return Verdict("every claim is one worker's", sum(claims.values()), wrong)


def _order(queue: Queue, rows: list[dict[str, Any]]) -> Verdict:
    early = queue.rows("select job, claim, unmet from chaos_changes where unmet > 0")
    wrong = [
        f"claim {row['claim']} of {row['job']} began before {row['unmet']} dependencies" for row in early
    ]
    return Verdict("no dependent ran too early", sum(len(row["depends_on"]) for row in rows), wrong)


def _no_dead_worker(queue: Queue) -> Verdict:
    held = queue.rows("select job_id, worker_id from dreamcut_jobs where status = 'processing'")
    workers = queue.value("select count(*) from dreamcut_workers")
    return Verdict("no job is held by a dead worker", workers, [str(row) for row in held])


def _deploys(queue: Queue, causes: Sequence[Cause]) -> Verdict:
    """A worker that ended in order (state `stopped`) has used up no attempt since it was told to end.

    Before, it may have: on a busy machine a lease runs out, and if a lock keeps the rescue from some of its
    jobs, the incarnation lives on with those.
    """
    told = {cause.pid: cause.at for cause in causes if cause.kind == "terminate"}
    burned = queue.rows(
        "select attempt.job, attempt.claim, worker.pid, extract(epoch from attempt.finished_at)::float8 as at"
        " from dreamcut_job_attempts attempt join dreamcut_workers worker on worker.id = attempt.worker_id"
        " where worker.state = 'stopped' and attempt.error_class = 'stalled'"
    )
    wrong = [str(row) for row in burned if row["pid"] in told and row["at"] >= told[row["pid"]]]
    stopped = queue.value("select count(*) from dreamcut_workers where state = 'stopped'")
    return Verdict("a deploy uses up no attempt", stopped, wrong)


def report(verdicts: list[Verdict], say: Callable[[str], None]) -> bool:
    """Say each invariant's figure; true if none is violated."""
    for verdict in verdicts:
        mark = "ok " if not verdict.violations else "BAD"
        say(f"  {mark} {verdict.name}: {verdict.looked_at} looked at, {len(verdict.violations)} violations")
        for violation in verdict.violations[:10]:
            say(f"        {violation}")
    return not any(verdict.violations for verdict in verdicts)
