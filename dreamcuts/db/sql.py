"""Load the SQL that ships with DreamCuts: migrations, functions and named queries.

Runtime code holds no SQL text. A query is written in `sql/queries/*.sql`, where it can be read, tested and
reviewed as SQL:

    -- name: job_by_id :one
    -- One job, whole.
    select ... from dreamcut_jobs where id = @id::uuid;

`@id` becomes `$1` for asyncpg and `%(id)s` for psycopg. An `@` that follows a word character, or another
operator sign (`@>`, `<@`), is left alone; string literals must not hold an `@word`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

Cardinality = Literal["one", "many", "exec", "scalar"]

_HEADER = re.compile(r"^-- name: ([a-z][a-z0-9_]*) :(one|many|exec|scalar)$", re.MULTILINE)
_PARAMETER = re.compile(r"(?<![\w@<>:])@([a-z][a-z0-9_]*)")


@dataclass(frozen=True, slots=True)
class Query:
    """A named query. `text` is for asyncpg (`$1`), `psycopg_text` for psycopg (`%(name)s`)."""

    name: str
    cardinality: Cardinality
    text: str
    psycopg_text: str
    parameters: tuple[str, ...]

    def arguments(self, values: dict[str, Any]) -> list[Any]:
        """The values in the order of `$1`, `$2`, ... Raises TypeError naming a missing or unknown one."""
        if values.keys() != set(self.parameters):
            missing = sorted(set(self.parameters) - values.keys())
            unknown = sorted(values.keys() - set(self.parameters))
            raise TypeError(f"query {self.name}: missing parameters {missing}, unknown parameters {unknown}")
        return [values[name] for name in self.parameters]


def sql_folder() -> Path:
    """The folder with the SQL files: `sql/` of a checkout, or the copy inside an installed wheel."""
    package = Path(str(resources.files("dreamcuts")))
    for folder in (package / "_sql", package.parent / "sql"):
        if (folder / "migrations").is_dir():
            return folder
    raise FileNotFoundError("The SQL files of DreamCuts are missing; reinstall the package.")


@cache
def queries() -> dict[str, Query]:
    """All named queries by name."""
    found: dict[str, Query] = {}
    for file in sorted((sql_folder() / "queries").glob("*.sql")):
        for query in parse_queries(file.read_text(encoding="utf-8"), file.name):
            if query.name in found:
                raise ValueError(f"{file.name}: the query name {query.name!r} is taken")
            found[query.name] = query
    return found


def query(name: str) -> Query:
    """The query of that name. Raises KeyError."""
    return queries()[name]


def parse_queries(source: str, file_name: str) -> list[Query]:
    """Split a file into its named queries; text before the first header is a comment about the file."""
    headers = list(_HEADER.finditer(source))
    parsed = []
    for header, following in zip(headers, [*headers[1:], None], strict=True):
        body = source[header.end() : following.start() if following else len(source)].strip()
        code = "\n".join(line for line in body.splitlines() if not line.lstrip().startswith("--")).strip()
        if not code:
            raise ValueError(f"{file_name}: the query {header[1]!r} is empty")
        parsed.append(_compile(header[1], header[2], code.rstrip(";")))
    return parsed


def _compile(name: str, cardinality: Any, code: str) -> Query:
    parameters = tuple(dict.fromkeys(_PARAMETER.findall(code)))
    return Query(
        name=name,
        cardinality=cardinality,
        text=_PARAMETER.sub(lambda match: f"${parameters.index(match[1]) + 1}", code),
        psycopg_text=_PARAMETER.sub(lambda match: f"%({match[1]})s", code.replace("%", "%%")),
        parameters=parameters,
    )
