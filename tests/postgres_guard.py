"""End a test's Postgres when its pytest is gone, however it went.

A pytest that is killed (`kill -9`, out of memory) runs no fixture's end: its server and the folder of its
cluster would stay. So a process of its own holds one end of a pipe, and does what the fixture could not when
the other end closes. `guarded(server)` starts it; run as a program, this file is that process.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from dreamcuts.embedded import EmbeddedPostgres, _stop_leftover


@contextlib.contextmanager
def guarded(server: EmbeddedPostgres) -> Iterator[EmbeddedPostgres]:
    """`server`, started, for as long as the block runs or this process lives."""
    with server:
        # A session of its own: a Ctrl-C that ends pytest is not meant for it.
        guard = subprocess.Popen(
            [sys.executable, __file__, str(server.log_file.parent)],
            stdin=subprocess.PIPE,
            start_new_session=True,
            cwd="/",
        )
        try:
            yield server
        finally:
            server.stop()
            guard.communicate()


def main(folder: Path) -> None:
    while os.read(0, 4096):
        pass
    if folder.exists():
        _stop_leftover(folder / "data")
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
