"""What the hot statements touch in a deep queue: the plans are those of the functions themselves."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from dreamcuts.db.sql import query
from tests.support import Held, Queue

FILL = """
    insert into dreamcut_production_manifest (id, manifest_json) values (gen_random_uuid(), '{}');
    set session_replication_role = replica;
    insert into dreamcut_jobs (type, status, priority, next_retry_at, unmet_dependencies, completed_at)
    select (array['tts', 'image', 'video'])[n % 3 + 1], status, n % 20, run_at, unmet,
        case when status = 'completed' then now() end
    from (values ('completed', null, 0, 50000), ('pending', null, 1, 20000),
                 ('pending', now() + interval '1 hour', 0, 20000), ('pending', null, 0, 20000))
        as kind (status, run_at, unmet, amount),
        lateral generate_series(1, kind.amount) n;
    set session_replication_role = origin;
    insert into dreamcut_workers (id, host, pid, version, types, slots, state, lease_expires_at)
    select gen_random_uuid(), 'h', n, '0', '{tts}', '{1}', 'live', now() + interval '1 hour'
    from generate_series(1, 20) n;
"""


# Each of a film of its own that has not begun. In every second one, another job waits for it.
MANY_FILMS = """
    with film as (
        insert into dreamcut_production_manifest (manifest_json)
        select '{}' from generate_series(1, 3000) returning id
    ), numbered as (
        select id, row_number() over () as number from film
    )
    insert into dreamcut_jobs (manifest_id, job_id, type, depends_on, next_retry_at)
    select id, 'first', (array['tts', 'image', 'video'])[number % 3 + 1], '{}'::text[], null from numbered
    union all
    select id, 'second', 'elsewhere', '{first}', now() + interval '1 hour' from numbered where number % 2 = 0
"""

NO_AUTOVACUUM = """
    do $$
    declare
        v_table regclass;
    begin
        for v_table in
            select class.oid from pg_class class
            where class.relname like 'dreamcut\\_%' and class.relkind = 'r'
        loop
            execute format('alter table %s set (autovacuum_enabled = false)', v_table);
        end loop;
    end $$
"""

# By table and by index, what this transaction has read.
ROWS_READ = """
    select relname as name, seq_tup_read as rows from pg_stat_xact_user_tables
    where relname = any (array['dreamcut_jobs', 'dreamcut_production_manifest', 'dreamcut_job_dependencies'])
    union all
    select indexrelname, pg_stat_get_xact_tuples_returned(indexrelid) from pg_stat_user_indexes
    where relname = any (array['dreamcut_jobs', 'dreamcut_production_manifest', 'dreamcut_job_dependencies'])
"""


@pytest.fixture
def empty(database: str) -> Iterator[Queue]:
    """A queue whose counts nobody checks in the end: FILL does not keep them."""
    with psycopg.connect(database, autocommit=True) as connection:
        yield Queue(connection)


@pytest.fixture
def deep(empty: Queue) -> Queue:
    """A queue with 20,000 ready jobs among 90,000 that a claim must not look at."""
    fill(empty)
    empty.run("vacuum analyze dreamcut_jobs")
    empty.run("analyze dreamcut_workers")
    return empty


def fill(queue: Queue) -> None:
    for statement in FILL.split(";\n"):
        if statement.strip():
            queue.connection.execute(statement)


def plans(queue: Queue, call: str, *values: Any) -> list[str]:
    """The plans, with what each node really did, of all statements inside a function."""
    try:
        queue.run("load 'auto_explain'")
    except psycopg.Error:
        pytest.skip("this Postgres has no auto_explain")
    for name, value in [
        ("log_min_duration", "0"), ("log_analyze", "on"), ("log_nested_statements", "on"),
        ("log_level", "notice"), ("log_timing", "off"), ("log_buffers", "on"),
    ]:  # fmt: skip
        queue.run(f"set auto_explain.{name} = '{value}'")
    heard: list[str] = []
    queue.connection.add_notice_handler(lambda note: heard.append(note.message_primary or ""))
    try:
        queue.rows(call, *values)
    finally:
        queue.run("set auto_explain.log_min_duration = -1")
    found = [text for text in heard if "Query Text:" in text]
    assert found
    return found


def most_rows(plan: str) -> int:
    """The largest number of rows that any node of a plan gave on or threw away."""
    given = [int(rows) * int(loops) for rows, loops in re.findall(r"actual rows=(\d+) loops=(\d+)", plan)]
    thrown = [int(rows) for rows in re.findall(r"Rows Removed by \w+(?: \w+)*: (\d+)", plan)]
    return max([*given, *thrown])


CLAIM = "select * from dreamcut_claim_jobs(%s, array['tts', 'image', 'video'], array[5, 5, 5]{places})"


@pytest.mark.parametrize(
    "places", ["", ", array[-10, -10, -2], array[0, 9000000000000000, 0]"], ids=["start", "place"]
)
def test_a_claim_is_one_short_range_of_the_ready_index_for_each_type(deep: Queue, places: str) -> None:
    """Wherever it begins: what stands before that place is not read and thrown away."""
    worker = deep.worker(["tts", "image", "video"])
    found = plans(deep, CLAIM.format(places=places), worker)
    (claim,) = [plan for plan in found if "with claimed as (" in plan.split("->")[0]]
    assert "Tid Scan on dreamcut_jobs" in claim
    picking = claim.split("InitPlan")[1].split("Tid Scan")[0]
    assert "Index Scan using dreamcut_jobs_ready_idx" in picking and "Index Cond" in picking
    assert "Sort" not in picking
    for plan in found:
        assert "Seq Scan on dreamcut_jobs" not in plan
        assert most_rows(plan) <= 60, plan
    assert not [plan for plan in found if ") suspect" in plan.split("->")[0]]  # not looked for: there is none
    (before,) = [plan for plan in found if "select min(job.next_retry_at)" in plan.split("->")[0]]
    assert "using dreamcut_jobs_delayed_idx" in before and "using dreamcut_jobs_suspect_idx" in before
    assert "(max_concurrent IS NOT NULL) OR" in before, "dreamcut_is_limited is not inlined"


@pytest.mark.parametrize(
    ("films", "edges"),
    [(None, {}), (0, {}), (1, {"a": []}), (1, {"a": [], "b": ["a"]}), (20, {"a": []})],
    ids=["never analyzed", "empty", "one job", "one wait", "few films"],
)
def test_plans_made_while_the_tables_were_empty_are_good_for_full_ones(
    empty: Queue, database: str, films: int | None, edges: dict[str, list[str]]
) -> None:
    """A session keeps its plans, and no autovacuum has looked at the tables before they are full.

    What the planner was told of last are that many films of these jobs; None: it was told nothing.
    """
    types = ["tts", "image", "video"]
    empty.connection.execute(NO_AUTOVACUUM)
    worker = empty.worker(types)
    complete = "select dreamcut_complete_jobs(%s, %s::uuid[], %s::int[], %s::jsonb[], null, %s::uuid[])"

    def rows_read() -> dict[str, int]:
        return {row["name"]: row["rows"] for row in empty.rows(ROWS_READ)}

    def claim_and_complete(expected: int) -> list[dict[str, int]]:
        """What the claim read, and what the completion."""
        with empty.connection.transaction():
            start = rows_read()
            held = empty.claim_types(worker, dict.fromkeys(types, 5))
            claimed = rows_read()
        assert len(held) == expected
        jobs, claims = [job.id for job in held], [job.claims for job in held]
        of_jobs = empty.rows("select distinct manifest_id from dreamcut_jobs where id = any (%s)", jobs)
        manifests = [row["manifest_id"] for row in of_jobs]
        with empty.connection.transaction():
            again = rows_read()
            assert len(empty.value(complete, worker, jobs, claims, ["{}"] * expected, manifests)) == expected
            completed = rows_read()
        return [
            {name: after[name] - before[name] for name in after if after[name] > before[name]}
            for before, after in ((start, claimed), (again, completed))
        ]

    if films is not None:
        for _ in range(films):
            empty.graph(edges, type="elsewhere")
        for table in ("dreamcut_jobs", "dreamcut_production_manifest", "dreamcut_job_dependencies"):
            empty.run(f"vacuum analyze {table}")
    empty.run("prepare canary as select from dreamcut_jobs, dreamcut_production_manifest")
    empty.run("execute canary")
    claim_and_complete(0)
    for _ in range(8):  # from the sixth on, Postgres would keep a plan by itself
        empty.add(empty.manifest(), type="tts")
        empty.graph({"a": [], "b": ["a"]}, type="tts")
        claim_and_complete(2)
        claim_and_complete(1)

    def expected_rows() -> int:
        (plan,) = empty.value("explain (format json) execute canary")
        return int(plan["Plan"]["Plan Rows"])

    before = expected_rows()
    with psycopg.connect(database, autocommit=True) as producer:
        producer.execute(MANY_FILMS)
    assert expected_rows() == before, "the session has made its plans anew: this test would prove nothing"

    for what, read in zip(("claim", "complete"), claim_and_complete(15), strict=True):
        assert max(read.values()) <= 300, (what, read)


def test_a_suspect_is_found_by_its_own_index(deep: Queue) -> None:
    worker = deep.worker(["tts", "image", "video"])
    deep.run(
        "update dreamcut_jobs set stalls = 2"
        " where seq in (select max(seq) from dreamcut_jobs where ready group by type)"
    )
    found = plans(deep, CLAIM.format(places=""), worker)
    (looking,) = [plan for plan in found if ") suspect" in plan.split("->")[0]]
    assert "Index Scan using dreamcut_jobs_suspect_idx" in looking
    assert "Seq Scan on dreamcut_jobs" not in looking and most_rows(looking) <= 60, looking


def test_a_claim_that_goes_on_starts_in_the_middle_of_the_index(deep: Queue) -> None:
    """What was claimed before stays in the index while a snapshot is held; this claim passes it by."""
    worker = deep.worker(["tts"])
    with psycopg.connect(deep.connection.info.dsn, password=deep.connection.info.password) as holder:
        holder.execute("set transaction isolation level repeatable read")
        holder.execute("select 1 from dreamcut_jobs limit 1")
        claim = "select urgency, turn from dreamcut_claim_jobs(%s, '{tts}', '{2000}')"
        last = deep.rows(claim, worker)[-1]
        call = "select * from dreamcut_claim_jobs(%s, '{tts}', '{10}', array[%s::int], array[%s::bigint])"
        (plan,) = [
            plan
            for plan in plans(deep, call, worker, last["urgency"], last["turn"])
            if "with claimed as (" in plan.split("->")[0]
        ]
    picking = plan.split("InitPlan")[1].split("Tid Scan")[0]
    assert re.search(r"Index Cond: .*ROW\(\(~ \(?priority\)?\), turn\) >=", picking), picking
    scan = picking.split("Index Scan using dreamcut_jobs_ready_idx")[1]
    buffers = re.search(r"Buffers: shared hit=(\d+)", scan)
    # The 2,000 dead ones alone lie on more pages than that.
    assert buffers is not None and int(buffers[1]) < 100, scan


def test_a_look_reads_two_indexes(deep: Queue) -> None:
    text = f"explain (analyze, timing off) {query('look').psycopg_text}"
    lines = deep.connection.execute(text, {"types": ["tts", "image", "nothing"]}).fetchall()
    plan = "\n".join(line for (line,) in lines)
    assert "dreamcut_jobs_ready_idx" in plan and "dreamcut_jobs_delayed_idx" in plan
    assert "(max_concurrent IS NOT NULL) OR" in plan, "dreamcut_is_limited is not inlined"
    assert "Seq Scan on dreamcut_jobs" not in plan and most_rows(plan) <= 60, plan


@pytest.mark.parametrize(
    "call",
    [
        "select * from dreamcut_heartbeat(%s, interval '1 minute', false, '{}'::uuid[], '{}'::int[])",
        "select * from dreamcut_complete_jobs(%s, %s::uuid[], %s::int[], %s::jsonb[], %s::text[])",
    ],
    ids=["heartbeat", "complete"],
)
def test_a_heartbeat_and_an_outcome_touch_few_rows(deep: Queue, call: str) -> None:
    worker = deep.worker(["tts", "image", "video"])
    held = deep.claim_types(worker, {"tts": 10})
    values: list[Any] = [worker]
    if "complete" in call:
        values += [[job.id for job in held], [job.claims for job in held], ["{}"] * 10, [None] * 10]
    for plan in plans(deep, call, *values):
        assert "Seq Scan on dreamcut_jobs" not in plan, plan
        assert most_rows(plan) <= 60, plan


def test_a_heartbeat_writes_one_row_and_none_of_the_jobs(deep: Queue) -> None:
    worker = deep.worker(["tts"])
    held = deep.claim_types(worker, {"tts": 10})
    jobs = "select array_agg(xmin::text order by seq) from dreamcut_jobs where status = 'processing'"
    others = "select array_agg(xmin::text order by pid) from dreamcut_workers where id <> %s"
    before = deep.value(jobs), deep.value(others, worker)
    deep.heartbeat(worker, *held)
    assert (deep.value(jobs), deep.value(others, worker)) == before


def updates(queue: Queue, table: str) -> tuple[int, int]:
    """Updates by this connection that are not in the shared statistics yet: all, and those that were HOT."""
    row = queue.row(
        "select pg_stat_get_xact_tuples_updated(oid) as all_, pg_stat_get_xact_tuples_hot_updated(oid) as hot"
        " from pg_class where relname = %s",
        table,
    )
    return row["all_"], row["hot"]


def updates_of(queue: Queue, table: str, action: Callable[[], object]) -> tuple[int, int]:
    queue.connection.autocommit = False
    before = updates(queue, table)
    action()
    after = updates(queue, table)
    queue.connection.commit()
    queue.connection.autocommit = True
    return after[0] - before[0], after[1] - before[1]


def test_completing_a_job_is_a_hot_update_and_claiming_it_is_not(deep: Queue) -> None:
    worker = deep.worker(["tts"])
    held: list[Held] = []
    claim = updates_of(deep, "dreamcut_jobs", lambda: held.extend(deep.claim_types(worker, {"tts": 20})))
    assert claim == (20, 0)  # a claim takes the job out of the ready index
    assert updates_of(deep, "dreamcut_jobs", lambda: deep.complete(worker, *held)) == (20, 20)


def test_counting_down_the_open_jobs_of_a_manifest_is_a_hot_update(queue: Queue) -> None:
    queue.graph({"a": [], "b": []})
    worker = queue.worker()
    held = queue.claim(worker, 2)
    table = "dreamcut_production_manifest"
    assert updates_of(queue, table, lambda: queue.complete(worker, held[0])) == (1, 1)
