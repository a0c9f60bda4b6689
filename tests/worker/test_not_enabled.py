"""ENABLE_WORKERS=false: a process that is there, claims nothing, and tells whoever looks for a worker."""

from __future__ import annotations

from pathlib import Path

from dreamcuts.sandbox import Sandbox
from tests.chaos.machine import WorkerProcess
from tests.support import Queue, wait_until


def test_a_worker_that_is_not_enabled_has_no_slots(
    database: str, queue: Queue, sandbox: Sandbox, tmp_path: Path
) -> None:
    settings = {
        **sandbox.environment(),
        "DATABASE_URL": database,
        "ENABLE_WORKERS": "false",
        "HEARTBEAT_S": "0.2",
    }
    beats = "select count(*) from dreamcut_workers where heartbeat_at > started_at + interval '0.5 s'"
    worker = WorkerProcess("chaos_step:8,gen_image_falai:4", settings, tmp_path / "log")
    try:
        worker.wait_for("serves")
        assert queue.value("select slots from dreamcut_workers") == [0, 0]
        job = queue.add(None, type="chaos_step")
        queue.value("select dreamcut_scale_type('chaos_step', 5)")
        wait_until(lambda: queue.value(beats) == 1, "a heartbeat after it")
        assert queue.value("select slots from dreamcut_workers") == [0, 0]
        assert queue.job(job)["status"] == "pending"
        assert worker.stop() == 0
    finally:
        worker.kill()
