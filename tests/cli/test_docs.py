"""The documents say what is there: every setting, command, dependency and target."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

from dreamcuts.cli.reference import reference
from dreamcuts.config import Settings
from dreamcuts.jobs.registry import load_job_types

REPOSITORY = Path(__file__).resolve().parents[2]


def read(name: str) -> str:
    return (REPOSITORY / name).read_text("utf-8")


def test_cli_reference_is_current() -> None:
    assert read("docs/cli.md") == reference(), "run bin/docs"


def test_every_setting_is_documented_with_its_default() -> None:
    text = read("docs/configuration.md")
    for name, field in Settings.model_fields.items():
        row = re.search(rf"^\| `{name.upper()}` \| (.*?) \|", text, re.MULTILINE)
        assert row is not None, name.upper()
        default = field.default
        shown = "" if default is None else str(default).lower() if isinstance(default, bool) else str(default)
        assert row[1].strip("` ") == shown, name.upper()


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    needed = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    text = read("docs/dependencies.md")
    documented = set(re.findall(r"^\| ([a-z0-9-]+)", text, re.MULTILINE)) - {"package", "---"}
    names = {re.split(r"[\[<>=]", line)[0] for line in needed} - {"dreamcuts"}
    assert names == documented


def test_constraints_pin_every_dependency_and_name_no_host() -> None:
    text = read("constraints.txt")
    assert "://" not in text and "@" not in text
    pins = {line.split("==")[0].lower().replace("_", "-") for line in text.splitlines() if "==" in line}
    project = tomllib.loads(read("pyproject.toml"))["project"]
    needed = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    names = {re.split(r"[\[<>=]", line)[0] for line in needed} - {"dreamcuts"}
    assert names <= pins


def test_readme_lists_the_job_types_and_stays_short() -> None:
    text = read("README.md")
    assert len(text.splitlines()) <= 200
    for job_type in load_job_types().values():
        row = f"| `{job_type.name}` | {job_type.short_name} |"
        assert row in text
        assert re.search(re.escape(row) + rf" [A-Za-z]+ \| {job_type.default_slots} \|", text), job_type.name


def test_links_between_documents_lead_somewhere() -> None:
    for document in (REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text("utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_make_lists_its_targets() -> None:
    done = subprocess.run(["make", "help"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert {"setup", "demo", "test", "lint", "types", "check", "clean"} <= set(
        re.findall(r"make (\w+)", done.stdout)
    )


def test_setup_says_clearly_that_there_is_no_python(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for name in ("sh", "dirname"):
        found = next(Path(folder, name) for folder in ("/bin", "/usr/bin") if Path(folder, name).exists())
        (tmp_path / "bin" / name).symlink_to(found)
    (tmp_path / "bin" / "python3").symlink_to("/bin/false")
    done = subprocess.run(
        ["/bin/sh", str(REPOSITORY / "bin" / "setup"), str(tmp_path / "venv")],
        env={"PATH": str(tmp_path / "bin")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "DreamCuts needs Python 3.11 or newer, and found none on PATH" in done.stderr
    assert not (tmp_path / "venv").exists()
