"""Who may do what on Supabase: all tables, views, sequences and functions of the catalog are tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from dreamcuts.db.migrate import migrate
from tests.support import Queue

# As Supabase sets a project up. Roles belong to the server, which is this test process's own.
SUPABASE = """
    create role anon nologin;
    create role authenticated nologin;
    create role service_role nologin bypassrls;
    create schema auth;
    grant usage on schema auth to anon, authenticated, service_role;
    create function auth.uid() returns uuid language sql stable
        as $$ select nullif(current_setting('test.user', true), '')::uuid $$;
    grant usage on schema public to anon, authenticated, service_role;
    alter default privileges in schema public grant all on tables to anon, authenticated, service_role;
    alter default privileges in schema public grant all on sequences to anon, authenticated, service_role;
    alter default privileges in schema public grant all on functions to anon, authenticated, service_role;
"""
READABLE = {"dreamcut_jobs", "dreamcut_production_manifest"}
DENIED = psycopg.errors.InsufficientPrivilege

RELATIONS = """
    select relname as name, relkind::text as kind from pg_class
    where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v', 'm', 'S', 'f') order by relname
"""
FUNCTIONS = """
    select oid::regprocedure::text as signature, proname as name, proconfig as config,
        array(select coalesce(format_type(t, null), '') from unnest(proargtypes) t) as types,
        prorettype = 'trigger'::regtype as is_trigger
    from pg_proc where pronamespace = 'public'::regnamespace order by 1
"""


@pytest.fixture
def supabase(empty_database: str) -> Iterator[str]:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(SUPABASE)
    migrate(empty_database)
    yield empty_database
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute("drop owned by anon, authenticated, service_role")
        connection.execute("drop role anon, authenticated, service_role")


@pytest.fixture
def owner(supabase: str) -> Iterator[Queue]:
    with psycopg.connect(supabase, autocommit=True) as connection:
        yield Queue(connection)


@pytest.fixture
def acting(supabase: str) -> Iterator[Callable[..., Queue]]:
    """A connection in the role that PostgREST would switch to, for that user."""
    opened: list[psycopg.Connection[Any]] = []

    def act(role: str, user: UUID | None = None) -> Queue:
        connection = psycopg.connect(supabase, autocommit=True)
        opened.append(connection)
        connection.execute(f"set role {role}")
        connection.execute("select set_config('test.user', %s, false)", [str(user or "")])
        return Queue(connection)

    yield act
    for connection in opened:
        connection.close()


def two_users(owner: Queue) -> tuple[UUID, UUID]:
    users = uuid4(), uuid4()
    for user in users:
        manifest = owner.manifest(user_id=user)
        owner.add(manifest, "a")
        owner.add(manifest, "b", ["a"])
    owner.add(owner.manifest(), "nobody")
    owner.add(None, "lonely")
    return users


def test_a_user_reads_exactly_the_own_manifests_and_jobs(owner: Queue, acting: Callable[..., Queue]) -> None:
    first, _ = two_users(owner)
    user = acting("authenticated", first)
    assert [row["user_id"] for row in user.rows("select * from dreamcut_production_manifest")] == [first]
    assert sorted(row["job_id"] for row in user.rows("select * from dreamcut_jobs")) == ["a", "b"]
    stranger = acting("authenticated", uuid4())
    nobody = acting("authenticated")
    for other in (stranger, nobody):
        assert other.rows("select * from dreamcut_jobs") == []
        assert other.rows("select * from dreamcut_production_manifest") == []


@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_every_relation_is_closed_but_for_what_is_meant_to_be_read(
    owner: Queue, acting: Callable[..., Queue], role: str
) -> None:
    first, _ = two_users(owner)
    owner.rows("select dreamcut_ensure_archive('2026-01-01')")  # a month's tables, made as they are needed
    outside = acting(role, first)
    relations = owner.rows(RELATIONS)
    assert len(relations) > 8
    assert {"dreamcut_archived_jobs_2026_01", "dreamcut_archived_attempts_2026_01"} <= {
        relation["name"] for relation in relations
    }
    for relation in relations:
        name = relation["name"]
        if relation["kind"] == "S":
            for call in ("nextval", "setval"):
                with pytest.raises(DENIED):
                    outside.rows(f"select {call}('{name}'{', 1' if call == 'setval' else ''})")
            with pytest.raises(DENIED):
                outside.rows(f"select * from {name}")
            continue
        if not (role == "authenticated" and name in READABLE):
            with pytest.raises(DENIED):
                outside.rows(f"select * from {name}")
        if (
            relation["kind"] == "v"
        ):  # none of ours can be written through, which Postgres says before it asks who does
            privileges = "select, insert, update, delete, truncate, references, trigger"
            assert not owner.value("select has_table_privilege(%s, %s, %s)", role, name, privileges)
            continue
        column = owner.value(
            "select attname from pg_attribute where attrelid = %s::regclass and attnum = 1", name
        )
        for statement in (
            f"insert into {name} default values",
            f"update {name} set {column} = {column}",
            f"delete from {name}",
            *([f"truncate {name} cascade"] if relation["kind"] == "r" else []),
        ):
            with pytest.raises(DENIED):
                outside.run(statement)


@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_no_function_can_be_executed(owner: Queue, acting: Callable[..., Queue], role: str) -> None:
    outside = acting(role, uuid4())
    functions = owner.rows(FUNCTIONS)
    assert len(functions) > 25
    for function in functions:
        if function["is_trigger"]:
            assert not owner.value(
                "select has_function_privilege(%s, %s::regprocedure, 'execute')", role, function["signature"]
            )
            continue
        nulls = ", ".join(f"null::{type}" for type in function["types"])
        with pytest.raises(DENIED, match=function["name"]):
            outside.rows(f"select {function['name']}({nulls})")


def test_row_level_security_is_on_for_every_table(owner: Queue) -> None:
    owner.rows("select dreamcut_ensure_archive('2026-01-01')")
    open_tables = owner.rows(
        """select relname from pg_class
           where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') and not relrowsecurity"""
    )
    assert open_tables == []


def test_the_planner_s_role_works_with_tables_and_functions(
    owner: Queue, acting: Callable[..., Queue]
) -> None:
    planner = acting("service_role")
    manifest, jobs = planner.graph({"b": ["a"], "a": []})
    planner.run("update dreamcut_jobs set payload = '{}' where id = %s", jobs["b"])
    assert planner.states(manifest) == {"a": "ready", "b": "blocked"}
    assert planner.cancel(jobs["a"]) == [jobs["a"]]
    assert len(planner.retry(jobs["a"])) == 2
    assert planner.value("select dreamcut_submit_manifest(%s, '[]')", Jsonb({})) is not None
    assert planner.value("select dreamcut_enqueue('work')") is not None
    worker = planner.worker()
    planner.complete(worker, *planner.claim(worker, 10))
    assert planner.states(manifest)["b"] == "ready"
    assert owner.inconsistencies() == []


def test_every_function_pins_its_search_path(queue: Queue) -> None:
    bound = queue.rows(
        "select oid::regprocedure::text as signature from pg_proc where prosqlbody is not null"
    )
    bound_early = {row["signature"] for row in bound}  # to what it named when it was made
    plans = ("lock_timeout=", "jit=", "plan_cache_mode=", "enable_seqscan=")
    for function in queue.rows(FUNCTIONS):
        config = [line for line in function["config"] or [] if not line.startswith(plans)]
        expected = [] if function["signature"] in bound_early else ["search_path=public, pg_temp"]
        assert config == expected, function["signature"]


def test_security_definer_is_for_triggers_alone(queue: Queue) -> None:
    rows = queue.rows("select proname, prorettype::regtype::text as returns from pg_proc where prosecdef")
    assert {row["returns"] for row in rows} == {"trigger"}


def test_views_show_no_more_than_the_caller_may_read(queue: Queue) -> None:
    if queue.connection.info.server_version < 150000:
        pytest.skip("security_invoker came with Postgres 15")
    views = queue.rows(
        "select relname, reloptions from pg_class"
        " where relkind = 'v' and relnamespace = 'public'::regnamespace"
    )
    assert views
    for view in views:
        assert view["reloptions"] == ["security_invoker=true"], view["relname"]


def test_a_plain_postgres_gives_nothing_to_others(queue: Queue, database: str) -> None:
    name = f"other_{uuid4().hex[:8]}"
    queue.run(f"create role {name}")
    try:
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute(f"set role {name}")
            for relation in queue.rows(RELATIONS):
                if relation["kind"] != "S":
                    with pytest.raises(DENIED):
                        connection.execute(f"select * from {relation['name']}")
            with pytest.raises(DENIED):
                connection.execute("select dreamcut_enqueue('work')")
    finally:
        queue.run(f"drop role {name}")
