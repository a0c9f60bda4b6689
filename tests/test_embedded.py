"""The embedded Postgres: whole life, crash of the owner, Ctrl-C at every stage."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from dreamcuts import embedded
from dreamcuts.embedded import EmbeddedPostgres, find_binaries, remove_cluster
from dreamcuts.errors import ConfigError, DatabaseError
from dreamcuts.processes import command_line, uninterrupted

REPOSITORY = Path(__file__).resolve().parent.parent

OWNER = """
import sys
from pathlib import Path
from dreamcuts.embedded import EmbeddedPostgres
with EmbeddedPostgres(Path(sys.argv[1])) as server:
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the server's user can reach (pytest's own is closed to others)."""
    parent = Path(tempfile.mkdtemp(prefix="dreamcuts-test-"))
    parent.chmod(0o755)
    yield parent / ".data" / "postgres"
    remove_cluster(parent / ".data" / "postgres")
    shutil.rmtree(parent)


def start_owner(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.005)


def servers_of(folder: Path) -> list[int]:
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [pid for pid in pids if f"{folder}/data" in command_line(pid)]


def count_tables(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("select count(*) from pg_tables where tablename = 'kept'").fetchone()
        assert row is not None
        return int(row[0])


@pytest.mark.parametrize("prefer", ["wheel", "system"])
def test_temporary_server_leaves_nothing(prefer: embedded.Source) -> None:
    with EmbeddedPostgres(prefer=prefer, settings={"fsync": "off", "max_connections": "37"}) as server:
        with psycopg.connect(server.dsn()) as connection:
            row = connection.execute("show max_connections").fetchone()
            assert row == ("37",)
        base = server.log_file.parent
        assert base.stat().st_mode & 0o077 == 0
        assert (base / "password").stat().st_mode & 0o777 == 0o600
        if os.geteuid() == 0:
            assert base.stat().st_uid != 0
    assert not base.exists()
    assert not servers_of(base)


def test_asks_for_its_password_and_listens_on_loopback_only() -> None:
    with EmbeddedPostgres(settings={"fsync": "off"}) as server:
        wrong = f"postgresql://postgres:wrong@127.0.0.1:{server.port}/postgres"
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(wrong)
        with psycopg.connect(server.dsn()) as connection:
            assert connection.execute("show listen_addresses").fetchone() == ("127.0.0.1",)
            assert connection.execute("show unix_socket_directories").fetchone() == ("",)


def test_data_survives_a_restart(folder: Path) -> None:
    with EmbeddedPostgres(folder) as server, psycopg.connect(server.dsn()) as connection:
        connection.execute("create table kept ()")
    with EmbeddedPostgres(folder) as server:
        assert count_tables(server.dsn()) == 1


def test_one_owner_at_a_time(folder: Path) -> None:
    with EmbeddedPostgres(folder), pytest.raises(DatabaseError, match="in use by another DreamCuts process"):
        EmbeddedPostgres(folder).start()


def test_two_folders_side_by_side(folder: Path) -> None:
    with EmbeddedPostgres(folder) as one, EmbeddedPostgres(settings={"fsync": "off"}) as two:
        assert one.port != two.port
        assert count_tables(one.dsn()) == count_tables(two.dsn()) == 0


def test_server_of_a_killed_owner_is_replaced(folder: Path) -> None:
    owner = start_owner(folder)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "ready\n"
    owner.kill()
    owner.communicate()
    left = int((folder / "data" / "postmaster.pid").read_text().splitlines()[0])
    assert left in servers_of(folder)
    with EmbeddedPostgres(folder) as server:
        assert left not in servers_of(folder)
        assert count_tables(server.dsn()) == 0


def test_a_foreign_process_under_the_old_number_is_left_alone(folder: Path) -> None:
    with EmbeddedPostgres(folder):
        pass
    (folder / "data" / "postmaster.pid").write_text(f"{os.getpid()}\n{folder}/data\n")
    with EmbeddedPostgres(folder) as server:
        assert count_tables(server.dsn()) == 0


@pytest.mark.parametrize("moment", ["initdb", "postmaster", "ready"])
def test_interrupted_owner_leaves_no_process(folder: Path, moment: str) -> None:
    owner = start_owner(folder)
    assert owner.stdout is not None
    if moment == "initdb":
        wait_for((folder / "data.new").exists, "initdb")
    elif moment == "postmaster":
        wait_for((folder / "data" / "postmaster.pid").exists, "the postmaster")
    else:
        assert owner.stdout.readline() == "ready\n"
    owner.send_signal(signal.SIGINT)
    owner.communicate(timeout=60)
    assert not servers_of(folder)
    assert not (folder / "data.new").exists()
    with EmbeddedPostgres(folder) as server:
        assert count_tables(server.dsn()) == 0


def test_half_made_cluster_is_made_anew(folder: Path) -> None:
    (folder / "data.new" / "base").mkdir(parents=True)
    (folder / "password").write_text("left over")
    with EmbeddedPostgres(folder) as server:
        assert count_tables(server.dsn()) == 0
        assert "left" not in server.dsn()


def test_taken_port_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        free, ports = embedded._free_port, iter([taken.getsockname()[1]])
        monkeypatch.setattr(embedded, "_free_port", lambda: next(ports, None) or free())
        with EmbeddedPostgres(settings={"fsync": "off"}) as server:
            assert server.port != taken.getsockname()[1]
            assert count_tables(server.dsn()) == 0


def test_wrong_setting_is_reported_with_the_servers_words() -> None:
    server = EmbeddedPostgres(settings={"shared_buffers": "many"})
    with pytest.raises(DatabaseError, match="shared_buffers"):
        server.start()
    assert server.log_file == Path("log")  # its folder is gone


def test_cluster_of_another_version_is_refused(folder: Path) -> None:
    with EmbeddedPostgres(folder):
        pass
    (folder / "data" / "PG_VERSION").write_text("9\n")
    with pytest.raises(DatabaseError, match=r"made by Postgres 9.*Remove the folder"):
        EmbeddedPostgres(folder).start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs it")
def test_root_moves_a_cluster_that_nobody_cannot_reach() -> None:
    closed = Path(tempfile.mkdtemp(prefix="dreamcuts-test-"))
    folder = closed / "postgres"
    try:
        for _ in range(2):
            with EmbeddedPostgres(folder) as server:
                moved = server.log_file.parent
                assert moved != folder
                assert (folder / "location").read_text().strip() == str(moved)
                assert count_tables(server.dsn()) == 0
        assert closed.stat().st_mode & 0o777 == 0o700
    finally:
        remove_cluster(folder)
        shutil.rmtree(closed)
    assert not moved.exists()


def test_no_binaries_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for source in ("_system_binaries", "_wheel_binaries"):
        monkeypatch.setattr(f"dreamcuts.postgres_binaries.{source}", lambda: None)
    with pytest.raises(ConfigError, match=r"dreamcuts\[demo\].*DATABASE_URL"):
        find_binaries()


def test_uninterrupted_delivers_the_signal_afterwards() -> None:
    steps = []
    # A shell that starts the suite in the background lets it ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), uninterrupted():
            signal.raise_signal(signal.SIGINT)
            steps.append("not torn")
    finally:
        signal.signal(signal.SIGINT, before)
    assert steps == ["not torn"]
