"""A worker of DreamCuts whose jobs pass a file from a URL into storage, as the built-in types do."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import timedelta
from typing import ClassVar, Literal

import anyio

from benchmarks.program import Hit, Options, main
from benchmarks.programs.dreamcuts_queue import DreamCuts, tell
from dreamcuts.config import Settings
from dreamcuts.jobs.base import JobContext, Payload, Result
from dreamcuts.jobs.produced import store
from dreamcuts.processes import calm_the_collector
from dreamcuts.storage.download import download
from dreamcuts.worker.options import WorkerOptions
from dreamcuts.worker.tools import tools_from
from dreamcuts.worker.worker import Worker


class AssetPayload(Payload):
    """Where the file is, and what it must be."""

    url: str
    kind: Literal["audio", "video"]


class PassOn:
    """Download, look at what it is, store: what follows a provider's answer."""

    name: ClassVar[str] = "bench_asset"
    short_name: ClassVar[str] = "asset"
    payload_model: ClassVar[type[Payload]] = AssetPayload
    default_slots: ClassVar[int] = 1
    retry_delay: ClassVar[timedelta] = timedelta(seconds=1)
    time_limit: ClassVar[timedelta] = timedelta(minutes=5)
    providers: ClassVar[tuple[str, ...]] = ()
    features: ClassVar[tuple[str, ...]] = ()

    async def run(self, ctx: JobContext, payload: AssetPayload) -> Result:
        """One file."""
        target = ctx.workdir / "asset.download"
        await download(ctx.http, payload.url, target, settings=ctx.settings, expect=payload.kind)
        produced = await store(ctx, target, "asset", kind=payload.kind, provider="loopback")
        return Result(produced.asset, produced.as_result())


class AssetWorker(DreamCuts):
    """The queue is the same; only its worker is another."""

    async def work(self, dsn: str, options: Options, hit: Hit, ready: Callable[[], None]) -> None:
        with tempfile.TemporaryDirectory(prefix="dreamcuts-bench-") as folder:
            settings = Settings.load(
                _env_file=None,
                storage_dir=folder,
                storage_base_url="http://127.0.0.1:1/",
                database_url=dsn,
                allow_private_urls=True,
            )
            slots = {PassOn.name: PassOn.default_slots}
            worker = Worker(dsn, {PassOn.name: PassOn()}, WorkerOptions(slots=slots), tools_from(settings))
            calm_the_collector()  # as `dreamcuts work` does
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(tell, worker, ready)
                await worker.run()


if __name__ == "__main__":
    main(AssetWorker())
