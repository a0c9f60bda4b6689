"""`dreamcuts workers` and real workers, on one database."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable
from typing import Any

import click.testing
import psycopg
import pytest

from dreamcuts.processes import RESTART_CODE
from tests.fleet.running import Processes, Running
from tests.support import Queue, wait_until

Run = Callable[..., click.testing.Result]


def started(processes: Processes, *options: str, **environment: str) -> Running:
    worker = processes.work("--types", "sound_effects:2,image:3", *options, **environment)
    worker.wait_log("serves")
    return worker


def listed(here: Run, *options: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(here("workers", "list", "--json", *options).stdout)
    return rows


def test_scale_reaches_a_running_worker_at_once(here: Run, processes: Processes) -> None:
    worker = started(processes)
    assert here("workers", "scale", "image", "--slots", "7").exit_code == 0
    worker.wait_log("gen_image_falai 3 -> 7")
    wait_until(lambda: listed(here)[0]["slots"] == [2, 7], "the row to say so")
    assert here("workers", "scale", "--profile", "high").exit_code == 0
    worker.wait_log("gen_sound_effects_elevenlabs 2 -> 4")
    assert "image: 7" in here("workers", "scale").stdout
    assert here("workers", "scale", "image", "--reset").exit_code == 0
    worker.wait_log("gen_image_falai 7 -> 6")


def test_a_worker_that_starts_later_takes_the_scaling_over(here: Run, processes: Processes) -> None:
    here("workers", "scale", "image", "--slots", "1")
    worker = started(processes)
    assert "serves sound_effects:2, image:1" in worker.log
    wait_until(
        lambda: listed(here)[0]["slots"] == [2, 1], "the row to say so, long before the first heartbeat"
    )
    assert listed(here)[0]["own_slots"] == [2, 3]


def test_no_slots_means_no_claims(here: Run, processes: Processes, queue: Queue) -> None:
    here("workers", "scale", "sound_effects", "--slots", "0")
    started(processes)
    job = queue.add(None, type="gen_sound_effects_elevenlabs", payload=psycopg.types.json.Jsonb({"text": 1}))
    images = queue.add(None, type="gen_image_falai", payload=psycopg.types.json.Jsonb({"nonsense": 1}))
    wait_until(lambda: queue.job(images)["status"] == "failed", "the other type to be served")
    assert queue.job(job)["attempts"] == 0
    here("workers", "scale", "sound_effects", "--slots", "1")
    wait_until(lambda: queue.job(job)["status"] == "failed", "it to be claimed")


def test_drain_ends_the_worker_with_code_0(here: Run, processes: Processes) -> None:
    worker = started(processes)
    result = here("workers", "drain", "--all", "--wait", "--reason", "new disks")
    assert result.exit_code == 0, result.stderr
    assert "It has ended." in result.stdout
    assert worker.wait_end() == 0
    assert "Asked to drain: new disks" in worker.log
    assert listed(here) == []
    (row,) = listed(here, "--all")
    assert (row["state"], row["command"]) == ("stopped", "drain")


def test_restart_replaces_the_process_by_a_fresh_incarnation(here: Run, processes: Processes) -> None:
    worker = started(processes)
    (before,) = listed(here)
    assert here("workers", "restart", "sound_effects", "--wait").exit_code == 0
    worker.wait_log("serves", times=2)
    (after,) = listed(here)
    assert after["id"] != before["id"]
    assert (after["pid"], after["command"]) == (before["pid"], None)
    worker.process.send_signal(signal.SIGTERM)
    assert worker.wait_end() == 0


def test_restart_under_systemd_leaves_the_start_to_it(here: Run, processes: Processes) -> None:
    """It has been told that the service stops, and would end whatever comes after that."""
    worker = started(processes, NOTIFY_SOCKET="@dreamcuts-nobody-listens")
    assert here("workers", "restart", "--all", "--wait").exit_code == 0
    assert worker.wait_end() == RESTART_CODE
    assert worker.log.count("serves") == 1


def test_a_signal_during_a_restart_means_an_end(here: Run, processes: Processes, queue: Queue) -> None:
    """The worker waits for its job; who stops the service meanwhile does not want it back."""
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the request and never answers
        worker = started(
            processes,
            "--shutdown-timeout=600",
            ELEVENLABS_BASE_URL=f"http://127.0.0.1:{silent.getsockname()[1]}",
        )
        queue.add(
            None,
            type="gen_sound_effects_elevenlabs",
            payload=psycopg.types.json.Jsonb({"text": "whoosh", "durationSeconds": 1.0}),
        )
        silent.settimeout(30)
        connection, _ = silent.accept()
        here("workers", "restart", "--all")
        worker.wait_log("Asked to restart")
        worker.process.send_signal(signal.SIGTERM)
        assert worker.wait_end() == 0
        connection.close()
    assert worker.log.count("serves") == 1


def test_who_is_meant(here: Run, queue: Queue) -> None:
    one, other = queue.worker(["a", "b"]), queue.worker(["b"])
    assert set(told(here("workers", "drain", "b", "--json"))) == {str(one), str(other)}
    assert told(here("workers", "drain", str(one)[:8], "--json")) == [str(one)]
    assert set(told(here("workers", "restart", "a", str(other), "--json"))) == {str(one), str(other)}
    queue.run("update dreamcut_workers set host = 'far' where id = %s", other)
    assert told(here("workers", "drain", "--host", "far", "--json")) == [str(other)]
    assert "drain" in here("workers", "list").stdout


def told(result: click.testing.Result) -> list[str]:
    assert result.exit_code == 0, result.stderr
    return list(json.loads(result.stdout)["workers"])


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("drain",), 2, "Say which"),
        (("drain", "x", "--all"), 2, "either"),
        (("drain", "nobody"), 1, "workers list"),
        (("drain", "tts"), 1, "No worker is 'tts'"),
        (("drain", "--host", "nowhere"), 1, "No worker is there on nowhere"),
        (("scale", "imgae", "--slots", "2"), 2, "Did you mean 'image'?"),
        (("scale", "image"), 2, "--slots or --reset"),
        (("scale", "image", "--slots", "-1"), 2, "-1"),
        (("scale", "--slots", "1"), 2, "Say which TYPE"),
        (("scale", "image", "--slots", "1", "--profile", "low"), 2, "leave out the TYPE"),
        (("scale", "--profile", "max"), 2, "max"),
    ],
)
def test_what_is_wrong_is_said(here: Run, arguments: tuple[str, ...], code: int, says: str) -> None:
    result = here("workers", *arguments)
    assert result.exit_code == code
    assert says in result.stderr
    assert "Traceback" not in result.stderr


def test_wait_gives_up_and_names_who_is_left(here: Run, queue: Queue) -> None:
    worker = queue.worker()
    result = here("workers", "drain", "--all", "--wait", "--timeout", "0.3")
    assert result.exit_code == 1
    assert f"had not ended: {str(worker)[:8]}" in result.stderr
