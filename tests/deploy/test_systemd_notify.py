"""What systemd is told: over real sockets, by real workers."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import uuid
from pathlib import Path

import psycopg
import pytest

from dreamcuts.client import Client
from dreamcuts.systemd import Notifier
from tests.deploy.processes import NotifySocket, Start

# A worker of one type whose jobs hold up the event loop until somebody reads from and writes to two pipes.
HANGING_WORKER = textwrap.dedent(
    """
    from __future__ import annotations
    import os
    from datetime import timedelta
    from dreamcuts.config import Settings
    from dreamcuts.jobs.base import Payload, Result
    from dreamcuts.log import setup_logging
    from dreamcuts.service import run_service

    class Hang:
        name, short_name = "hang", "hang"
        payload_model, providers, features = Payload, (), ()
        default_slots, retry_delay, time_limit = 1, timedelta(seconds=1), timedelta(seconds=600)

        async def run(self, context, payload):
            with open(os.environ["HANGS"], "w"):
                pass
            with open(os.environ["GO_ON"]) as pipe:
                pipe.read()
            return Result()

    setup_logging()
    run_service(Settings.load(), {"hang": Hang()}, {"hang": 1})
    """
)


@pytest.fixture(params=["path", "abstract"])
def any_socket(request: pytest.FixtureRequest, tmp_path: Path) -> NotifySocket:
    address = str(tmp_path / "notify") if request.param == "path" else f"@dreamcuts-{uuid.uuid4()}"
    listening = NotifySocket(address)
    request.addfinalizer(listening.close)
    return listening


def test_message_goes_to_either_kind_of_socket(any_socket: NotifySocket) -> None:
    notifier = Notifier(any_socket.address)
    assert notifier.send({"READY": "1", "STATUS": "two\nlines"}, urgent=True)
    assert any_socket.receive() == {"READY": "1", "STATUS": "two lines"}


def test_nobody_listens(tmp_path: Path) -> None:
    assert not Notifier().send({"READY": "1"})
    assert not Notifier(str(tmp_path / "gone")).send({"READY": "1"}, urgent=True)


def test_busy_systemd_does_not_hold_up_the_event_loop(notify_socket: NotifySocket) -> None:
    notifier = Notifier(notify_socket.address)
    # The kernel queues a few datagrams (net.unix.max_dgram_qlen); the next must be dropped, not waited for.
    assert not all(notifier.send({"WATCHDOG": "1"}) for _ in range(100_000))


def test_environment_is_read_and_taken_out() -> None:
    mine = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid()), "A": "b"}
    assert Notifier.from_environment(mine).watchdog_s == 3.0
    assert mine == {"A": "b"}
    others = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}
    notifier = Notifier.from_environment(others)
    assert (notifier.is_active, notifier.watchdog_s) == (True, None)
    assert not Notifier.from_environment({"NOTIFY_SOCKET": "vsock:2:1234"}).is_active
    assert not Notifier.from_environment({}).is_active
    assert Notifier.from_environment({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "soon"}).watchdog_s is None


def test_worker_tells_of_its_life(
    start: Start, notify_socket: NotifySocket, connection: psycopg.Connection
) -> None:
    worker = start(
        "work", "--types", "tts:2", NOTIFY_SOCKET=notify_socket.address, WATCHDOG_USEC="300000"
    )  # fmt: skip
    first = notify_socket.receive()
    assert first == {"READY": "1", "STATUS": "Running: tts 0/2. So far: nothing."}
    states = connection.execute("select state from dreamcut_workers").fetchall()
    assert states == [("live",)], "READY came before the worker was registered"
    assert notify_socket.receive()["WATCHDOG"] == "1"
    assert notify_socket.receive()["WATCHDOG"] == "1"
    worker.popen.send_signal(signal.SIGTERM)
    last = notify_socket.receive_until("STOPPING")
    assert last["STATUS"].startswith("Draining: tts 0/2")
    assert worker.end() == 0, worker.log


def test_no_ping_while_the_event_loop_hangs(
    start: Start, notify_socket: NotifySocket, connection: psycopg.Connection, tmp_path: Path
) -> None:
    hangs, go_on = tmp_path / "hangs", tmp_path / "go-on"
    os.mkfifo(hangs)
    os.mkfifo(go_on)
    worker = start(
        program=[sys.executable, "-c", HANGING_WORKER],
        HANGS=str(hangs), GO_ON=str(go_on),
        NOTIFY_SOCKET=notify_socket.address, WATCHDOG_USEC="300000",
    )  # fmt: skip
    notify_socket.receive_until("WATCHDOG")
    Client(connection).enqueue("hang", {})
    hangs.read_bytes()  # returns when the job has begun
    notify_socket.drain()
    # A ping was due every 0.1 s. Silence cannot be waited for; five of them not coming must do.
    with pytest.raises(TimeoutError):
        notify_socket.receive(timeout=0.5)
    go_on.write_bytes(b"")
    assert notify_socket.receive_until("WATCHDOG")
    assert worker.end(signal.SIGTERM) == 0, worker.log


def test_no_ping_when_the_heartbeat_loop_hangs(notify_socket: NotifySocket) -> None:
    import anyio

    from dreamcuts.systemd import telling_systemd

    class Service:
        beating = True

        async def wait_registered(self) -> None:
            pass

        async def wait_draining(self) -> None:
            await anyio.sleep_forever()

        def is_beating(self) -> bool:
            return self.beating

    async def next_ping() -> dict[str, str]:
        message = await anyio.to_thread.run_sync(notify_socket.receive)
        return message if "READY" not in message else await next_ping()

    async def scenario() -> None:
        service = Service()
        async with telling_systemd(Notifier(notify_socket.address, 0.15), service, lambda: "fine"):
            assert await next_ping() == {"WATCHDOG": "1", "STATUS": "fine"}
            for beating, expected in (
                (False, {"STATUS": "fine"}),
                (True, {"WATCHDOG": "1", "STATUS": "fine"}),
            ):
                service.beating = beating
                notify_socket.drain()  # what was sent before that
                assert [await next_ping() for _ in range(3)] == [expected] * 3

    anyio.run(scenario)
