"""Worker processes as children: started, watched, restarted, scaled, stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from dreamcuts import orchestrator
from dreamcuts.errors import ConfigError, DatabaseError
from dreamcuts.orchestrator import Orchestrator, start_sound_effects_worker
from tests.support import Queue, wait_until


@pytest.fixture
def workers(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Orchestrator]:
    monkeypatch.setattr(orchestrator, "FIRST_PAUSE_S", 0.05)
    with Orchestrator(["sound_effects:2", "image"], environment=environment) as started:
        started.wait_ready()
        yield started


def pids(workers: Orchestrator) -> dict[str, Any]:
    return {worker.name: worker.pid for worker in workers.status().workers}


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_process_for_each_type_and_none_left_at_the_end(environment: dict[str, str], queue: Queue) -> None:
    with Orchestrator(["sound_effects:2", "image"], environment=environment) as workers:
        workers.wait_ready()
        status = workers.status()
        assert status.is_running
        assert [(worker.name, worker.state, worker.slots) for worker in status.workers] == [
            ("sound_effects:2", "running", {"gen_sound_effects_elevenlabs": 2}),
            ("image", "running", {"gen_image_falai": 2}),
        ]
        started = [worker.pid for worker in status.workers]
        assert queue.value("select count(*) from dreamcut_workers where state = 'live'") == 2
    assert not any(is_there(pid) for pid in started if pid is not None)
    assert queue.value("select array_agg(distinct state) from dreamcut_workers") == ["stopped"]
    assert not workers.status().is_running


def test_restart_replaces_the_processes_of_one_type(workers: Orchestrator, queue: Queue) -> None:
    before = pids(workers)
    workers.restart("sound_effects")
    workers.wait_ready()
    after = pids(workers)
    assert after["image"] == before["image"]
    assert after["sound_effects:2"] != before["sound_effects:2"]
    assert not is_there(before["sound_effects:2"])
    assert [worker.restarts for worker in workers.status().workers] == [0, 0]
    assert queue.value("select count(*) from dreamcut_workers where state = 'stopped'") == 1
    with pytest.raises(ConfigError, match="No process here serves 'tts'"):
        workers.restart("tts")


def test_a_crash_is_mended(workers: Orchestrator) -> None:
    before = pids(workers)["image"]
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: pids(workers)["image"] not in (None, before), "another process")
    (image,) = [worker for worker in workers.status().workers if worker.name == "image"]
    assert (image.restarts, image.exit_code) == (1, -signal.SIGKILL)


def test_who_was_drained_stays_away_until_restart(workers: Orchestrator, queue: Queue) -> None:
    worker = workers.status().workers[0].worker
    queue.value("select dreamcut_command_workers(%s, 'drain')", [worker])
    wait_until(lambda: workers.status().workers[0].state == "ended", "the process to end")
    assert workers.status().workers[0].exit_code == 0
    workers.restart("sound_effects")
    workers.wait_ready()


def test_an_operators_restart_works_here_too(workers: Orchestrator, queue: Queue) -> None:
    """The process replaces itself: it stays our child."""
    before = workers.status().workers[0]
    queue.value("select dreamcut_command_workers(%s, 'restart')", [before.worker])
    wait_until(lambda: workers.status().workers[0].worker not in (None, before.worker), "a fresh one")
    after = workers.status().workers[0]
    assert (after.pid, after.restarts) == (before.pid, 0)


def test_scale(workers: Orchestrator) -> None:
    def slots() -> list[int]:
        return [number for worker in workers.status().workers for number in worker.slots.values()]

    workers.scale("high")
    wait_until(lambda: slots() == [4, 4], "twice the slots")
    workers.scale("image", 7)
    wait_until(lambda: slots() == [4, 7], "its own number")
    with pytest.raises(ConfigError, match="no profile"):
        workers.scale("higher")


def test_start_of_one_kind(environment: dict[str, str]) -> None:
    worker = start_sound_effects_worker(environment)
    try:
        worker.wait_ready()
        assert list(worker.status().workers[0].slots) == ["gen_sound_effects_elevenlabs"]
    finally:
        worker.stop()


def test_what_cannot_work_is_said_before_anything_starts(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'image'"):
        Orchestrator(["imge"], environment=environment)
    without_key = {name: value for name, value in environment.items() if name != "FAL_KEY"}
    with pytest.raises(ConfigError, match=r"FAL_KEY \(needed for image\)"):
        Orchestrator(["image"], environment=without_key).start()
    homeless = {name: value for name, value in environment.items() if name != "STORAGE_DIR"}
    with pytest.raises(ConfigError, match="SUPABASE_URL"):
        Orchestrator(["image"], environment=homeless).start()
    served = {**environment, "ENABLE_HEALTH_CHECK": "true", "HEALTH_CHECK_PORT": "8080"}
    with pytest.raises(ConfigError, match="one port for 2 worker processes"):
        Orchestrator(["image", "tts"], environment=served).start()
    nowhere = {**environment, "DATABASE_URL": "postgresql://postgres@127.0.0.1:9/none"}
    with pytest.raises(DatabaseError, match="cannot be reached"):
        Orchestrator(["image"], environment=nowhere).start()


def test_a_child_that_cannot_start_is_not_tried_for_ever(environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = {"ENABLE_HEALTH_CHECK": "true", "HEALTH_CHECK_PORT": str(taken.getsockname()[1])}
        with (
            Orchestrator(["image"], environment=environment | port) as workers,
            pytest.raises(DatabaseError, match="image is failed"),
        ):
            workers.wait_ready()


def test_no_child_outlives_its_parent(environment: dict[str, str]) -> None:
    """Killed with SIGKILL, the parent can end nobody: they notice by themselves."""
    code = (
        "import sys; from dreamcuts.orchestrator import Orchestrator; w = Orchestrator(['image']); w.start();"
        "w.wait_ready(); print(w.status().workers[0].pid, flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert parent.stdout is not None and parent.stdin is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    wait_until(lambda: not is_there(child) or is_zombie(child), "the child to end")


def is_zombie(pid: int) -> bool:
    """Whether it has ended and only waits for init, which a container may not have, to notice."""
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return done.stdout.startswith("Z")
