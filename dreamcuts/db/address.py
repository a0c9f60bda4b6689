"""Saying what is wrong with DATABASE_URL without saying what stands in it."""

from __future__ import annotations

import re
from urllib.parse import quote, urlencode

import psycopg
from psycopg.conninfo import conninfo_to_dict

from dreamcuts.errors import DatabaseError
from dreamcuts.log import Redactor, passwords_of

_HOW = (
    "It looks like postgresql://user:password@host:5432/database; in the password, write "
    "@ / : # % and spaces in percent form (%40 %2F %3A %23 %25 %20)."
)


def as_url(dsn: str) -> str:
    """The address as a URL, from either form that Postgres knows: libpq reads both, asyncpg only this one."""
    if re.match(r"[\w+]+://", dsn):
        return dsn
    try:
        parts = {name: str(value) for name, value in conninfo_to_dict(dsn).items() if value is not None}
    except psycopg.Error:
        return dsn  # whoever connects says that it is no address
    # What is meant for libpq alone would go to the server as a setting, which it does not know.
    for name in [name for name in parts if name.startswith(("connect_timeout", "keepalives", "tcp_user"))]:
        del parts[name]
    if not parts:
        return dsn
    name = parts.pop("dbname", "")
    path = f"/{quote(name, safe='')}" if name else ""  # an empty path would hide a dbname
    return f"postgresql://{path}?{urlencode(parts, quote_via=quote)}"


def not_valid() -> DatabaseError:
    """DATABASE_URL cannot be read. The driver's own words are left out: they quote parts of the address."""
    return DatabaseError(f"DATABASE_URL is not a valid Postgres address. {_HOW}")


def not_reached(dsn: str, error: BaseException) -> DatabaseError:
    """Postgres does not answer, or refuses us; in one line, without the password."""
    if _is_cut_in_the_password(dsn):
        return not_valid()
    return DatabaseError(f"Postgres cannot be reached: {without_password(dsn, error)}. Check DATABASE_URL.")


def without_password(dsn: str, error: BaseException) -> str:
    """The first line of an error's text, without the password of `dsn`."""
    return Redactor(passwords_of(dsn), shortest=1)(first_line(error))


def first_line(error: BaseException) -> str:
    """The first line of an error's text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _is_cut_in_the_password(dsn: str) -> bool:
    """Whether the password holds a character that ends it: the rest of it is taken for the host."""
    found = re.match(r"[\w+]+://([^?]*)", dsn)
    if found is None:
        return False
    before, at, after = found[1].partition("@")
    if not at:
        return False  # nobody is named, so there is no password to be cut
    return "@" in after or "/" in before or "#" in before
