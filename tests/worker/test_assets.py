"""What a job's result names stays what it was: nobody else's file, and no late one, takes its place."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from dreamcuts.jobs.base import JobContext, Result
from tests.support import Queue, until
from tests.worker.conftest import Start
from tests.worker.play import Play, PlayPayload
from tests.worker.test_running import do, status

pytestmark = pytest.mark.anyio


class Maker(Play):
    """Stores what its payload's number says; the first claim of a job does so only when it may go."""

    async def _make(self, ctx: JobContext, payload: PlayPayload) -> Result:
        file = ctx.workdir / "voice.txt"
        file.write_text(f"number {payload.number}, made by claim {ctx.job.claim}")
        if ctx.job.claim == 1:
            await self.go.wait()
        return Result(await ctx.save(file, "voice.txt", "text/plain"))

    async def _same(self, ctx: JobContext, payload: PlayPayload) -> Result:
        file = ctx.workdir / "voice.txt"
        file.write_text("always the same")
        return Result(await ctx.save(file, "voice.txt", "text/plain"))


def stored(queue: Queue, job: object, folder: Path) -> str:
    """What a result's URL gives."""
    url = queue.row("select output_url from dreamcut_jobs where id = %s", job)["output_url"]
    return (folder / "assets" / urlsplit(url).path.removeprefix("/a/")).read_text()


async def test_two_jobs_of_one_name_without_a_manifest_keep_their_files(
    start: Start, queue: Queue, tmp_path: Path
) -> None:
    play = Maker()
    play.go.set()
    jobs = [queue.add(None, "voice", payload=do("make", number=number)) for number in (1, 2)]
    same = [queue.add(None, "voice", payload=do("same")) for _ in range(2)]
    async with start(types=(play,)):
        await until(lambda: status(queue, *jobs, *same) == ["completed"] * 4)
    assert [stored(queue, job, tmp_path) for job in jobs] == [
        "number 1, made by claim 1",
        "number 2, made by claim 1",
    ]
    urls = {row["output_url"] for row in queue.rows("select output_url from dreamcut_jobs")}
    assert len(urls) == 4  # also what is the same byte for byte has an owner of its own


async def test_a_worker_that_lost_its_job_does_not_overwrite_what_the_heir_stored(
    start: Start, queue: Queue, tmp_path: Path
) -> None:
    play = Maker()
    _, jobs = queue.graph({"voice": []}, payload=do("make", number=1))
    job = jobs["voice"]
    # It does not hear that the job is not its own any more, and has no slot to claim it again.
    async with start(slots=1, types=(play,), heartbeat=3600, lease=7200, listen=False) as ghost:
        await until(lambda: play.active == 1)
        queue.release(job)
        async with start(types=(play,)):
            await until(lambda: status(queue, job) == ["completed"])
            before = queue.job(job)
            play.go.set()
            await until(lambda: ghost.counts["refused"] == 1)
    assert queue.job(job) == before
    assert stored(queue, job, tmp_path) == "number 1, made by claim 2"
    made = sorted(path.read_text() for path in (tmp_path / "assets").rglob("voice.txt"))
    assert made == ["number 1, made by claim 1", "number 1, made by claim 2"]


async def test_the_same_file_keeps_its_place(start: Start, queue: Queue, tmp_path: Path) -> None:
    """A repeated attempt leaves one file, and captions stored anew are the same request to the render."""
    play = Maker()
    _, jobs = queue.graph({"voice": []}, payload=do("same"))
    job = jobs["voice"]
    async with start(types=(play,)):
        await until(lambda: status(queue, job) == ["completed"])
        first = queue.job(job)["output_url"]
        queue.run("update dreamcut_jobs set status = 'failed' where id = %s", job)
        queue.retry(job)
        await until(lambda: status(queue, job) == ["completed"] and queue.job(job)["claims"] == 2)
    assert queue.job(job)["output_url"] == first
    assert len(list((tmp_path / "assets").rglob("voice.txt"))) == 1
