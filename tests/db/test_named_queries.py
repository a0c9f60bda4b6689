"""The named queries: how they are read, that each is valid on the schema, and that each is used."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

import dreamcuts
from dreamcuts.db import sql
from dreamcuts.db.sql import parse_queries, queries, query


def only(source: str) -> sql.Query:
    (found,) = parse_queries(source, "t.sql")
    return found


def test_parameters_become_numbers_for_asyncpg_and_names_for_psycopg() -> None:
    found = only("-- name: q :many\n-- A comment with @ghost.\nselect @a::int, @b_2, @a;\n")
    assert found.text == "select $1::int, $2, $1"
    assert found.psycopg_text == "select %(a)s::int, %(b_2)s, %(a)s"
    assert found.parameters == ("a", "b_2")
    assert (found.name, found.cardinality) == ("q", "many")


@pytest.mark.parametrize("operator", ["@>", "<@", "@@", "@?", "<@>"])
def test_operators_are_left_alone(operator: str) -> None:
    found = only(f"-- name: q :one\nselect a {operator} b, c {operator}@p\n")
    assert f"a {operator} b" in found.text


def test_an_address_and_a_percent_sign_are_left_alone() -> None:
    found = only("-- name: q :one\nselect 'me@example.com', 5 % 2, @p\n")
    assert found.text == "select 'me@example.com', 5 % 2, $1"
    assert found.psycopg_text == "select 'me@example.com', 5 %% 2, %(p)s"


def test_arguments_are_put_in_order_and_must_fit() -> None:
    found = only("-- name: q :one\nselect @b, @a\n")
    assert found.arguments({"a": 1, "b": 2}) == [2, 1]
    with pytest.raises(TypeError, match=r"query q: missing parameters \['b'\], unknown parameters \['c'\]"):
        found.arguments({"a": 1, "c": 3})


def test_an_empty_query_is_refused() -> None:
    with pytest.raises(ValueError, match=r"t\.sql: the query 'q' is empty"):
        parse_queries("-- name: q :one\n-- nothing\n-- name: r :one\nselect 1\n", "t.sql")


@pytest.fixture
def other_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "queries").mkdir()
    monkeypatch.setattr(sql, "sql_folder", lambda: tmp_path)
    queries.cache_clear()
    yield tmp_path / "queries"
    queries.cache_clear()


def test_a_name_is_given_once_in_all_files(other_folder: Path) -> None:
    for name in ("a.sql", "b.sql"):
        (other_folder / name).write_text("-- name: q :one\nselect 1\n")
    with pytest.raises(ValueError, match=r"b\.sql: the query name 'q' is taken"):
        queries()


def test_an_unknown_name_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        query("no_such_query")


@pytest.mark.anyio
async def test_every_query_is_valid_on_the_schema_with_all_its_parameters(database: str) -> None:
    connection = await asyncpg.connect(database)
    try:
        assert len(queries()) > 25
        for name, found in queries().items():
            prepared = await connection.prepare(found.text)
            assert len(prepared.get_parameters()) == len(found.parameters), name
            columns = len(prepared.get_attributes())
            if found.cardinality == "scalar":
                assert columns == 1, name
            elif found.cardinality in ("one", "many"):
                assert columns >= 1, name
    finally:
        await connection.close()


def test_every_query_is_used_and_every_used_one_exists() -> None:
    words: set[str] = set()
    for file in Path(str(dreamcuts.__file__)).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                words.add(node.value)
    assert sorted(queries().keys() - words) == []


def test_python_holds_no_sql() -> None:
    """The rule of the house: statements stand in `sql/`, where they are prepared by the test above."""
    starts = ("select ", "insert into ", "update ", "delete from ", "with ")
    found = []
    for file in Path(str(dreamcuts.__file__)).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value.strip().lower()
                if text.startswith(starts) and "dreamcut_" in text:
                    found.append(f"{file.name}:{node.lineno}")
    assert found == []
