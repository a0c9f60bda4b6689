"""Dockerfile and compose.yaml, as far as they can be checked without building."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from dreamcuts.cli import cli
from dreamcuts.server import Pulse, make_app
from dreamcuts.server.serve import serving
from dreamcuts.worker.status import WorkerStatus

REPOSITORY = Path(__file__).resolve().parents[2]


def instructions() -> list[tuple[str, str]]:
    text = (REPOSITORY / "Dockerfile").read_text("utf-8")
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", "")
    return [
        (word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines()) if word
    ]


def value(name: str) -> str:
    """The last instruction of that name, the one that counts."""
    return [rest for word, rest in instructions() if word == name][-1]


def compose() -> dict[str, Any]:
    parsed = yaml.safe_load((REPOSITORY / "compose.yaml").read_text("utf-8"))
    assert isinstance(parsed, dict)
    return parsed


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """What reaches the build: the files that .dockerignore names."""
    lines = (REPOSITORY / ".dockerignore").read_text("utf-8").splitlines()
    assert "*" in lines
    folder = tmp_path / "context"
    folder.mkdir()
    for name in (line[1:] for line in lines if line.startswith("!")):
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


def test_every_file_that_is_copied_is_in_the_context(context: Path) -> None:
    copied = [
        shlex.split(rest)[:-1] for word, rest in instructions() if word == "COPY" and "--from" not in rest
    ]
    names = {name for line in copied for name in line}
    assert names == {path.name for path in context.iterdir()}


def test_requirements_come_out_of_pyproject(context: Path) -> None:
    """The line that reads the dependencies is run as the build's shell would run it."""
    (step,) = [rest for word, rest in instructions() if word == "RUN" and "tomllib" in rest]
    command = step.split(" && ")[0].replace("python ", f"{shlex.quote(sys.executable)} ", 1)
    subprocess.run(["sh", "-c", command], cwd=context, env={"EXTRAS": "[demo]"}, check=True)
    project = tomllib.loads((context / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["demo"]
    assert (context / "requirements.txt").read_text().splitlines() == wanted


def test_it_is_not_root_and_stops_by_draining() -> None:
    assert value("USER") not in ("root", "0")
    assert value("STOPSIGNAL") == "SIGTERM"
    assert json.loads(value("ENTRYPOINT")) == ["dreamcuts"]
    assert json.loads(value("CMD")) == ["work"]


class State:
    """A worker as the health server sees it; `silence` is how long the database has not answered."""

    silence = 0.0
    running = True

    def is_running(self) -> bool:
        return self.running

    def database_silence(self) -> float:
        return self.silence

    def lease_seconds(self) -> float:
        return 45.0

    def worker_statuses(self) -> list[WorkerStatus]:
        return []


def is_healthy(**environment: str) -> bool:
    """What Docker would make of the image's HEALTHCHECK."""
    program, *arguments = json.loads(value("HEALTHCHECK").split("CMD ", 1)[1])
    assert program == "python"
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    assert done.returncode == 0 or "urlopen" in done.stderr, done.stderr
    return done.returncode == 0


def test_health_check_replaces_a_worker_that_hangs_and_no_other() -> None:
    state, pulse = State(), Pulse(hung_after=3600)
    with serving(make_app(state, pulse=pulse), "127.0.0.1", 0) as port:
        environment = {"ENABLE_HEALTH_CHECK": "true", "HEALTH_CHECK_PORT": str(port)}
        assert is_healthy(**environment)
        state.silence = 3600  # an outage of the database: a new container would not reach it either
        assert httpx.get(f"http://127.0.0.1:{port}/health").status_code == 503
        assert is_healthy(**environment)
        state.running = False  # it drains
        assert is_healthy(**environment)
        pulse.hung_after = -1  # nobody beats
        assert not is_healthy(**environment)
    assert not is_healthy(**environment), "nobody listens any more"


@pytest.mark.parametrize(
    "environment",
    [
        {"ENABLE_HEALTH_CHECK": "false", "HEALTH_CHECK_PORT": "1"},
        {"ENABLE_HEALTH_CHECK": "0", "HEALTH_CHECK_PORT": "1"},
        {"ENABLE_HEALTH_CHECK": "True", "HEALTH_CHECK_PORT": "0"},
    ],
)
def test_health_check_asks_nothing_where_nothing_answers(environment: dict[str, str]) -> None:
    assert is_healthy(**environment)
    assert not is_healthy(ENABLE_HEALTH_CHECK="1", HEALTH_CHECK_PORT="1")


def test_the_image_has_the_health_server_on() -> None:
    settings = dict(pair.split("=", 1) for pair in shlex.split(value("ENV")))
    assert settings["ENABLE_HEALTH_CHECK"] == "true" and settings["HEALTH_CHECK_PORT"] == value("EXPOSE")


def test_compose_names_what_exists() -> None:
    parsed = compose()
    services = parsed["services"]
    assert {"postgres", "worker", "sandbox"} <= set(services)
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            condition = how["condition"]
            assert needed in services, name
            assert condition != "service_healthy" or services[needed].get("healthcheck") != {"disable": True}
        network = service.get("network_mode", "")
        assert not network.startswith("service:") or network.split(":")[1] in services
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source == "./out":  # made by docker
                continue
            exists = (REPOSITORY / source).exists() if source.startswith(".") else source in parsed["volumes"]
            assert exists, f"{name}: {source}"
        build = service.get("build")
        if build:
            extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
            assert build["args"]["EXTRAS"].strip("[]") in extras["optional-dependencies"]
    assert (REPOSITORY / "examples/demo.json").exists()


def test_compose_runs_commands_that_exist() -> None:
    """Every `dreamcuts ...` in it is understood: the command and its options."""
    found = []
    for service in compose()["services"].values():
        words = [str(word) for word in service.get("command", [])]
        if service.get("entrypoint") == ["sh", "-c"]:
            (script,) = words
            subprocess.run(["sh", "-n", "-c", script], check=True)
            words = shlex.split(script.split("dreamcuts ", 1)[1].split(" >")[0])
        elif not service.get("build"):
            continue
        found.append(words[0])
        command = cli.get_command(None, words[0])
        assert command is not None, words
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, words
    assert sorted(found) == ["db", "sandbox", "submit", "work"]
