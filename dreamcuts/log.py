"""Log lines for people or machines, with the secrets taken out of every one of them.

    [2024-01-15T10:30:00.000Z] [TTS] Processing job job_tts_s1...
    {"time": "2024-01-15T10:30:00.000Z", "level": "info", "tag": "TTS", "message": "Processing job ..."}

The tag is the record's `tag` (`extra={"tag": "TTS"}`), else the module that speaks: `dreamcuts.worker.loop`
is WORKER. Lines go to stderr, so that a command's output stays clean. JSON lines also carry whatever else
`extra` holds.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, TextIO
from urllib.parse import quote, unquote, urlsplit

from pydantic import SecretStr

from dreamcuts.config import Settings
from dreamcuts.errors import ConfigError

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
HIDDEN = "[hidden]"
SHORTEST_SECRET = 6
"""Shorter values are left alone: taking every "dev" or "1234" out would make the log unreadable."""

# What these say at INFO (a line for each request, with its URL) is DEBUG for us.
_CHATTY = ("httpx", "httpcore", "hpack", "asyncio", "uvicorn.access", "PIL", "websockets")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "tag"}


class Redactor:
    """Takes known secrets out of text, also as they look inside a URL or a JSON string."""

    def __init__(self, secrets: Iterable[str] = (), *, shortest: int = SHORTEST_SECRET) -> None:
        forms: set[str] = set()
        for secret in secrets:
            if len(secret) >= shortest:
                forms |= {
                    secret,
                    quote(secret, safe=""),
                    quote(secret),
                    json.dumps(secret)[1:-1],
                    repr(secret)[1:-1],
                }
        # The longest first: a secret may be part of another.
        self._forms = sorted(forms, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for form in self._forms:
            text = text.replace(form, HIDDEN)
        return text


def redacted(value: Any, redact: Callable[[str], str]) -> Any:
    """`value`, which is JSON-like, with every text in it (keys too) passed through `redact`."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {redacted(key, redact): redacted(item, redact) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item, redact) for item in value]
    return value


class TextFormatter(logging.Formatter):
    """`[time] [TAG] message`; warnings and errors say so, tracebacks follow on their own lines."""

    def __init__(self, redact: Redactor) -> None:
        super().__init__()
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        level = f"[{record.levelname}] " if record.levelno >= logging.WARNING else ""
        line = f"[{timestamp(record.created)}] [{tag_of(record)}] {level}{record.getMessage()}"
        if record.exc_info and record.exc_info[0]:
            line += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        return self._redact(line)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, tag, logger, message, what `extra` held, and a traceback."""

    def __init__(self, redact: Redactor) -> None:
        super().__init__()
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": timestamp(record.created),
            "level": record.levelname.lower(),
            "tag": tag_of(record),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info and record.exc_info[0]:
            line["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        return self._redact(json.dumps(line, ensure_ascii=False, default=str))


def setup_logging(
    level: str = "INFO", format: str = "text", secrets: Iterable[str] = (), stream: TextIO | None = None
) -> None:
    """Send all log records to `stream` (stderr) as `format` "text" or "json", without `secrets`.

    Replaces what was set up before. Raises ConfigError for a level or a format that does not exist.
    """
    name = known_level(level)
    formatters: Mapping[str, type[TextFormatter] | type[JsonFormatter]]
    formatters = {"text": TextFormatter, "json": JsonFormatter}
    if format not in formatters:
        raise ConfigError(f"LOG_FORMAT must be text or json, not {format!r}.")
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(formatters[format](Redactor(secrets)))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(name)
    for chatty in _CHATTY:
        logging.getLogger(chatty).setLevel(logging.DEBUG if name == "DEBUG" else logging.WARNING)


def known_level(level: str) -> str:
    """The level as `logging` has it. Raises ConfigError for one that does not exist."""
    name = level.upper()
    if name not in LEVELS:
        raise ConfigError(f"LOG_LEVEL must be one of {', '.join(LEVELS)}, not {level!r}.")
    return name


def known_secrets(settings: Settings, more: Iterable[str] = ()) -> list[str]:
    """Every secret in the settings, with DATABASE_URL's password and the parts of `id:secret` keys.

    `more` are names of settings that hold secrets too: those that only a plugin knows.
    """
    found: list[str] = []
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if not isinstance(value, SecretStr):
            continue
        secret = value.get_secret_value()
        found.append(secret)
        if name == "database_url":
            found.extend(passwords_of(secret))
        else:
            found.extend(secret.split(":"))
    for name in more:
        secret = settings.value(name)
        found.append(secret)
        if "://" not in secret:
            found.extend(secret.split(":"))
    return [secret for secret in found if secret]


def timestamp(seconds: float) -> str:
    """A Unix time as `2024-01-15T10:30:00.000Z`."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def tag_of(record: logging.LogRecord) -> str:
    """The word in brackets: the record's `tag`, else the part of DreamCuts, else the library, that speaks."""
    tag = getattr(record, "tag", None)
    if tag:
        return str(tag).upper()
    parts = record.name.split(".")
    return (parts[1] if parts[0] == "dreamcuts" and len(parts) > 1 else parts[0]).upper()


def passwords_of(dsn: str) -> list[str]:
    """The password in a DSN, in both forms that it may have there; empty if there is none."""
    try:
        password = urlsplit(dsn).password
    except ValueError:
        password = None
    if password:
        return [password, unquote(password)]
    # As a parameter of the address, or in the other form of a DSN: "host=... password='...'"
    found = re.findall(r"password\s*=\s*(?:'((?:[^'\\]|\\.)*)'|([^\s&']+))", dsn)
    return [form for pair in found for word in pair if word for form in (word, unquote(word))]
