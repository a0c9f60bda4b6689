"""run_job: a job type that is installed nowhere, in a real Postgres, by the real worker."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from dreamcuts.client import Client
from dreamcuts.errors import ConfigError, DatabaseError
from dreamcuts.sandbox import Sandbox
from dreamcuts.testing import (
    SERVER_VARIABLE,
    IsolatedSettings,
    JobRun,
    JobUnfinished,
    run_job,
    run_job_async,
    scratch_database,
)
from tests.plugins.things import EndlessJob, NoteJob, TypedJob, Typist

TYPIST = {"TYPIST_KEY": "open sesame"}


@pytest.fixture(autouse=True)
def empty_desk() -> None:
    Typist.desk.clear()
    Typist.cancelled.clear()


def test_one_line_gives_the_result_and_the_file() -> None:
    run = run_job(NoteJob(), {"text": "hello"})

    assert (run.status, run.type, run.attempts) == ("completed", "write_note", 1)
    assert run.file is not None and run.file.read_text() == "hello"
    assert run.output_url == run.file.as_uri()
    assert run.result["contentType"] == "text/plain"
    assert (run.error_class, run.error_message, run.failures, run.calls) == (None, None, [], [])


@pytest.mark.anyio
async def test_from_a_coroutine_and_with_a_class_in_place_of_an_instance() -> None:
    run = await run_job_async(NoteJob, {"text": "hello"}, manifest={"title": "The film"})
    assert run.status == "completed"
    assert run.result["title"] == "The film"
    with pytest.raises(TypeError, match="await run_job_async"):
        run_job(NoteJob, {"text": "hello"})


def test_a_payload_that_does_not_fit_is_an_ordinary_outcome() -> None:
    run = run_job(NoteJob(), {"text": ""})
    assert (run.status, run.error_class, run.file) == ("failed", "invalid_request", None)
    assert run.error_message is not None and "text: String should have at least 1" in run.error_message


def test_attempts_are_as_many_as_asked_for_and_follow_at_once() -> None:
    once = run_job(NoteJob(), {"text": "x", "failures": 1})
    assert (once.status, once.attempts, once.error_class) == ("failed", 1, "transient")

    twice = run_job(NoteJob(), {"text": "x", "failures": 1}, max_attempts=2)
    assert (twice.status, twice.attempts) == ("completed", 2)
    assert [failure["error_message"] for failure in twice.failures] == ["no luck in attempt 1"]


@pytest.mark.parametrize("error_class", ["auth", "rate_limited"])
def test_a_class_that_uses_up_no_attempt_does_not_run_for_ever(error_class: str) -> None:
    run = run_job(NoteJob(), {"text": "x", "failures": 99, "errorClass": error_class}, max_attempts=2)
    assert run.error_class == error_class
    assert 1 <= len(run.failures) <= 2
    assert run.status in ("pending", "failed")


def test_an_endless_job_is_stopped_and_told_about() -> None:
    with pytest.raises(JobUnfinished, match=r"had not ended after 0\.3 s: it is pending"):
        run_job(EndlessJob(), {"text": "x"}, timeout_s=0.3)


def test_a_provider_that_is_not_installed_and_its_calls() -> None:
    run = run_job(TypedJob(), {"text": "dear reader"}, providers=[Typist], settings=TYPIST)
    assert run.result["typed"] == "dear reader"
    (call,) = run.calls
    assert (call["provider"], call["endpoint"], call["status"]) == ("typist", "desk", "succeeded")
    assert float(call["cost_usd"]) == 0.5


def test_an_interrupted_job_is_picked_up_where_it_was() -> None:
    run = run_job(TypedJob(), {"text": "x"}, providers=[Typist], settings=TYPIST, interrupt=True)
    assert (run.status, run.attempts) == ("completed", 1)
    assert len(run.calls) == len(Typist.desk) == 1
    assert [failure["outcome"] for failure in run.failures] == ["released"]


def test_nothing_to_interrupt_is_said() -> None:
    with pytest.raises(JobUnfinished, match="submitted none to a queued provider: it is completed"):
        run_job(NoteJob(), {"text": "x"}, interrupt=True)


def test_no_setting_of_the_machine_reaches_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TYPIST_KEY", "open sesame")
    monkeypatch.setenv("TYPED_RETRY_DELAY_MS", "3600000")
    monkeypatch.setenv("FAL_KEY", "real:money")
    Path(".env.local").write_text("TYPIST_KEY=open sesame\nSHOTSTACK_API_KEY=real money\n")
    settings = IsolatedSettings.of({"LOG_LEVEL": "DEBUG"})
    assert settings.log_level == "DEBUG"
    assert not settings.has("FAL_KEY") and not settings.has("SHOTSTACK_API_KEY")

    run = run_job(TypedJob(), {"text": "x"}, providers=[Typist], max_attempts=1)
    assert run.error_class == "auth"
    assert (
        run.error_message is not None and "TYPIST_KEY (needed for the provider typist)" in run.error_message
    )
    assert Typist.desk == {}


def test_a_wrong_shape_is_refused_before_anything_runs() -> None:
    class Half:
        name = "half"

    with pytest.raises(ConfigError, match="Half is no job type: it has no short_name, payload_model"):
        run_job(Half)
    with pytest.raises(ConfigError, match="Half is no provider: it has no settings_needed"):
        run_job(NoteJob, {"text": "x"}, providers=[Half])
    with pytest.raises(ConfigError, match="'speach' does not exist"):
        run_job("speach")


def test_a_built_in_type_runs_by_its_name(sandbox: Sandbox) -> None:
    payload = {"text": "whoosh", "durationSeconds": 1.0}
    run = run_job("sound_effects", payload, settings=_providers_of(sandbox))
    assert run.status == "completed", run.error_message
    assert run.file is not None and run.file.stat().st_size > 1000
    assert len(run.calls) == len(sandbox.bills("elevenlabs")) == 1


def test_the_fixture_keeps_one_database_for_the_test(
    run_dreamcuts_job: Callable[..., JobRun], dreamcuts_database: str, tmp_path: Path
) -> None:
    for text in ("one", "two"):
        run = run_dreamcuts_job(NoteJob(), {"text": text})
        assert run.file is not None and run.file.is_relative_to(tmp_path)
    with psycopg.connect(dreamcuts_database, autocommit=True) as connection:
        assert connection.execute("select count(*) from dreamcut_jobs").fetchone() == (2,)
        Client(connection).enqueue("write_note", {"text": "somebody else's"})
    with pytest.raises(DatabaseError, match="holds an open job"):
        run_dreamcuts_job(NoteJob(), {"text": "three"})


def test_scratch_databases_are_apart_and_leave_nothing() -> None:
    server = os.environ[SERVER_VARIABLE]
    with scratch_database() as one, scratch_database() as two:
        assert one != two
    with psycopg.connect(server) as connection:
        names = {row[0] for row in connection.execute("select datname from pg_database")}
    assert not {dsn.rpartition("/")[2] for dsn in (one, two)} & names


def test_a_server_that_is_away_or_no_url_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SERVER_VARIABLE, "postgresql://nobody:hush@127.0.0.1:1/none")
    with pytest.raises(DatabaseError, match=f"cannot be used: .*Check {SERVER_VARIABLE}") as raised:
        run_job(NoteJob(), {"text": "x"})
    assert "hush" not in str(raised.value)
    with pytest.raises(ConfigError, match="must be given as a URL"), scratch_database("host=localhost"):
        pass


def test_without_a_server_one_is_started_and_nothing_is_left(tmp_path: Path) -> None:
    code = (
        "from dreamcuts.testing import run_job\n"
        "from dreamcuts.testing.database import _home\n"
        "from tests.plugins.things import NoteJob\n"
        "run = run_job(NoteJob(), {'text': 'hello'})\n"
        "print(run.status, run.file.read_text(), _home(None)._embedded.log_file.parent, run.file)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    del environment[SERVER_VARIABLE]
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    status, text, cluster, file = done.stdout.split(maxsplit=3)
    assert (status, text) == ("completed", "hello")
    assert not Path(cluster).exists() and not Path(file.strip()).exists()


def _providers_of(sandbox: Sandbox) -> dict[str, str]:
    kept = ("ELEVENLABS", "FAL", "SHOTSTACK")
    return {name: value for name, value in sandbox.environment().items() if name.startswith(kept)}
