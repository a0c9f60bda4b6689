"""What people see on a terminal: `dreamcuts top` and the lists, on a small one and a large one."""

from __future__ import annotations

import contextlib
import fcntl
import io
import itertools
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit
from uuid import uuid4

import click.testing
import pytest
from psycopg.types.json import Jsonb
from rich.console import Console, RenderableType

from dreamcuts.admin import Admin
from dreamcuts.cli import tables
from dreamcuts.cli.top import picture
from dreamcuts.cli.workers import workers_table
from dreamcuts.fleet import Fleet, Snapshot
from dreamcuts.jobs.registry import load_job_types
from tests.fleet.running import Processes
from tests.support import Queue, wait_until

Run = Callable[..., click.testing.Result]

HOST = "ip-10-0-12-7.eu-central-1.compute.internal"
WHY = "The provider refused the prompt, because of its policy; see https://example.com/policy/of/the/provider"


def shown(what: RenderableType, width: int, height: int = 24) -> list[str]:
    """The lines of a terminal of that size, without colours."""
    out = io.StringIO()
    terminal = Console(
        file=out, width=width, height=height, force_terminal=True, no_color=True, highlight=False
    )
    terminal.print(what)
    return [re.sub(r"\x1b\[[\d;]*m", "", line).rstrip() for line in out.getvalue().splitlines()]


@pytest.fixture
def busy(queue: Queue) -> Queue:
    """A queue with all seven types, seven workers on hosts with long names, six manifests and nine errors."""
    types = sorted(load_job_types())
    for number in range(7):
        worker = queue.worker(types)
        queue.run(
            "update dreamcut_workers set host = %s, pid = %s, version = '1.2.3' where id = %s",
            HOST, 1001 + number, worker,
        )  # fmt: skip
    for number in range(9):
        queue.add(None, f"job_image_of_scene_{number}", type=types[0])
        queue.fail(worker, queue.claim_one(worker, types[0]), error_class="content_rejected", message=WHY)
    for number in range(6):
        manifest, _ = queue.graph({"job_tts_s1": [], "job_render": ["job_tts_s1"]}, type=types[1])
        queue.run(
            "update dreamcut_production_manifest"
            " set manifest_json = %s, status = 'rendering', started_at = now() where id = %s",
            Jsonb(
                {"metadata": {"title": f"The bakery at the end of a long and winding road, part {number}"}}
            ),
            manifest,
        )
    for kind in types:
        queue.add(None, type=kind)
    held = queue.claim(worker, 2, types[1])
    queue.heartbeat(worker, *held)
    queue.hand_back(worker, *held[2:])
    return queue


def snapshot(queue: Queue) -> Snapshot:
    return Fleet(queue.connection).snapshot(failures=20, manifests=20)


def test_top_fits_a_small_terminal_and_says_what_it_cuts(busy: Queue) -> None:
    lines = shown(picture(snapshot(busy), 80, 24), 80)
    text = "\n".join(lines)
    assert len(lines) <= 24, text
    assert max(len(line) for line in lines) <= 80, text
    assert re.search(r"^TYPE +READY +DELAYED +BLOCKED +PROCESSING +SLOTS +WORKERS$", text, re.MULTILINE), text
    for job_type in load_job_types().values():
        assert re.search(rf"^{job_type.short_name} ", text, re.MULTILINE), text
    for title in ("Workers", "Manifests under way", "Newest errors"):
        (line,) = [line for line in lines if line.startswith(title)]
        assert re.search(r"… and \d more", line), text
    (row,) = [line for line in lines if "1001" in line]
    assert re.search(r"^[0-9a-f]{8}  ip-10-0-\S*…  1001  live ", row), text
    assert "VERSION" not in text and "HEARD" not in text


def test_top_shows_ids_and_states_whole_beside_a_long_message(busy: Queue) -> None:
    lines = shown(picture(snapshot(busy), 160, 50), 160, 50)
    text = "\n".join(lines)
    assert "… and" not in text.replace("…  ", ""), text
    errors = lines[lines.index("Newest errors") + 2 :]
    assert len(errors) == 9
    for number, line in enumerate(reversed(errors)):
        assert re.search(
            rf"^[0-9a-f]{{8}}  job_image_of_scene_{number} +failed +content_rejected +1/3 ", line
        ), text
    assert HOST in text and "1.2.3" in text


def test_top_names_what_it_has_no_room_for(busy: Queue) -> None:
    lines = shown(picture(snapshot(busy), 80, 13), 80, 13)
    assert len(lines) <= 13
    assert any(re.search(r"No room for: .*newest errors \(9\)", line) for line in lines), lines


def test_top_fits_every_terminal(busy: Queue) -> None:
    seen = snapshot(busy)
    for width, height in itertools.product(range(40, 250, 13), range(12, 60, 2)):
        for away in ("", "Database away since 12:00:00 UTC, trying again: it does not answer"):
            lines = shown(picture(seen, width, height, away=away), width, height)
            assert len(lines) <= height, (width, height, lines)
            assert max(len(line) for line in lines) <= width, (width, height, lines)


def test_a_bar_reads_without_colours() -> None:
    assert tables.Bar(0, 10).drawn(10).plain == "░" * 10
    assert tables.Bar(1, 100).drawn(10).plain == "█" + "░" * 9
    assert tables.Bar(10, 10).drawn(10).plain == "█" * 10
    assert tables.Bar(11, 10).drawn(10).plain == "█" * 10


def test_a_list_of_jobs_has_a_line_for_each(busy: Queue) -> None:
    jobs = Admin(busy.connection).list_jobs(states=["failed"])
    lines = shown(tables.jobs_table(jobs), 80)
    assert len(lines) == len(jobs) + 1
    assert lines[0].split() == ["ID", "JOB", "TYPE", "STATE", "ATTEMPT", "NOTE"]
    for line in lines[1:]:
        assert re.search(r"^[0-9a-f]{8}  job_image_of_\S+  \S+ +failed +1/3 +The provider refu.*…$", line), (
            line
        )
    wide = shown(tables.jobs_table(jobs), 240)
    assert {"TIME", "AGE"} <= set(wide[0].split())
    assert all(line.endswith(WHY) for line in wide[1:])
    whole = shown(tables.jobs_table(jobs[:1], whole=True), 80)
    assert "".join(line[len(lines[0]) - len("NOTE") :] for line in whole[1:]).replace(" ", "") == WHY.replace(
        " ", ""
    )


def test_a_list_of_manifests_has_a_line_for_each(busy: Queue) -> None:
    busy.run("update dreamcut_production_manifest set error_message = %s", WHY)
    manifests = Admin(busy.connection).list_manifests()
    lines = shown(tables.manifests_table(manifests), 80)
    assert len(lines) == 7
    assert all(
        re.search(r"^[0-9a-f]{8}  The bakery.*…  rendering  0/2.*The provider refu.*…$", one)
        for one in lines[1:]
    )


def test_a_list_of_workers_has_a_line_for_each(busy: Queue) -> None:
    lines = shown(workers_table(Fleet(busy.connection).workers()), 80)
    assert len(lines) == 8
    assert all(re.search(r"^[0-9a-f]{8}  ip-\S+…  100\d  live   .*\d/10", line) for line in lines[1:]), lines


def test_nothing_is_cut_in_a_pipe(here: Run, busy: Queue) -> None:
    busy.run("update dreamcut_jobs set error_message = %s where error_class is not null", WHY * 5)
    lines = here("jobs", "list", "--state", "failed").stdout.splitlines()
    assert len(lines) == 10
    assert all(line.endswith(WHY * 5) for line in lines[1:])
    assert WHY * 5 in here("top", "--once").stdout


class Wire:
    """A TCP proxy before Postgres that can be cut, and mended again."""

    def __init__(self, dsn: str) -> None:
        self._target = ("127.0.0.1", urlsplit(dsn).port)
        self._open: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self.mend(0)
        assert self._listener is not None
        self.port = int(self._listener.getsockname()[1])
        self.dsn = dsn.replace(f":{self._target[1]}/", f":{self.port}/")

    def mend(self, port: int | None = None) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port if port is None else port))
        threading.Thread(target=self._accept, args=[self._listener], daemon=True).start()

    def cut(self) -> None:
        """Refuse new connections and break those that there are."""
        assert self._listener is not None
        for one in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._open.clear()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            self._open += [client, server]
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._forward, args=[source, target], daemon=True).start()

    @staticmethod
    def _forward(source: socket.socket, target: socket.socket) -> None:
        try:
            while chunk := source.recv(65536):
                target.sendall(chunk)
            target.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def heed_ctrl_c() -> None:
    """As a program in the foreground does, also where the tests run in the background, which ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """A command on a pseudo-terminal, and all that it wrote there."""

    def __init__(self, *arguments: str, width: int, height: int, **environment: str) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dreamcuts", *arguments],
            env={**os.environ, "TERM": "xterm-256color", **environment},
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=heed_ctrl_c,
        )  # fmt: skip
        os.close(slave)
        self._seen = b""

    def has_written(self, text: str, after: int = 0) -> bool:
        while select.select([self.master], [], [], 0)[0]:
            try:
                self._seen += os.read(self.master, 65536)
            except OSError:  # the other end is closed
                break
        return text in self.text[after:]

    @property
    def text(self) -> str:
        return self._seen.decode("utf-8", "replace")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


@pytest.fixture
def wire(database: str) -> Iterator[Wire]:
    wire = Wire(database)
    yield wire
    wire.cut()


def test_top_outlives_the_database(queue: Queue, wire: Wire) -> None:
    queue.add(None, type="one_type")
    terminal = Terminal("top", "--interval", "0.2", width=80, height=24, DATABASE_URL=wire.dsn)
    try:
        wait_until(lambda: terminal.has_written("one_type"), f"the first picture: {terminal.text}")
        wire.cut()
        wait_until(lambda: terminal.has_written("Database away since"), "the outage to be said")
        assert terminal.process.poll() is None
        password = urlsplit(wire.dsn).password
        assert password and password not in terminal.text
        queue.add(None, type="another_type")
        before = len(terminal.text)
        wire.mend()
        wait_until(lambda: terminal.has_written("another_type", before), "the picture to go on")
        terminal.process.send_signal(signal.SIGINT)
        wait_until(lambda: terminal.has_written("") and terminal.process.poll() is not None, "the end")
        assert terminal.process.returncode == 0, terminal.text
        assert "Traceback" not in terminal.text
    finally:
        terminal.close()


def test_top_without_a_database_is_an_error() -> None:
    terminal = Terminal("top", width=80, height=24, DATABASE_URL="postgresql://127.0.0.1:9/none")
    try:
        wait_until(lambda: terminal.has_written("cannot be reached"), "the error")
        assert terminal.process.wait(30) == 1
    finally:
        terminal.close()


def test_a_url_stays_whole_in_a_pipe(queue: Queue, processes: Processes, environment: dict[str, str]) -> None:
    manifest, _ = queue.graph({"a": []})
    queue.finish("a")
    url = f"https://assets.example/{uuid4().hex * 4}.mp4"
    queue.run("update dreamcut_production_manifest set output_url = %s where id = %s", url, manifest)
    done = subprocess.run(
        [sys.executable, "-m", "dreamcuts", "manifests", "watch", str(manifest)],
        env={**processes.environment, "COLUMNS": "80"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"done: {url}" in done.stdout.splitlines()
