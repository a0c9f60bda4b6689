"""The demo as a newcomer runs it: a real child process, a real film, and Ctrl-C at several moments."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from dreamcuts.config import Settings
from dreamcuts.demo import examples_folder
from dreamcuts.embedded import remove_cluster
from dreamcuts.processes import command_line
from dreamcuts.sandbox.ffmpeg import probe


@contextlib.contextmanager
def new_checkout() -> Iterator[Path]:
    """A folder to run in, reachable for the user that Postgres runs as."""
    folder = Path(tempfile.mkdtemp(prefix="dreamcuts-demo-"))
    folder.chmod(0o755)
    yield folder
    remove_cluster(folder / ".data" / "postgres")
    shutil.rmtree(folder)


@pytest.fixture
def checkout() -> Iterator[Path]:
    with new_checkout() as folder:
        yield folder


@pytest.fixture
def other_checkout() -> Iterator[Path]:
    with new_checkout() as folder:
        yield folder


def start(folder: Path, *options: str, **settings: str) -> subprocess.Popen[str]:
    names = {name.upper() for name in Settings.model_fields}
    environment = {name: text for name, text in os.environ.items() if name not in names}
    return subprocess.Popen(
        [sys.executable, "-m", "dreamcuts", "demo", *options],
        cwd=folder,
        env=environment | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def left_of(folder: Path) -> list[str]:
    """Processes that belong to the demo of `folder`: by their working folder or their arguments."""
    found = []
    for path in Path("/proc").iterdir():
        if not path.name.isdigit() or int(path.name) == os.getpid():
            continue
        try:
            working = str((path / "cwd").readlink())
        except OSError:
            working = ""
        command = command_line(int(path.name))
        if working.startswith(str(folder)) or str(folder) in command:
            found.append(command)
    return found


def wait_for(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)


def read_until(process: subprocess.Popen[str], *words: str, any_of: tuple[str, ...] = ("",)) -> None:
    """Read the demo's output up to a line with all of the words, and one of the others."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if all(word in line for word in words) and any(word in line for word in any_of):
            return
    pytest.fail(f"the demo never said {words} {any_of}:\n{''.join(seen)}")


def read_until_it_works(process: subprocess.Popen[str]) -> None:
    """Read the output up to its first scene's speech: under way, or over before anybody looked."""
    read_until(process, "job_tts_s1", any_of=("processing", "completed"))


def test_demo_makes_the_film(checkout: Path) -> None:
    demo = start(checkout)
    output, _ = demo.communicate(timeout=300)
    assert demo.returncode == 0, output
    film = checkout / "out" / "demo.mp4"
    media = asyncio.run(probe(str(film)))
    assert (media.width, media.height) == (1280, 720)
    assert (media.video_codec, media.audio_codec) == ("h264", "aac")
    assert media.duration == pytest.approx(28, abs=0.1)
    lines = output.strip().splitlines()
    assert lines[-2].startswith("out/demo.mp4 is ready: 28 s of film")
    assert "16 jobs in 16 attempts" in lines[-1]
    assert "would have billed about $" in lines[-1]
    assert not left_of(checkout)
    assert "sk_" not in output and "postgresql://" not in output


@pytest.mark.parametrize(
    "moment",
    [
        "initdb",
        ("Starting the sandbox",),
        ("job_tts_s1", "ready"),
        ("processing",),
        ("job_render_shotstack", "processing"),
    ],
    ids=["initdb", "sandbox", "submitted", "working", "rendering"],
)
def test_interrupt_leaves_nothing_and_the_next_run_works(
    checkout: Path, moment: str | tuple[str, ...]
) -> None:
    demo = start(checkout)
    if moment == "initdb":
        wait_for((checkout / ".data" / "postgres" / "data.new").exists, "initdb")
    else:
        read_until(demo, *moment)
    os.killpg(demo.pid, signal.SIGINT)  # as a terminal does
    output, _ = demo.communicate(timeout=60)
    assert demo.returncode == 130, output
    assert "Traceback" not in output
    assert not left_of(checkout)

    again = start(checkout)
    read_until_it_works(again)
    again.terminate()  # SIGTERM ends it the same way
    again.communicate(timeout=60)
    assert again.returncode == 130
    assert not left_of(checkout)


def test_children_end_when_the_demo_is_killed(checkout: Path) -> None:
    demo = start(checkout)
    read_until(demo, "processing")
    demo.kill()
    demo.communicate()
    # Postgres stays for the next run to stop; the sandbox and the workers notice that they are alone.
    wait_for(lambda: not [line for line in left_of(checkout) if "postgres" not in line], "the children's end")
    again = start(checkout)
    read_until_it_works(again)
    os.killpg(again.pid, signal.SIGINT)
    again.communicate(timeout=60)
    assert not left_of(checkout)


def test_second_demo_in_one_folder_says_why_it_does_not_start(checkout: Path) -> None:
    demo = start(checkout)
    read_until(demo, "Starting the sandbox")
    second = start(checkout)
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 1
    assert "in use by another DreamCuts process" in output
    os.killpg(demo.pid, signal.SIGINT)
    demo.communicate(timeout=60)


def short_film(folder: Path, seconds: float) -> str:
    """A file with the example's first scene alone, small and of that length: three jobs."""
    manifest = json.loads((examples_folder() / "demo.json").read_text("utf-8"))
    manifest["metadata"]["durationSeconds"] = seconds
    (scene,) = manifest["scenes"] = manifest["scenes"][:1]
    scene["durationSeconds"] = seconds
    del scene["musicCue"], manifest["audio"]["music"], manifest["audio"]["sfx"]
    manifest["assets"] = {"img_dawn": manifest["assets"]["img_dawn"]}
    manifest["render"] |= {"resolution": {"width": 640, "height": 360}, "backgroundMusic": False}
    file = folder / "film.json"
    file.write_text(json.dumps(manifest), "utf-8")
    return str(file)


def test_two_demos_side_by_side_do_not_disturb_each_other(checkout: Path, other_checkout: Path) -> None:
    """Each has its own Postgres, sandbox and workers; the first one's end takes nothing from the second."""
    lengths = {checkout: 4.0, other_checkout: 5.0}
    demos = {
        folder: start(folder, "--manifest", short_film(folder, seconds))
        for folder, seconds in lengths.items()
    }
    for folder, demo in demos.items():
        output, _ = demo.communicate(timeout=300)
        assert demo.returncode == 0, output
        media = asyncio.run(probe(str(folder / "out" / "demo.mp4")))
        assert media.duration == pytest.approx(lengths[folder], abs=0.1)
        assert "3 jobs in 3 attempts" in output, "a job was tried twice, or is of the other's film"
    assert not left_of(checkout) and not left_of(other_checkout)


def test_database_url_is_used_instead(checkout: Path, empty_database: str) -> None:
    demo = start(checkout, DATABASE_URL=empty_database)
    read_until(demo, "processing")
    assert not (checkout / ".data" / "postgres").exists()
    os.killpg(demo.pid, signal.SIGINT)
    demo.communicate(timeout=60)
    assert not left_of(checkout)
    with psycopg.connect(empty_database) as connection:
        # Nothing stays open that a real worker could claim, and pay for.
        open_jobs = connection.execute(
            "select count(*) from dreamcut_jobs where status in ('pending', 'processing')"
        ).fetchone()
        assert open_jobs == (0,)
        assert connection.execute("select count(*) > 10 from dreamcut_jobs").fetchone() == (True,)
