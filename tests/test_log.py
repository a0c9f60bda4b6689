"""Log lines: the founding form, JSON, and no secret in either."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from dreamcuts.config import Settings
from dreamcuts.errors import ConfigError
from dreamcuts.log import known_secrets, setup_logging

SECRET = 'sk_"quoted"/zebra+1'


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def logged(format: str, level: str = "INFO") -> io.StringIO:
    stream = io.StringIO()
    setup_logging(level, format, [SECRET], stream)
    return stream


def test_text_has_the_founding_form() -> None:
    stream = logged("text")
    logging.getLogger("dreamcuts.worker.loop").info(
        "Processing job %s...", "job_tts_s1", extra={"tag": "tts"}
    )
    assert re.fullmatch(
        r"\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\] \[TTS\] Processing job job_tts_s1\.\.\.\n",
        stream.getvalue(),
    )


def test_without_a_tag_the_part_that_speaks_is_named() -> None:
    stream = logged("text")
    logging.getLogger("dreamcuts.worker.loop").warning("slow")
    logging.getLogger("asyncpg.pool").warning("hm")
    lines = stream.getvalue().splitlines()
    assert lines[0].endswith("[WORKER] [WARNING] slow")
    assert lines[1].endswith("[ASYNCPG] [WARNING] hm")


def test_json_carries_what_extra_holds() -> None:
    stream = logged("json")
    logging.getLogger("dreamcuts.jobs").info(
        "Done", extra={"tag": "TTS", "job_id": "job_tts_s1", "attempt": 2}
    )
    line = json.loads(stream.getvalue())
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "tag": "TTS",
        "logger": "dreamcuts.jobs",
        "message": "Done",
        "job_id": "job_tts_s1",
        "attempt": 2,
    }


@pytest.mark.parametrize("format", ["text", "json"])
def test_no_secret_gets_through(format: str) -> None:
    stream = logged(format)
    log = logging.getLogger("dreamcuts")
    log.info("key %s", SECRET, extra={"header": {"xi-api-key": SECRET}})
    log.info("GET https://example.com/?key=sk_%22quoted%22%2Fzebra%2B1")
    log.info("repr %r", {"key": SECRET})
    try:
        raise ValueError(f"bad key {SECRET}")
    except ValueError:
        log.exception("failed")
    text = stream.getvalue()
    assert "zebra" not in text
    assert text.count("[hidden]") >= 4
    if format == "json":
        assert all(json.loads(line) for line in text.splitlines())


def test_known_secrets_include_the_password_of_the_database() -> None:
    settings = Settings(
        database_url=SecretStr("postgresql://me:p%40ssword@host/db"), fal_key=SecretStr("the-id:the-secret")
    )
    assert {"p%40ssword", "p@ssword", "the-id:the-secret", "the-secret"} <= set(known_secrets(settings))
    assert "" not in known_secrets(settings)
    keywords = Settings(database_url=SecretStr("host=h password=hunter22 dbname=d"))
    assert "hunter22" in known_secrets(keywords)


def test_chatty_libraries_are_heard_only_when_debugging() -> None:
    stream = logged("text")
    logging.getLogger("httpx").info("HTTP Request: GET https://example.com/signed?token=x")
    assert stream.getvalue() == ""
    stream = logged("text", "debug")
    logging.getLogger("httpx").info("HTTP Request")
    assert "HTTP Request" in stream.getvalue()


@pytest.mark.parametrize(
    ("level", "format", "names"), [("LOUD", "text", "LOG_LEVEL"), ("INFO", "xml", "LOG_FORMAT")]
)
def test_unknown_level_or_format_names_the_setting(level: str, format: str, names: str) -> None:
    with pytest.raises(ConfigError, match=names):
        setup_logging(level, format)
