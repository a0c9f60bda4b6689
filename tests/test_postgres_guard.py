"""A pytest that is killed leaves no Postgres behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from dreamcuts.processes import command_line
from tests.support import wait_until

REPOSITORY = Path(__file__).resolve().parents[1]

# What the fixture `postgres_server` does; the last line is cut short by kill -9.
PROGRAM = """
import signal
from dreamcuts.embedded import EmbeddedPostgres
from tests.postgres_guard import guarded

with guarded(EmbeddedPostgres(prefer="system", settings={"fsync": "off"})) as server:
    print(server.log_file.parent, flush=True)
    signal.pause()
"""


def test_the_server_and_its_folder_go_with_a_pytest_that_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        try:
            pid = int((folder / "data/postmaster.pid").read_text().splitlines()[0])
            assert str(folder) in command_line(pid)
        finally:
            process.kill()
    wait_until(lambda: str(folder) not in command_line(pid), "the end of Postgres")
    wait_until(lambda: not folder.exists(), "the end of its folder")
