"""What a producer or an operator may change in a job that is there: when that shows, and what it must not
cost."""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.sql.interleaving import race
from tests.support import Queue, names

Another = Callable[[], Queue]

BEFORE_UPDATE_OF_ROWS = """
    select tgname from pg_trigger
    where tgrelid = 'dreamcut_jobs'::regclass
        and tgtype & 1 = 1    -- for each row
        and tgtype & 2 = 2    -- before
        and tgtype & 16 = 16  -- update
"""
LARGE = "repeat(md5(random()::text), 50000)"


@pytest.mark.parametrize(
    ("column", "value"),
    [("payload", Jsonb({"a": 1})), ("priority", 9), ("tags", ["a"]), ("metadata", Jsonb({"b": 2}))],
)
def test_what_the_producer_changes_says_when(queue: Queue, column: str, value: object) -> None:
    _, jobs = queue.graph({"a": [], "b": []})
    before = {name: queue.job(job) for name, job in jobs.items()}
    changed = queue.run(f"update dreamcut_jobs set {column} = %s where id = %s", value, jobs["a"])
    assert changed == 1
    after = queue.job(jobs["a"])
    assert after["updated_at"] > before["a"]["updated_at"]
    unchanged = before["a"].keys() - {column, "updated_at"}
    assert {name: after[name] for name in unchanged} == {name: before["a"][name] for name in unchanged}
    assert queue.job(jobs["b"]) == before["b"]


def test_all_rows_of_one_statement_say_when_also_in_the_transaction_that_made_them(queue: Queue) -> None:
    with queue.connection.transaction():
        queue.graph({"a": [], "b": [], "c": []})
        queue.run("update dreamcut_jobs set payload = '{\"x\": 1}'")
        assert queue.value("select count(*) from dreamcut_jobs where updated_at = now()") == 3
    with queue.connection.transaction():
        queue.run("update dreamcut_jobs set priority = 7")
        queue.run("update dreamcut_jobs set priority = 8, tags = '{a}'")
        assert (
            queue.value("select count(*) from dreamcut_jobs where updated_at = now() and priority = 8") == 3
        )


def test_a_producer_may_have_the_right_to_change_a_payload_and_no_other(queue: Queue, database: str) -> None:
    job = queue.add(None, "a")
    before = queue.job(job)
    role = f"updater_{uuid4().hex[:12]}"
    queue.run(f"create role {role} nologin bypassrls")
    try:
        queue.run(f"grant select (id), update (payload) on dreamcut_jobs to {role}")
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute(f"set role {role}")
            Queue(connection).run("update dreamcut_jobs set payload = '{\"a\": 1}' where id = %s", job)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("update dreamcut_jobs set updated_at = now()")
    finally:
        queue.run(f"drop owned by {role}")
        queue.run(f"drop role {role}")
    assert queue.job(job)["updated_at"] > before["updated_at"]


def test_a_payload_over_the_limit_is_refused_in_an_update_too(queue: Queue) -> None:
    job = queue.add(None, "a", payload=Jsonb({"text": "short"}))
    before = queue.job(job)
    with pytest.raises(
        psycopg.errors.CheckViolation, match=r'job "a" has \d+ bytes, and 1048576 is the limit'
    ) as raised:
        queue.run(
            f"update dreamcut_jobs set payload = jsonb_build_object('text', {LARGE}) where id = %s", job
        )
    assert raised.value.diag.constraint_name == "dreamcut_jobs_payload_size"
    assert "dreamcut_limits" in (raised.value.diag.message_hint or "")
    assert queue.job(job) == before


def test_one_payload_over_the_limit_refuses_the_whole_statement(queue: Queue) -> None:
    queue.graph({"a": [], "b": []})
    with pytest.raises(psycopg.errors.CheckViolation):
        queue.run(
            f"""update dreamcut_jobs set payload = jsonb_build_object(
                    'text', case job_id when 'b' then {LARGE} else 'short' end)"""
        )
    assert queue.value("select count(*) from dreamcut_jobs where payload = '{}'") == 2


def test_a_job_inserted_under_a_higher_limit_runs_and_changes_all_the_same(queue: Queue) -> None:
    job = queue.add(None, "a", payload=Jsonb({"text": "x" * 20_000}))
    queue.run(f"update dreamcut_jobs set payload = jsonb_build_object('text', left({LARGE}, 20000))")
    queue.run("update dreamcut_limits set value = 10000 where name = 'payload_bytes'")
    queue.run("update dreamcut_jobs set priority = 9, metadata = '{\"k\": 1}' where id = %s", job)
    worker = queue.worker()
    queue.hand_back(worker, queue.claim_one(worker))
    queue.finish("a")
    assert queue.job(job)["status"] == "completed"


def test_no_trigger_stands_before_an_update(queue: Queue) -> None:
    """One of any column would make Postgres lock each row before it is updated, in each of the queue's own
    statements as well: a record more in the log for every claim and every outcome."""
    assert queue.rows(BEFORE_UPDATE_OF_ROWS) == []
    queue.run(
        "create trigger probe before update of tags on dreamcut_jobs"
        " for each row execute function dreamcut_touch_job()"
    )
    assert len(queue.rows(BEFORE_UPDATE_OF_ROWS)) == 1, "the question finds such a trigger"


def test_the_queues_own_statements_do_not_come_to_the_producers_triggers(queue: Queue) -> None:
    """They fire on columns that no function of the queue sets."""
    queue.run(
        """create or replace function dreamcut_touch_job() returns trigger language plpgsql as
           'begin raise exception ''touched''; end';
           create or replace function dreamcut_check_payload() returns trigger language plpgsql as
           'begin if tg_op = ''UPDATE'' then raise exception ''checked''; end if; return new; end'"""
    )
    manifest = queue.manifest()
    jobs = {name: queue.add(manifest, name, payload=Jsonb({"text": [*range(5000)]})) for name in "abcd"}
    queue.add(manifest, "e", ["d"])
    worker = queue.worker()
    a, b, c, _ = queue.claim(worker, 4)
    queue.complete(worker, a)
    queue.fail(worker, b)
    queue.hand_back(worker, c)
    queue.cancel(jobs["d"])
    queue.retry(jobs["d"])
    queue.release(queue.claim_one(worker).id)
    queue.come_due()
    queue.claim(worker, 10)
    queue.expire(worker)
    assert len(queue.rescue()) == 3
    queue.reconcile()
    queue.value("select dreamcut_return_strays()")
    with pytest.raises(psycopg.errors.RaiseException, match="touched"):
        queue.run("update dreamcut_jobs set priority = 1")


def test_a_new_priority_counts_at_once(queue: Queue) -> None:
    for name in ("a", "b", "c"):
        queue.add(None, name)
    queue.run("update dreamcut_jobs set priority = 6 where job_id = 'c'")
    assert names(queue.claim(queue.worker(), 3)) == ["c", "a", "b"]


@pytest.mark.parametrize("order", ["update first", "claim first"])
def test_a_payload_changes_while_its_job_is_claimed(
    queue: Queue, another: Another, database: str, order: str
) -> None:
    """The claim does not wait for the producer: it gets the job with the new payload, or before the
    change."""
    job = queue.add(None, "a", payload=Jsonb({"v": 1}))
    worker = queue.worker()
    first = another()
    change = "update dreamcut_jobs set payload = '{\"v\": 2}' where id = %s"
    if order == "update first":
        first.run(change, job)
        assert race(database, first, lambda side: side.claim(worker)) == (False, [])
        (row,) = queue.rows("select payload from dreamcut_claim_jobs(%s, '{work}', '{1}')", worker)
        assert row["payload"] == {"v": 2}
    else:
        held = first.claim_one(worker)
        assert race(database, first, lambda side: side.run(change, job)) == (True, 1)
        row = queue.job(job)
        assert (row["status"], row["payload"], row["updated_at"] > row["started_at"]) == (
            "processing",
            {"v": 2},
            True,
        )
        assert queue.complete(worker, held) == [job]
