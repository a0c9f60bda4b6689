"""Secrets are planted in every setting, everything fails in every way and echoes them: they must be nowhere.

Looked at: what the worker logs (text and JSON), every row of every table, its command line, what the health
server and the dashboard say, and what the CLI prints.
"""

from __future__ import annotations

import json
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import psycopg
import pytest
from psycopg.types.json import Jsonb
from pydantic import SecretStr

from dreamcuts.config import Settings
from dreamcuts.errors import ProviderError
from dreamcuts.log import known_secrets
from dreamcuts.providers.shotstack import ShotstackProvider
from dreamcuts.sandbox import Sandbox
from tests.chaos.machine import ROOT, WorkerProcess, clean_environment
from tests.support import Queue, wait_until

SUBMIT = r"^POST /fal-ai/"
ECHOED = {
    # how a provider may give a key back: in a header's form, in JSON, in a URL, as it is
    "header": "Authorization: Key {key} is not valid",
    "json": {
        "detail": [{"type": "bad", "msg": "key {key} was refused", "loc": ["header"], "input": "{key}"}]
    },
    "url": "see https://example.com/login?api_key={quoted}&x=1",
    "plain": "{key}",
}


@dataclass(frozen=True)
class Planted:
    """The environment of a worker whose every key is known to us, and all forms in which one may show up."""

    environment: dict[str, str]
    forms: frozenset[str]

    def check(self, where: str, text: str) -> None:
        for form in self.forms:
            assert form not in text, f"{form!r} stands in {where}: ...{_around(text, form)}..."


def _around(text: str, form: str) -> str:
    at = text.index(form)
    return text[max(0, at - 80) : at + len(form) + 40]


@pytest.fixture
def queue(connection: psycopg.Connection[Any]) -> Queue:
    return Queue(connection)


@pytest.fixture
def planted(database: str, sandbox: Sandbox, tmp_path: Path) -> Iterator[Planted]:
    """The sandbox takes keys that are made for this test; the database's user has a password of its own."""
    sandbox.state.keys = replace(
        sandbox.state.keys,
        elevenlabs="sk_" + secrets.token_hex(20),
        fal=f"{secrets.token_hex(8)}:{secrets.token_hex(16)}",
        shotstack="shot/" + secrets.token_urlsafe(24) + "+=",
        supabase_secret=secrets.token_hex(16),
    )
    password = "pa:ss/wo@rd " + secrets.token_urlsafe(12)
    user = f"planted_{secrets.token_hex(4)}"
    with psycopg.connect(database, autocommit=True) as connection:
        name = psycopg.sql.Identifier(user)
        connection.execute(
            psycopg.sql.SQL("create role {} superuser login password {}").format(
                name, psycopg.sql.Literal(password)
            )
        )
    place = database.partition("@")[2]
    environment = {
        **sandbox.environment(),
        "DATABASE_URL": f"postgresql://{user}:{quote(password, safe='')}@{place}",
        "DASHBOARD_TOKEN": secrets.token_urlsafe(24),
        "ENABLE_HEALTH_CHECK": "true",
        "HEALTH_CHECK_PORT": "0",
        "LEASE_S": "20",
        "POLL_INTERVAL_S": "0.1",
        "PROVIDER_POLL_S": "0.05",
    }
    settings = Settings.load(**{name.lower(): value for name, value in environment.items()})
    unplanted = [
        name
        for name in type(settings).model_fields
        if "SecretStr" in str(type(settings).model_fields[name].annotation) and not settings.has(name.upper())
    ]
    assert unplanted == [], "a new secret setting: plant it here"
    forms: set[str] = set()
    for secret in known_secrets(settings):
        if secret != environment["DATABASE_URL"] and len(secret) >= 8:
            forms |= {secret, quote(secret, safe=""), json.dumps(secret)[1:-1]}
    forms |= {password, quote(password, safe="")}
    yield Planted(environment, frozenset(forms))
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(psycopg.sql.SQL("drop role {}").format(psycopg.sql.Identifier(user)))


def fill(template: object, key: str) -> object:
    text = (
        json.dumps(template).replace("{quoted}", quote(key, safe="")).replace("{key}", json.dumps(key)[1:-1])
    )
    return json.loads(text)


def everything_fails(queue: Queue, sandbox: Sandbox, environment: dict[str, str]) -> list[str]:
    """Jobs that meet each kind of error with each kind of echo, one rule of the sandbox for each."""
    names = []
    for status in (400, 401, 402, 403, 422, 429, 500):
        for kind, template in ECHOED.items():
            names.append(_image(queue, f"submit-{status}-{kind}"))
            body = fill(template, environment["FAL_KEY"])
            sandbox.fail("status", provider="fal", match=names[-1], status=status, body=body)
            names.append(_speech(queue, f"speech-{status}-{kind}"))
            body = fill(template, environment["ELEVENLABS_API_KEY"])
            sandbox.fail("status", provider="elevenlabs", match=names[-1], status=status, body=body)
    for kind, template in ECHOED.items():
        names.append(_image(queue, f"result-{kind}"))
        body = fill(template, environment["FAL_KEY"])
        sandbox.fail("outcome", provider="fal", match=names[-1], status=422, body=body)
    names.append(_image(queue, "upload"))
    sandbox.fail("status", provider="supabase", match="/upload/", status=400, times=None, body={
        "statusCode": "403", "error": "Unauthorized",
        "message": f"jwt {environment['SUPABASE_SERVICE_ROLE_KEY']} is malformed"})  # fmt: skip
    manifest = queue.manifest()
    for what in ("bug", "job"):
        names.append(f"leaks-{what}")
        queue.add(
            manifest,
            names[-1],
            type="chaos_poison",
            payload=Jsonb({"how": "leaks", "what": what}),
            max_attempts=1,
        )
    return names


def _image(queue: Queue, name: str) -> str:
    payload = {"prompt": name, "imageSize": {"width": 64, "height": 64}, "fallbackProviders": []}
    queue.add(None, name, type="gen_image_falai", payload=Jsonb(payload), max_attempts=1)
    return name


def _speech(queue: Queue, name: str) -> str:
    payload = {"text": f"{name} is spoken", "voiceId": "v", "modelId": "eleven_v3"}
    queue.add(None, name, type="tts_elevenlabs", payload=Jsonb(payload), max_attempts=1)
    return name


def every_row(queue: Queue) -> str:
    """All that is stored, as text."""
    tables = queue.rows(
        "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')"
    )
    rows = [
        str(row["text"])
        for table in tables
        for row in queue.rows(f'select t::text as text from public."{table["relname"]}" t')
    ]
    assert len(tables) >= 6
    return "\n".join(rows)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_planted_secrets_are_nowhere(
    planted: Planted, sandbox: Sandbox, queue: Queue, tmp_path: Path, log_format: str
) -> None:
    names = everything_fails(queue, sandbox, planted.environment)
    environment = {**planted.environment, "LOG_FORMAT": log_format, "LOG_LEVEL": "DEBUG"}
    slots = "gen_image_falai:10,tts_elevenlabs:6,chaos_poison:2"
    worker = WorkerProcess(slots, environment, tmp_path / "worker.log")
    try:
        deadline = time.monotonic() + 120
        # A job that found its provider paused has met nothing yet: it must be tried until it has.
        untried = """
            select count(*) from dreamcut_jobs j
            where status <> 'completed' and not exists (
                select 1 from dreamcut_job_attempts a
                where a.job = j.id and a.error_class is distinct from 'paused'
            )
        """
        while queue.value(untried) and time.monotonic() < deadline:
            planted.check("ps", "\n".join(_command_lines(worker.pid)))
            # Accounts are refused here again and again: an operator who resumes the provider each time.
            queue.run("delete from dreamcut_endpoint_limits")
            queue.run("select dreamcut_resume_provider(name) from dreamcut_providers")
            time.sleep(0.05)
        assert queue.value(untried) == 0
        wait_until(
            lambda: not queue.rows("select 1 from dreamcut_jobs where status = 'processing'"), "the jobs"
        )

        # Of all attempts: what was at its limit may have been tried again meanwhile.
        met = queue.rows("select job, error_class from dreamcut_job_attempts where error_class <> 'paused'")
        assert len({row["job"] for row in met}) >= len(names) * 0.9
        assert {"auth", "quota", "invalid_request", "rate_limited", "bug"} <= {
            row["error_class"] for row in met
        }
        planted.check("a row", every_row(queue))
        planted.check("the log", worker.text())
        assert "[hidden]" in worker.text(), "nothing was echoed: the test shows nothing"
        assert "[hidden]" in every_row(queue)
        _check_http(planted, queue, worker)
        _check_cli(planted, queue)
    finally:
        worker.kill()


def _check_http(planted: Planted, queue: Queue, worker: WorkerProcess) -> None:
    found = re.search(r"http://127\.0\.0\.1:\d+", worker.text())
    assert found, worker.text()[:2000]
    for path in ("/health", "/status", "/live", "/ready", "/metrics", "/nothing"):
        answer = httpx.get(found[0] + path, follow_redirects=True, timeout=20)
        planted.check(path, answer.text + str(answer.headers))
    with httpx.Client(base_url=found[0] + "/dashboard", timeout=20) as client:
        hidden = [path for path in _pages(queue) if "[hidden]" in _page(planted, client, path)]
        for kind in ("/jobs/", "/manifests/"):
            assert any(path.startswith(kind) for path in hidden), f"no page {kind}... shows what was hidden"
        token = planted.environment["DASHBOARD_TOKEN"]
        assert client.post("/sign-in", data={"token": token}).status_code == 303
        for path in ("/", "/providers", *hidden[:3]):  # now with the buttons of who may change something
            _page(planted, client, path)


def _pages(queue: Queue) -> list[str]:
    """Every kind of page, and every job's: each met another error."""
    jobs = [f"/jobs/{row['id']}" for row in queue.rows("select id from dreamcut_jobs order by job_id")]
    manifests = [
        f"/manifests/{row['id']}" for row in queue.rows("select id from dreamcut_production_manifest")
    ]
    assert jobs and manifests
    lists = ["/", "/manifests", "/jobs", "/jobs?status=failed", "/workers", "/providers"]
    return [*lists, *manifests, *jobs]


def _page(planted: Planted, client: httpx.Client, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200, (path, answer.text[:500])
    planted.check(f"the dashboard's {path}", answer.text + str(answer.headers))
    return answer.text


def _command_lines(pid: int) -> list[str]:
    """What `ps` shows of a process and of all that it has started."""
    try:
        own = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except (FileNotFoundError, ProcessLookupError):
        return []  # it has ended meanwhile
    return [own, *(line for child in children for line in _command_lines(child))]


def _check_cli(planted: Planted, queue: Queue) -> None:
    (job,) = queue.rows("select id from dreamcut_jobs where job_id = 'leaks-job'")
    for arguments in (
        ("jobs", "list", "--json"),
        ("jobs", "list"),
        ("jobs", "show", str(job["id"])),
        ("jobs", "show", str(job["id"]), "--json"),
        ("providers", "list"),
        ("costs",),
        ("db", "status"),
    ):
        planted.check(" ".join(arguments), _cli(planted.environment, *arguments))


def test_a_process_that_the_cli_starts_has_no_secret_in_its_command_line(
    planted: Planted, tmp_path: Path
) -> None:
    """What the parent knows reaches its worker by the environment alone."""
    environment = {**planted.environment, "ENABLE_HEALTH_CHECK": "false"}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dreamcuts", "work", "--types", "image", "--reload"],
            env={**clean_environment(), **environment, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=tmp_path,
        )
        try:
            wait_until(lambda: "serves image" in (tmp_path / "log").read_text(), "the worker")
            lines: list[str] = []

            def both_are_seen() -> bool:  # a thread that ends meanwhile spoils a look
                lines[:] = _command_lines(process.pid)
                return sum("dreamcuts work" in line for line in lines) == 2

            wait_until(both_are_seen, "the parent and its worker")
            planted.check("ps", "\n".join(lines))
        finally:
            process.terminate()
            process.wait(60)
    planted.check("the log", (tmp_path / "log").read_text())


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param({"port": "1"}, id="nobody listens"),
        pytest.param({"password": "wrong/pass@word"}, id="wrong password"),
        pytest.param({"scheme": "postgres+nonsense"}, id="no address at all"),
        pytest.param({"query": "?sslmode=verify-full"}, id="no encryption"),
        pytest.param(
            {"password": "unwritten@/part#of%it", "raw": "yes"}, id="a password that is not escaped"
        ),
    ],
)
def test_a_database_that_cannot_be_reached_does_not_show_its_password(
    planted: Planted, broken: dict[str, str]
) -> None:
    address = planted.environment["DATABASE_URL"]
    if "port" in broken:
        address = re.sub(r":\d+/", ":1/", address)
    if "password" in broken:
        password = broken["password"] if "raw" in broken else quote(broken["password"], safe="")
        address = re.sub(r"(//[^:]+:)[^@]+", lambda found: found[1] + password, address)
    address = (
        broken.get("scheme", "postgresql") + address.removeprefix("postgresql") + broken.get("query", "")
    )
    secret = (
        planted if "password" not in broken else Planted(planted.environment, frozenset({"wrong/pass@word"}))
    )
    for arguments in (
        ("jobs", "list"),
        ("db", "status"),
        ("work", "--types", "image", "--log-level", "DEBUG"),
    ):
        said = _cli({**planted.environment, "DATABASE_URL": address}, *arguments, fails=True)
        secret.check(" ".join(arguments), said)
        assert "Traceback" not in said


@pytest.mark.anyio
@pytest.mark.parametrize("status", [400, 402, 403, 429, 500])
async def test_shotstack_that_echoes_its_key(sandbox: Sandbox, status: int) -> None:
    """The render's provider, called itself: its error is what the job's rows and log lines are made of."""
    key = "shot/" + secrets.token_urlsafe(24) + "+="
    for template in ECHOED.values():
        sandbox.fail("status", provider="shotstack", status=status, body=fill(template, key))
        provider = ShotstackProvider.from_settings(
            Settings.load(shotstack_api_key=SecretStr(key), shotstack_base_url=f"{sandbox.url}/shotstack")
        )
        with pytest.raises(ProviderError) as refused:
            await provider.submit("stage", {"timeline": {}})
        await provider.aclose()
        said = f"{refused.value} {refused.value.detail}"
        for form in (key, quote(key, safe="")):
            assert form not in said


def _cli(environment: dict[str, str], *arguments: str, fails: bool = False) -> str:
    """What a command prints, and what `ps` shows of it while it runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dreamcuts", *arguments],
        env={**clean_environment(), **environment, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=Path(__file__).parent,
    )
    seen: set[str] = set()
    deadline = time.monotonic() + 60
    while True:
        seen |= set(_command_lines(process.pid))
        try:
            said, _ = process.communicate(timeout=0.05)
            break
        except subprocess.TimeoutExpired:
            if time.monotonic() > deadline:
                process.kill()
                process.communicate()
                raise
    assert (process.returncode != 0) == fails, said
    return "\n".join([said, *seen])
