"""A worker process whose jobs do nothing: `python -m dreamcuts.bench '{"slots": {"bench_1": 50}}'`.

DATABASE_URL says where. It prints a line once it has taken its place, and ends when nothing is left to do
(`"until_idle": true`), on SIGTERM, or when its stdin closes.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from functools import partial

import anyio
import anyio.to_thread

from dreamcuts.bench.noop import noop_worker
from dreamcuts.processes import calm_the_collector, end_with_parent, has_uvloop
from dreamcuts.worker.worker import Worker


def main() -> None:
    """The worker process."""
    end_with_parent()
    logging.disable(logging.INFO)
    given = json.loads(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="dreamcuts-bench-") as folder:
        worker = noop_worker(
            os.environ["DATABASE_URL"],
            given["slots"],
            folder=folder,
            until_idle=given.get("until_idle", False),
        )
        calm_the_collector()
        anyio.run(_work, worker, backend_options={"use_uvloop": has_uvloop()})


async def _work(worker: Worker) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_say_registered, worker)
        await worker.run(handle_signals=True)
        tasks.cancel_scope.cancel()


async def _say_registered(worker: Worker) -> None:
    await worker.wait_registered()
    await anyio.to_thread.run_sync(partial(print, "registered", flush=True))


if __name__ == "__main__":
    main()
