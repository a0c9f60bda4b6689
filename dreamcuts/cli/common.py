"""What the commands share: settings, input that may be a file, and output for people or scripts."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from dreamcuts.config import Settings

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")


def database_url(settings: Settings | None = None) -> str:
    """DATABASE_URL. Raises ConfigError if it is not set."""
    return (settings or Settings.load()).secret("DATABASE_URL")


def print_json(value: Any) -> None:
    """Print a value as JSON; uuids as text, times in ISO form, decimals as numbers."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=_plain))


def read_json(source: str, what: str) -> Any:
    """JSON from a file, or from stdin for `-`. Raises UsageError that says where it is broken."""
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text("utf-8")
    except OSError as error:
        raise click.UsageError(f"{what} cannot be read: {source}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise click.UsageError(f"{what} is not UTF-8 text: {source}.") from None
    return parse_json(text, what if source == "-" else f"{what} {source}")


def parse_json(text: str, what: str) -> Any:
    """JSON from text. Raises UsageError that says where it is broken."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise click.UsageError(
            f"{what} is not JSON: {error.msg} in line {error.lineno}, column {error.colno}."
        ) from None
    except RecursionError:
        raise click.UsageError(f"{what} is nested too deeply.") from None


def read_object(source: str, what: str) -> dict[str, Any]:
    """As read_json, for a JSON object."""
    value = read_json(source, what)
    if not isinstance(value, dict):
        raise click.UsageError(f"{what} must be a JSON object, not {type(value).__name__}.")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if type(value).__name__ == "Decimal":
        return float(value)
    return str(value)
