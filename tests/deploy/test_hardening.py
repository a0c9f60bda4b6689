"""The worker does its work under the memory rule of its systemd unit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from dreamcuts.client import Client
from tests.deploy.processes import Start

REPOSITORY = Path(__file__).resolve().parents[2]

PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1  # Linux 6.3, linux/prctl.h

# systemd's MemoryDenyWriteExecute, by the kernel's own switch: it stays on in the program that is started.
LAUNCHER = f"""
import ctypes, mmap, os, sys
assert ctypes.CDLL(None).prctl({PR_SET_MDWE}, {PR_MDWE_REFUSE_EXEC_GAIN}, 0, 0, 0) == 0
try:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
except OSError:
    os.execv(sys.argv[1], sys.argv[1:])
sys.exit("the rule has no effect")
"""


def can_deny_memory() -> bool:
    """Tried in a child, since it cannot be taken back."""
    return subprocess.run([sys.executable, "-c", LAUNCHER, "/bin/true"], capture_output=True).returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="systemd runs on Linux")
def test_worker_needs_no_writable_and_executable_memory(start: Start, connection: psycopg.Connection) -> None:
    if not can_deny_memory():
        pytest.skip("this kernel has no PR_SET_MDWE (Linux 6.3)")
    unit = (REPOSITORY / "deploy/systemd/dreamcuts-worker@.service").read_text("utf-8")
    assert "MemoryDenyWriteExecute=yes" in unit
    client = Client(connection)
    client.enqueue("gen_sound_effects_elevenlabs", {"text": "whoosh", "durationSeconds": 0.5})
    client.enqueue("gen_image_falai", {"prompt": "a lighthouse"})
    worker = start(
        "work", "--types", "sound_effects,image", "--until-idle",
        program=[sys.executable, "-c", LAUNCHER, sys.executable, "-m", "dreamcuts"],
    )  # fmt: skip
    assert worker.end() == 0, worker.log
    rows = connection.execute("select status, error_message from dreamcut_jobs").fetchall()
    assert rows == [("completed", None)] * 2
