"""Job types and providers that no package installs, for the tests of the testing kit."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar, Self

import anyio
from pydantic import Field

from dreamcuts.config import Settings
from dreamcuts.errors import ErrorClass, JobError, ProviderError
from dreamcuts.jobs.base import JobContext, Payload, Result
from dreamcuts.jobs.paid import Collected, Request, Step, run_chain
from dreamcuts.providers.base import Done, Pending, Ticket
from dreamcuts.providers.rules import REQUEST_GONE


class NotePayload(Payload):
    """What the job writes, and how often it fails first."""

    text: str = Field(min_length=1)
    failures: int = 0
    error_class: ErrorClass = ErrorClass.TRANSIENT


class NoteJob:
    """Writes its text into a file."""

    name: ClassVar[str] = "write_note"
    short_name: ClassVar[str] = "note"
    payload_model: ClassVar[type[Payload]] = NotePayload
    default_slots: ClassVar[int] = 1
    retry_delay: ClassVar[timedelta] = timedelta(hours=1)
    time_limit: ClassVar[timedelta] = timedelta(minutes=1)
    providers: ClassVar[tuple[str, ...]] = ()
    features: ClassVar[tuple[str, ...]] = ()

    async def run(self, ctx: JobContext, payload: Any) -> Result:
        if ctx.job.claim <= payload.failures:
            raise JobError(f"no luck in attempt {ctx.job.claim}", error_class=payload.error_class)
        file = ctx.workdir / "note.txt"
        file.write_text(payload.text)
        title = (await ctx.manifest()).get("title")
        return Result(await ctx.save(file, "a note.txt", "text/plain"), {"title": title})


class EndlessJob(NoteJob):
    """Never ends by itself."""

    name: ClassVar[str] = "never_ends"
    short_name: ClassVar[str] = "endless"

    async def run(self, ctx: JobContext, payload: Any) -> Result:
        await anyio.sleep_forever()
        raise AssertionError


class Typist:
    """A queued provider: a desk that all its instances share, as a service's computer would be."""

    name: ClassVar[str] = "typist"
    settings_needed: ClassVar[tuple[str, ...]] = ("TYPIST_KEY",)
    desk: ClassVar[dict[str, int]] = {}
    cancelled: ClassVar[list[str]] = []

    def __init__(self, key: str) -> None:
        self._key = key

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        return cls(settings.secret("TYPIST_KEY"))

    async def aclose(self) -> None:
        pass

    async def submit(self, endpoint: str, request: dict[str, Any]) -> Ticket:
        if self._key != "open sesame":
            raise self.refused("The key is not known.", ErrorClass.AUTH)
        if not request.get("text"):
            raise self.refused("There is no text.", ErrorClass.INVALID_REQUEST)
        number = f"request-{len(self.desk) + 1}"
        self.desk[number] = 0
        return Ticket(number, {"text": request["text"]})

    async def poll(self, endpoint: str, ticket: Ticket) -> Pending | Done:
        if ticket.request_id not in self.desk:
            raise self.refused("It is gone.", ErrorClass.TRANSIENT, REQUEST_GONE)
        self.desk[ticket.request_id] += 1
        if self.desk[ticket.request_id] < 3:
            return Pending("still typing")
        return Done({"text": ticket.detail["text"]})

    async def cancel(self, endpoint: str, ticket: Ticket) -> None:
        self.cancelled.append(ticket.request_id)

    def refused(self, text: str, error_class: ErrorClass, code: str | None = None) -> ProviderError:
        return ProviderError(text, provider=self.name, error_class=error_class, code=code)


class TypedJob(NoteJob):
    """Lets the typist write."""

    name: ClassVar[str] = "type_note"
    short_name: ClassVar[str] = "typed"
    providers: ClassVar[tuple[str, ...]] = ("typist",)

    async def run(self, ctx: JobContext, payload: Any) -> Result:
        async def collect(step: Step, done: Done) -> Collected[str]:
            return Collected(str(done.output["text"]), 0.5)

        steps = [Step("typist", "desk", "typist", Request({"text": payload.text}, 0.5))]
        outcome = await run_chain(ctx, steps, poll_s=0.05, collect=collect)
        return Result(data={"typed": outcome.value, **outcome.as_result()})
