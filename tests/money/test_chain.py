"""A chain across providers: a paused one, or one that refuses the account, gives way to another at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Self

import anyio
import pytest
from psycopg.types.json import Jsonb

from dreamcuts.config import Settings
from dreamcuts.errors import ErrorClass, ProviderError
from dreamcuts.jobs.base import JobContext, Payload, Result
from dreamcuts.jobs.paid import Collected, Request, Step, run_chain
from dreamcuts.providers.base import Done, Pending, Provider, Ticket
from dreamcuts.worker import tools as tools_module
from dreamcuts.worker.lease import only_provider
from dreamcuts.worker.options import WorkerOptions
from dreamcuts.worker.tools import tools_from
from dreamcuts.worker.worker import Worker
from tests.money.conftest import Ledger
from tests.support import DEADLINE_S

pytestmark = pytest.mark.anyio


@dataclass
class Maker:
    """A queued provider that makes its answer at once, or refuses with `error_class`."""

    name: str
    error_class: ErrorClass | None = None
    submitted: int = 0
    settings_needed: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        raise NotImplementedError

    async def submit(self, endpoint: str, request: dict[str, Any]) -> Ticket:
        self.submitted += 1
        if self.error_class is not None:
            raise ProviderError("no", provider=self.name, error_class=self.error_class)
        return Ticket(f"{self.name}-{self.submitted}")

    async def poll(self, endpoint: str, ticket: Ticket) -> Pending | Done:
        return Done({"by": self.name})

    async def cancel(self, endpoint: str, ticket: Ticket) -> None: ...

    async def aclose(self) -> None: ...


class Chain:
    """Job type: one step of `first`, a second one of it, and one of `second`."""

    name: ClassVar[str] = "chain"
    short_name: ClassVar[str] = "chain"
    payload_model: ClassVar[type[Payload]] = Payload
    default_slots: ClassVar[int] = 1
    retry_delay: ClassVar[timedelta] = timedelta(milliseconds=1)
    time_limit: ClassVar[timedelta] = timedelta(seconds=60)
    providers: ClassVar[tuple[str, ...]] = ("first", "second")
    features: ClassVar[tuple[str, ...]] = ()

    async def run(self, ctx: JobContext, payload: Any) -> Result:
        steps = [
            Step(provider, endpoint, endpoint, Request({}, 0.1))
            for provider, endpoint in (("first", "a"), ("first", "b"), ("second", "c"))
        ]

        async def collect(step: Step, done: Done) -> Collected[Any]:
            return Collected(done.output["by"], 0.1)

        outcome = await run_chain(ctx, steps, poll_s=0.01, collect=collect)
        return Result(data={"by": outcome.value, **outcome.as_result()})


@pytest.fixture
def makers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Maker]:
    made = {name: Maker(name) for name in ("first", "second")}

    def make(name: str, settings: Settings) -> Provider:
        return made[name]

    monkeypatch.setattr(tools_module, "make_provider", make)
    return made


@pytest.fixture
def carry_out(database: str, tmp_path: Path) -> Callable[[], Any]:
    async def run() -> None:
        settings = Settings.load(storage_dir=tmp_path, storage_base_url="http://assets.example")
        options = WorkerOptions(slots={"chain": 1}, poll_interval=0.05, until_idle=True)
        with anyio.fail_after(DEADLINE_S):
            await Worker(database, {"chain": Chain()}, options, tools_from(settings)).run()

    return run


@pytest.mark.parametrize("error_class", [ErrorClass.AUTH, ErrorClass.QUOTA])
async def test_a_refused_account_gives_way_to_another_provider_only(
    ledger: Ledger, makers: dict[str, Maker], carry_out: Callable[[], Any], error_class: ErrorClass
) -> None:
    makers["first"].error_class = error_class
    jobs = [ledger.add(None, type="chain", payload=Jsonb({})) for _ in range(2)]

    await carry_out()

    rows = [ledger.job(job) for job in jobs]
    assert [(row["status"], row["attempts"], row["result"]["by"]) for row in rows] == [
        ("completed", 1, "second")
    ] * 2
    assert (makers["first"].submitted, makers["second"].submitted) == (1, 2), "paused for the second job"
    first, second = (row["result"]["fallbacks"] for row in rows)
    assert [entry["reason"] for entry in first] == ["no", "skipped: first takes no calls now"]
    assert second[0]["reason"].startswith("first is paused until ")


async def test_with_both_paused_the_job_goes_back_unharmed(
    ledger: Ledger, makers: dict[str, Maker], carry_out: Callable[[], Any]
) -> None:
    job = ledger.add(None, type="chain", payload=Jsonb({}))
    for name in makers:
        ledger.run("select dreamcut_pause_provider(%s, now() + interval '1 hour')", name)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(carry_out)
        with anyio.fail_after(DEADLINE_S):
            while not ledger.job(job)["error_class"]:  # noqa: ASYNC110
                await anyio.sleep(0.02)
        tasks.cancel_scope.cancel()

    row = ledger.job(job)
    assert (row["status"], row["attempts"], row["error_class"]) == ("pending", 0, "paused")
    assert row["next_retry_at"] is not None
    assert makers["first"].submitted == makers["second"].submitted == 0


def test_only_a_type_with_one_provider_waits_for_it_in_the_queue() -> None:
    assert only_provider(Chain()) == ""
    single = type("Single", (Chain,), {"providers": ("first", "first")})
    assert only_provider(single()) == "first"
    assert only_provider(type("Free", (Chain,), {"providers": ()})()) == ""
