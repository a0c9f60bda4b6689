"""The systemd unit and its installer, below a temporary root."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
UNIT = Path("etc/systemd/system/dreamcuts-worker@.service")
SETTINGS = Path("etc/dreamcuts/worker.env")

needs_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)
needs_systemctl = pytest.mark.skipif(shutil.which("systemctl") is None, reason="systemctl is not installed")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root in which this Python's environment stands as /opt/dreamcuts."""
    root = tmp_path / "root"
    (root / "opt").mkdir(parents=True)
    (root / "opt/dreamcuts").symlink_to(sys.prefix)
    return root


def install(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(REPOSITORY / "bin/install-systemd"), *arguments], capture_output=True, text=True, timeout=60
    )


def everything(root: Path) -> dict[str, tuple[int, str]]:
    return {
        str(path.relative_to(root)): (path.lstat().st_mode, "" if path.is_symlink() else path.read_text())
        for path in sorted((root / "etc").rglob("*"))
        if path.is_symlink() or path.is_file()
    }


@pytest.fixture
def rendered(root: Path) -> Path:
    """The installed unit as an instance that systemd-analyze can check: ExecStart exists."""
    assert install("--root", str(root)).returncode == 0
    text = (root / UNIT).read_text().replace("/opt/dreamcuts", str(root / "opt/dreamcuts"))
    instance = root / "dreamcuts-worker@tts\\x2cmusic.service"
    instance.write_text(text)
    return instance


def test_dry_run_changes_nothing(root: Path) -> None:
    done = install("--root", str(root), "--types", "tts,music", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert (
        "would write" in done.stdout and "would enable dreamcuts-worker@tts\\x2cmusic.service" in done.stdout
    )
    assert not (root / "etc").exists()


def test_installs_once_and_keeps_settings(root: Path) -> None:
    first = install("--root", str(root))
    assert first.returncode == 0, first.stderr
    assert first.stdout.count("wrote") == 2
    assert stat.S_IMODE((root / SETTINGS).stat().st_mode) == 0o600
    unit = (root / UNIT).read_text()
    assert "ExecStart=/opt/dreamcuts/bin/dreamcuts work --types %I" in unit
    assert "@PREFIX@" not in unit

    (root / SETTINGS).write_text("DATABASE_URL=postgresql://mine\n")
    before = everything(root)
    again = install("--root", str(root))
    assert again.returncode == 0, again.stderr
    assert "wrote" not in again.stdout and "unchanged" in again.stdout
    assert everything(root) == before

    (root / UNIT).write_text("[Service]\n")
    mended = install(f"--root={root}")
    assert "wrote" in mended.stdout
    assert everything(root) == before


def test_open_settings_are_warned_about(root: Path) -> None:
    install("--root", str(root))
    (root / SETTINGS).chmod(0o644)
    done = install("--root", str(root))
    assert done.returncode == 0
    assert "chmod 600" in done.stderr
    assert stat.S_IMODE((root / SETTINGS).stat().st_mode) == 0o644


def test_open_settings_of_one_worker_are_warned_about(root: Path) -> None:
    install("--root", str(root))
    own = root / "etc/dreamcuts/tts,music.env"
    own.write_text("ELEVENLABS_API_KEY=x\n")
    own.chmod(0o640)
    assert f"chmod 600 '{own}'" in install("--root", str(root)).stderr
    own.chmod(0o600)
    assert install("--root", str(root)).stderr == ""


HEALTH = "ENABLE_HEALTH_CHECK=true\n"
TWO = ["image,video", "tts,music"]


@pytest.mark.parametrize(
    ("everyone", "own", "workers", "warns"),
    [
        (HEALTH, {}, [*TWO, "render"], [("image,video", "tts,music", "8080", "8081")]),
        (HEALTH, {"image,video": "HEALTH_CHECK_PORT='8081'\n"}, [*TWO, "render"], []),
        (HEALTH, {"image,video": "HEALTH_CHECK_PORT=3007"}, ["image,video", "render"], [
            ("image,video", "render", "3007", "8081")
        ]),
        (HEALTH + "HEALTH_CHECK_PORT=9000", {}, ["music:2", "tts", "video"], [
            ("music:2", "tts", "9000", "8081"), ("music:2", "video", "9000", "8082")
        ]),
        (HEALTH + "HEALTH_CHECK_PORT=0", {}, ["tts", "video"], []),
        (HEALTH, {}, ["tts", "tts_elevenlabs:2"], [("tts", "tts_elevenlabs:2", "3001", "8081")]),
        ("#ENABLE_HEALTH_CHECK=true\n", {}, TWO, []),
        ("", dict.fromkeys(TWO, HEALTH), TWO, [("image,video", "tts,music", "8080", "8081")]),
    ],
)  # fmt: skip
def test_workers_with_one_health_port_are_warned_about(
    root: Path, everyone: str, own: dict[str, str], workers: list[str], warns: list[tuple[str, ...]]
) -> None:
    folder = root / "etc/dreamcuts"
    folder.mkdir(parents=True)
    for name, text in {"worker": everyone, **own}.items():
        (folder / f"{name}.env").write_text(text)
        (folder / f"{name}.env").chmod(0o600)
    wants = root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True)
    for name in workers:
        (wants / f"dreamcuts-worker@{name}.service".replace(",", "\\x2c")).touch()
    done = install("--root", str(root), "--dry-run")
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert len(lines) == len(warns), done.stderr
    for line, (first, second, taken, free) in zip(lines, warns, strict=True):
        assert f"workers {first} and {second} have the same health port, {taken};" in line
        assert f"HEALTH_CHECK_PORT={free} into {folder}/{second}.env" in line


@needs_systemctl
def test_a_worker_that_is_there_already_counts(root: Path) -> None:
    install("--root", str(root), "--types", "tts,music")
    (root / SETTINGS).write_text(HEALTH)
    done = install("--root", str(root), "--types", "image,video", "--dry-run")
    assert "workers tts,music and image,video have the same health port, 8080" in done.stderr
    assert install("--root", str(root), "--types", "tts,music", "--dry-run").stderr == ""


@needs_systemctl
def test_instances_are_enabled_in_a_root(root: Path) -> None:
    done = install("--root", str(root), "--types", "tts,music", "--types", "video:2")
    assert done.returncode == 0, done.stderr
    wants = root / "etc/systemd/system/multi-user.target.wants"
    assert sorted(path.name for path in wants.iterdir()) == [
        "dreamcuts-worker@tts\\x2cmusic.service",
        "dreamcuts-worker@video:2.service",
    ]
    before = everything(root)
    install("--root", str(root), "--types", "tts,music")
    assert everything(root) == before


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--types", "tts,vidoe"], 2, "vidoe"),
        (["--types", "tts:0"], 2, "must be 1 or more"),
        (["--types", "tts;reboot"], 2, "tts,music"),
        (["--types"], 2, "needs a value"),
        (["--typos", "tts"], 2, "--typos"),
        (["--prefix", "opt"], 2, "must begin with /"),
        (["--prefix", "/home/me/venv"], 1, "/home"),
        (["--prefix", "/opt/other"], 1, "Install DreamCuts first"),
        (["--prefix", "/opt/a b"], 2, "may be in it"),
    ],
)
def test_what_is_wrong_is_said_before_anything_changes(
    root: Path, arguments: list[str], code: int, says: str
) -> None:
    done = install("--root", str(root), *arguments)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert not (root / "etc").exists()


@pytest.mark.skipif(os.geteuid() == 0 and Path("/run/systemd/system").exists(), reason="would install here")
def test_without_root_or_systemd_it_says_so() -> None:
    done = install("--prefix", "/opt/nothing-here")
    assert done.returncode == 1
    assert "must run as root" in done.stderr or "systemd does not run here" in done.stderr


@needs_analyze
def test_systemd_accepts_the_unit(rendered: Path) -> None:
    done = subprocess.run(["systemd-analyze", "verify", str(rendered)], capture_output=True, text=True)
    # Complaints about units of the machine itself are not ours.
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "dreamcuts" in line]
    assert (done.returncode, ours) == (0, []), done.stderr


@needs_analyze
def test_systemd_rates_the_unit_as_hardened(rendered: Path) -> None:
    def rate(threshold: int) -> subprocess.CompletedProcess[str]:
        command = ["systemd-analyze", "security", "--offline=true", f"--threshold={threshold}", "--no-pager"]
        return subprocess.run([*command, str(rendered)], capture_output=True, text=True)

    done = rate(20)  # tenths: 2.0
    assert done.returncode == 0, done.stdout
    assert rate(1).returncode != 0, "the threshold has no effect"


def test_unit_gives_the_worker_time_to_drain(rendered: Path) -> None:
    from dreamcuts.worker.ending import STOP_GRACE_S

    unit = dict(
        line.split("=", 1) for line in rendered.read_text().splitlines() if "=" in line and line[0] != "#"
    )
    timeout = float(unit["ExecStart"].rsplit("--shutdown-timeout ", 1)[1])
    # The jobs' time, the grace, and the time to write outcomes, which is the shutdown timeout again.
    assert float(unit["TimeoutStopSec"]) > timeout + STOP_GRACE_S + timeout
