"""Every expected failure is one clear line on stderr, with its exit code, and never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click.testing
import psycopg
import pytest

Run = Callable[..., click.testing.Result]
REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE = REPOSITORY / "examples" / "demo.json"


def one_line(text: str) -> str:
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    assert "Traceback" not in text
    return lines[0]


def test_help_names_every_command_and_imports_no_sdk() -> None:
    code = (
        "import sys\n"
        "sys.argv = ['dreamcuts', '--help']\n"
        "from dreamcuts.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'elevenlabs', 'supabase', 'fal_client', 'PIL', 'asyncpg', 'psycopg', 'rich', 'pydantic'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("work", "submit", "enqueue", "jobs", "manifests", "db", "sandbox", "demo"):
        assert f"\n  {name} " in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["work", "-h"], ["submit", "-h"], ["enqueue", "-h"], ["jobs", "-h"], ["jobs", "list", "-h"],
     ["jobs", "show", "-h"], ["jobs", "retry", "-h"], ["jobs", "cancel", "-h"], ["manifests", "-h"],
     ["manifests", "list", "-h"], ["manifests", "show", "-h"], ["db", "-h"], ["db", "migrate", "-h"],
     ["db", "status", "-h"], ["db", "sql", "-h"], ["sandbox", "-h"], ["demo", "-h"], ["--version"]],
    ids=" ".join,
)  # fmt: skip
def test_help_works_without_any_setting(run: Run, arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 0
    assert result.stdout.strip()


@pytest.mark.parametrize(
    "arguments",
    [["jobs", "list"], ["manifests", "list"], ["db", "migrate"], ["db", "status"],
     ["enqueue", "tts", "-p", '{"text": "Hi", "voiceId": "v1"}']],
)  # fmt: skip
def test_without_database_url(run: Run, arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "DATABASE_URL is not set" in one_line(result.stderr)


@pytest.mark.parametrize(
    ("dsn", "says"),
    [
        ("postgresql://me:hunter22@127.0.0.1:1/none", "cannot be reached"),
        ("postgresql://127.0.0.1:1/none", "cannot be reached"),
        ("host=127.0.0.1 port=1 dbname=none password=hunter22", "cannot be reached"),
        ("this is no address", "not a valid Postgres address"),
        ("postgresql://me:hunter22@127.0.0.1:notaport/db", "invalid"),
    ],
)
@pytest.mark.parametrize("arguments", [["jobs", "list"], ["db", "migrate"]])
def test_wrong_database_url(run: Run, arguments: list[str], dsn: str, says: str) -> None:
    result = run(*arguments, DATABASE_URL=dsn)
    assert result.exit_code == 1
    line = one_line(result.stderr)
    assert says in line
    assert "hunter22" not in line


def test_missing_schema_says_what_to_run(run: Run, empty_database: str) -> None:
    for arguments in (["jobs", "list"], ["submit", str(EXAMPLE)], ["db", "status"]):
        result = run(*arguments, DATABASE_URL=empty_database)
        assert result.exit_code == 1
        assert 'Run "dreamcuts db migrate"' in one_line(result.stderr.replace("Migrations applied: none", ""))


def test_newer_database_says_to_upgrade(here: Run, connection: psycopg.Connection) -> None:
    connection.execute("insert into dreamcut_schema (number, name) values (9999, 'future')")
    for arguments in (["jobs", "list"], ["db", "migrate"], ["db", "status"]):
        result = here(*arguments)
        assert result.exit_code == 1
        assert "newer than this version" in one_line(result.stderr)


def test_a_worker_that_claims_nothing_would_never_be_idle(here: Run) -> None:
    result = here("work", "--types", "tts", "--until-idle", ENABLE_WORKERS="false")
    assert result.exit_code == 2
    line = one_line(result.stderr)
    assert "ENABLE_WORKERS" in line and "--until-idle" in line


def test_worker_names_the_missing_keys_and_their_use(here: Run) -> None:
    result = here("work", "--types", "tts,render", "--until-idle", SHOTSTACK_API_KEY="a-key-that-is-set")
    assert result.exit_code == 2
    line = one_line(result.stderr)
    assert "ELEVENLABS_API_KEY (needed for tts)" in line
    assert "SHOTSTACK" not in line


@pytest.mark.parametrize(
    ("types", "says"),
    [
        ("speech", "does not exist"),
        ("tts:0", "1 or more"),
        ("tts:many", "1 or more"),
        (",", "names no job type"),
    ],
)
def test_wrong_types(here: Run, types: str, says: str) -> None:
    result = here("work", "--types", types)
    assert result.exit_code == 2
    assert says in one_line(result.stderr)


def test_wrong_setting_is_named(run: Run) -> None:
    result = run("work", HEALTH_CHECK_PORT="many", MAX_CONCURRENT_JOBS="0")
    assert result.exit_code == 2
    line = one_line(result.stderr)
    assert "HEALTH_CHECK_PORT" in line and "not 'many'" in line and "MAX_CONCURRENT_JOBS" in line


def test_a_setting_of_a_few_words_names_them(run: Run) -> None:
    result = run("work", LOG_FORMAT="xml", PRICE_MISSING="maybe")
    assert result.exit_code == 2
    line = one_line(result.stderr)
    assert "LOG_FORMAT: Input should be 'text' or 'json'" in line
    assert "PRICE_MISSING: Input should be 'allow' or 'refuse'" in line


def test_unknown_references(here: Run) -> None:
    for reference, says in (
        ("no-such", "is no job id"),
        ("abc", "too short"),
        ("abcd1234", "No job has an id"),
        ("abcd1234/job_tts_s1", "No manifest has an id"),
        ("00000000-0000-0000-0000-000000000000", "There is no job"),
    ):
        result = here("jobs", "show", reference)
        assert result.exit_code == 1
        assert says in one_line(result.stderr)


@pytest.mark.parametrize("payload", ["{", "[1]", "@/does/not/exist.json"])
def test_wrong_payload_is_a_usage_error(here: Run, payload: str) -> None:
    result = here("enqueue", "tts", "--payload", payload)
    assert result.exit_code == 2
    assert "ayload" in result.stderr


def test_payload_that_does_not_validate_is_refused(here: Run, connection: psycopg.Connection) -> None:
    result = here("enqueue", "sound_effects", "--payload", '{"durationSeconds": "long"}')
    assert result.exit_code == 1
    assert "durationSeconds" in one_line(result.stderr)
    assert connection.execute("select count(*) from dreamcut_jobs").fetchone() == (0,)


def test_what_is_wrong_with_a_payload_is_said_in_our_own_words(
    here: Run, connection: psycopg.Connection
) -> None:
    result = here("enqueue", "image", "--payload", '{"prompt": " ", "endpoint": "fal-ai/nope"}')
    assert result.exit_code == 1
    line = one_line(result.stderr)
    assert "prompt: is blank: say what the picture shows; endpoint: 'fal-ai/nope' is no image model. " in line
    assert "Known: flux-srpo (fal-ai/flux/srpo), " in line and "Value error" not in line
    assert connection.execute("select count(*) from dreamcut_jobs").fetchone() == (0,)


def test_a_manifest_with_an_unknown_model_is_refused(
    here: Run, connection: psycopg.Connection, tmp_path: Path
) -> None:
    manifest = json.loads(EXAMPLE.read_text())
    name = next(name for name, asset in manifest["assets"].items() if asset.get("source") == "generated")
    manifest["assets"][name]["endpoint"] = "fal-ai/nope"
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(manifest))
    result = here("submit", str(broken))
    assert result.exit_code == 1
    assert "payload.endpoint: 'fal-ai/nope' is no " in result.stderr and "Known: " in result.stderr
    assert connection.execute("select count(*) from dreamcut_production_manifest").fetchone() == (0,)


def test_manifest_lists_all_its_problems_and_nothing_is_written(
    here: Run, connection: psycopg.Connection, tmp_path: Path
) -> None:
    manifest = json.loads(EXAMPLE.read_text())
    manifest["metadata"]["durationSeconds"] = 99
    manifest["scenes"][1]["id"] = manifest["scenes"][0]["id"]
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(manifest))
    result = here("submit", str(broken))
    assert result.exit_code == 1
    assert "99" in result.stderr and "s1" in result.stderr
    assert "Traceback" not in result.stderr
    assert connection.execute("select count(*) from dreamcut_production_manifest").fetchone() == (0,)


def test_debug_shows_the_traceback() -> None:
    environment = {**os.environ, "DATABASE_URL": "postgresql://127.0.0.1:1/none"}
    arguments = [sys.executable, "-m", "dreamcuts", "--debug", "jobs", "list"]
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_wrong_retry_delay_of_a_type_is_told_at_the_start(run: Run) -> None:
    result = run("work", "--types", "tts", TTS_RETRY_DELAY_MS="abc")
    assert result.exit_code == 2
    assert "TTS_RETRY_DELAY_MS must be a whole number" in one_line(result.stderr)
