"""Calls to providers as a worker makes them, over plain connections, and real workers with the sandbox."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import anyio
import psycopg
import pytest
from psycopg.types.json import Jsonb

from dreamcuts.config import Settings
from dreamcuts.jobs.registry import load_job_types
from dreamcuts.sandbox import Sandbox
from dreamcuts.worker.options import WorkerOptions
from dreamcuts.worker.tools import tools_from
from dreamcuts.worker.worker import Worker
from tests.support import Held, Queue

LIMIT, SPEND_LIMIT, PAUSED = "DC002", "DC003", "DC004"


class Ledger(Queue):
    """The queue, with what concerns calls to providers."""

    def begin(
        self,
        worker: UUID,
        held: Held,
        *,
        provider: str = "fal",
        endpoint: str = "fal-ai/flux",
        usd: float | None = 0.25,
        hashed: str | None = None,
    ) -> UUID:
        call = self.value(
            "select dreamcut_begin_call(%s, %s, %s, %s, %s, 0, '{}', %s::numeric, %s)",
            worker, held.id, held.claims, provider, endpoint, usd, hashed,
        )  # fmt: skip
        return UUID(str(call))

    def submitted(self, call: UUID) -> None:
        self.run("select dreamcut_submitted_call(%s, 'request', '{}')", call)

    def close(
        self,
        call: UUID,
        status: str = "succeeded",
        *,
        usd: float | None = None,
        error_class: str | None = None,
        error: str | None = None,
        **detail: Any,
    ) -> None:
        if error_class:
            detail["class"] = error_class
        self.run(
            "select dreamcut_finish_call(%s, %s, %s::numeric, %s, %s)",
            call, status, usd, error, Jsonb(detail) if detail else None,
        )  # fmt: skip

    def call(self, call: UUID) -> dict[str, Any]:
        return self.row("select * from dreamcut_provider_calls where id = %s", call)

    def limit(self, provider: str = "fal", endpoint: str | None = None, **limits: Any) -> None:
        self.run("select dreamcut_limit_provider(%s, %s, %s)", provider, Jsonb(limits), endpoint)

    def provider(self, name: str = "fal") -> dict[str, Any]:
        return self.row("select * from dreamcut_provider_states where name = %s", name)

    def held(
        self, count: int = 1, *, manifest: UUID | None = None, type: str = "work", **columns: Any
    ) -> tuple[UUID, list[Held]]:
        """A worker that holds so many jobs."""
        for _ in range(count):
            self.add(manifest, type=type, **columns)
        worker = self.worker([type])
        held = self.claim(worker, count, type)
        assert len(held) == count
        return worker, held

    def claim_regardless(self) -> None:
        """Let workers claim as if they did not know their types' providers."""
        self.run(
            "create function no_gate() returns trigger language plpgsql as "
            "$$ begin new.providers := '{}'; return new; end $$"
        )
        self.run(
            "create trigger no_gate before insert on dreamcut_workers for each row execute function no_gate()"
        )

    def later(self, seconds: float) -> None:
        """Let time pass for providers and calls: everything of theirs happened so much earlier."""
        by = f"{seconds} seconds"
        self.run(
            "update dreamcut_providers set slowed_at = slowed_at - %s::interval,"
            " paused_until = paused_until - %s::interval",
            by, by,
        )  # fmt: skip
        self.run("update dreamcut_provider_calls set created_at = created_at - %s::interval", by)


@contextmanager
def refused(sqlstate: str) -> Iterator[dict[str, Any]]:
    """The block is refused with this SQLSTATE; what stands in the DETAIL is filled in, with the `message`."""
    info: dict[str, Any] = {}
    with pytest.raises(psycopg.Error) as caught:
        yield info
    assert caught.value.sqlstate == sqlstate, caught.value
    info.update(json.loads(caught.value.diag.message_detail or "{}"))
    info["message"] = caught.value.diag.message_primary


@pytest.fixture
def ledger(connection: psycopg.Connection[Any]) -> Ledger:
    return Ledger(connection)


@pytest.fixture
def settings(sandbox: Sandbox) -> Settings:
    environment = {name.lower(): value for name, value in sandbox.environment().items()}
    sandbox.options.fal_queue_seconds = 0.05
    return Settings.load(**environment, provider_poll_s=0.05, retry_delay_ms=0)


@pytest.fixture
def work(database: str, settings: Settings) -> Callable[..., Worker]:
    """`work(image=2, heartbeat=0.2)`: a worker for these types, by short name, against the sandbox."""

    def make(until_idle: bool = True, heartbeat: float = 5, listen: bool = True, **slots: int) -> Worker:
        types = {job_type.short_name: job_type for job_type in load_job_types().values()}
        chosen = {types[name].name: number for name, number in slots.items()}
        options = WorkerOptions(
            slots=chosen,
            poll_interval=0.05,
            heartbeat=heartbeat,
            until_idle=until_idle,
            listen=listen,
            shutdown_timeout=0,
        )
        return Worker(database, load_job_types(), options, tools_from(settings))

    return make


async def until(condition: Callable[[], object], what: str = "the condition") -> None:
    """Wait until the condition is true; fails after half a minute."""
    with anyio.fail_after(30):
        while not condition():  # noqa: ASYNC110  (the condition is another process's)
            await anyio.sleep(0.02)


def manifest_with(ledger: Ledger, flags: dict[str, Any] | None = None, user: UUID | None = None) -> UUID:
    """A manifest with these featureFlags."""
    body = {"metadata": {"durationSeconds": 5, "featureFlags": flags or {}}}
    return ledger.manifest(manifest_json=Jsonb(body), user_id=user)
