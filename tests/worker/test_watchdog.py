"""The watchdog ends a process whose loop hangs for good, and no process that was only stopped for a while."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import wait_until

ROOT = Path(__file__).parents[2]
HOPELESS_S = 2.0
STOPPED_S = 3.0

PROGRAM = f"""
import os, sys, time, anyio
from pathlib import Path
from dreamcuts.worker.watchdog import LoopWatchdog

async def main(hangs_s, folder):
    with LoopWatchdog(0.2, hopeless={HOPELESS_S}, end=lambda: os._exit(1)):
        await anyio.sleep(0.1)
        (folder / "started").touch()
        for _ in range(round(hangs_s / 0.02)):
            time.sleep(0.02)  # by the piece: time that the process is stopped does not count
        (folder / "went-on").touch()
        while not (folder / "go").exists():
            await anyio.sleep(0.01)

anyio.run(main, float(sys.argv[1]), Path(sys.argv[2]))
"""

Run = Callable[[float], "subprocess.Popen[bytes]"]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """`run(seconds)` starts a process whose loop hangs for so long."""
    started: list[subprocess.Popen[bytes]] = []

    def start(hangs_s: float) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", PROGRAM, str(hangs_s), str(tmp_path)]
        process = subprocess.Popen(command, cwd=ROOT)
        started.append(process)
        wait_until((tmp_path / "started").exists, "the process to start")
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_loop_that_hangs_for_good_ends_the_process(run: Run, tmp_path: Path) -> None:
    assert run(3600).wait(30) == 1
    assert not (tmp_path / "went-on").exists()


@pytest.mark.parametrize("hangs_s", [0, 0.6], ids=["while it turns", "while it hangs, but not for good"])
def test_a_process_that_was_stopped_for_longer_goes_on(run: Run, tmp_path: Path, hangs_s: float) -> None:
    process = run(hangs_s)
    process.send_signal(signal.SIGSTOP)
    time.sleep(STOPPED_S)  # that it is stopped for so long is what this is about
    process.send_signal(signal.SIGCONT)
    wait_until(lambda: (tmp_path / "went-on").exists() or process.poll() is not None, "it to go on")
    (tmp_path / "go").touch()
    assert process.wait(30) == 0
