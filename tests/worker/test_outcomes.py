"""Whatever a job type returns or raises becomes an outcome of that job, and never the end of its worker."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import anyio
import pytest

from dreamcuts.errors import ErrorClass, JobError, LeaseLost
from dreamcuts.jobs.base import JobContext, Result
from dreamcuts.jobs.reuse import Reused
from dreamcuts.storage.base import Asset
from dreamcuts.worker.attempt import only_cause
from tests.support import Queue
from tests.worker.conftest import Start
from tests.worker.play import Play, PlayPayload
from tests.worker.test_running import do, run_until_idle, status

pytestmark = pytest.mark.anyio


class Unreadable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class UnreadableJobError(JobError):
    def __str__(self) -> str:
        raise SystemExit("no text either")


class BareJobError(JobError):
    def __init__(self) -> None:
        """Forgets its base class's."""


def odd(**changes: Any) -> JobError:
    error = JobError("odd")
    for name, value in changes.items():
        setattr(error, name, value)
    return error


ERRORS: dict[str, BaseException] = {
    "unreadable": Unreadable(),
    "unreadable_job_error": UnreadableJobError("x"),
    "bare": BareJobError(),
    "detail_list": odd(detail=["a"]),
    "class_text": odd(error_class="content_rejected"),
    "class_unknown": odd(error_class="no such class"),
    "class_list": odd(error_class=["transient"]),
    "retry_text": odd(error_class=ErrorClass.TRANSIENT, retry_after="900"),
    "retry_word": odd(error_class=ErrorClass.TRANSIENT, retry_after="soon"),
    "retry_nan": odd(error_class=ErrorClass.TRANSIENT, retry_after=float("nan")),
    "retry_huge": odd(error_class=ErrorClass.TRANSIENT, retry_after=10**400),
    "message_object": JobError(object()),
}
RESULTS: dict[str, Any] = {
    "data_list": Result(data=[1, 2]),
    "data_pairs": Result(data=[("a", 1)]),
    "data_none": Result(data=None),
    "asset_text": Result(asset="http://x/y.png"),
    "asset_url": Result(asset=Asset("p", 5, "image/png", 1, "00")),
}


class Odd(Play):
    """Raises or returns what the payload names."""

    async def _raise(self, ctx: JobContext, payload: PlayPayload) -> Result:
        raise ERRORS[str(ctx.job.payload["odd"])]

    async def _return(self, ctx: JobContext, payload: PlayPayload) -> Result:
        return RESULTS[str(ctx.job.payload["odd"])]

    async def _group(self, ctx: JobContext, payload: PlayPayload) -> Result:
        async def deep() -> None:
            async with anyio.create_task_group() as inner:
                inner.start_soon(self._refuse, ctx, payload)
                inner.start_soon(anyio.sleep, 20)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(deep)
        raise AssertionError("not reached")

    async def _group_reused(self, ctx: JobContext, payload: PlayPayload) -> Result:
        raise ExceptionGroup("one", [Reused(Result(data={"reused": True}))])

    async def _group_of_two(self, ctx: JobContext, payload: PlayPayload) -> Result:
        raise ExceptionGroup("two", [JobError("a"), JobError("b")])


async def outcome_of(start: Start, queue: Queue, what: str, do_what: str) -> dict[str, Any]:
    """The row of a job of which one attempt was made, after another job of the same worker completed."""
    bad = queue.add(None, "bad", payload=do(do_what, odd=what), max_attempts=1, priority=20)
    good = queue.add(None, "good", payload=do("quick"))
    async with start(types=(Odd(),)) as worker:
        await _until_attempted(queue, bad)
        await _until_attempted(queue, good)
        assert worker.is_running()
    assert status(queue, good) == ["completed"]
    return queue.job(bad)


async def _until_attempted(queue: Queue, job: Any) -> None:
    with anyio.fail_after(20):
        while not queue.history(job) and status(queue, job) != ["completed"]:  # noqa: ASYNC110
            await anyio.sleep(0.02)


@pytest.mark.parametrize(
    ("what", "error_class", "text"),
    [
        ("unreadable", "bug", "Unexpected Unreadable: Unreadable, whose text cannot be read"),
        ("unreadable_job_error", "bug", "The job raised an error that cannot be read"),
        ("bare", "transient", ""),
        ("detail_list", "transient", "odd"),
        ("class_text", "content_rejected", "odd"),
        ("class_unknown", "bug", "odd"),
        ("class_list", "bug", "odd"),
        ("retry_text", "transient", "odd"),
        ("retry_word", "transient", "odd"),
        ("retry_nan", "transient", "odd"),
        ("retry_huge", "transient", "odd"),
        ("message_object", "transient", "<object object"),
    ],
)
async def test_an_odd_error_fails_its_job_alone(
    start: Start, queue: Queue, what: str, error_class: str, text: str
) -> None:
    row = await outcome_of(start, queue, what, "raise")
    assert (row["status"], row["error_class"]) == ("failed", error_class)
    assert row["error_message"].startswith(text)


@pytest.mark.parametrize("what", list(RESULTS))
async def test_an_odd_result_fails_its_job_alone(start: Start, queue: Queue, what: str) -> None:
    row = await outcome_of(start, queue, what, "return")
    assert (row["status"], row["error_class"]) == ("failed", "bug")
    assert row["error_message"].startswith(("Unexpected TypeError", "Unexpected AttributeError"))


async def test_a_retry_after_given_as_text_is_heeded(start: Start, queue: Queue) -> None:
    job = queue.add(None, payload=do("raise", odd="retry_text"), max_attempts=2)
    async with start(types=(Odd(),)):
        await _until_attempted(queue, job)
    delay = queue.job(job)["next_retry_at"] - queue.value("select now()")
    assert timedelta(seconds=800) < delay <= timedelta(seconds=900)


async def test_a_lone_error_of_a_jobs_task_group_keeps_its_class(start: Start, queue: Queue) -> None:
    row = await outcome_of(start, queue, "", "group")
    assert (row["error_class"], row["error_message"]) == ("invalid_request", "no such voice")
    assert queue.history(row["id"])[0]["detail"] == {"voice": "x"}


async def test_two_errors_of_a_jobs_task_group_are_a_bug(start: Start, queue: Queue) -> None:
    row = await outcome_of(start, queue, "", "group_of_two")
    assert row["error_class"] == "bug" and "ExceptionGroup" in row["error_message"]


async def test_a_reused_asset_found_in_a_task_group_counts(start: Start, queue: Queue) -> None:
    job = queue.add(None, payload=do("group_reused"))
    assert await run_until_idle(start, types=(Odd(),)) == {"completed": 1}
    assert queue.job(job)["result"] == {"reused": True}


def test_only_a_lone_cause_is_taken_out_of_its_groups() -> None:
    lost = LeaseLost("x")
    assert only_cause(lost) is lost
    assert only_cause(ExceptionGroup("a", [ExceptionGroup("b", [lost])])) is lost
    two = ExceptionGroup("two", [lost, ValueError()])
    assert only_cause(ExceptionGroup("a", [two])) is two
