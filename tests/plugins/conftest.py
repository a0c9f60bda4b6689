"""The testing kit on the suite's own Postgres, and plugins as a package manager would install them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dreamcuts.embedded import EmbeddedPostgres
from dreamcuts.testing import SERVER_VARIABLE
from dreamcuts.testing.fixtures import dreamcuts_database, run_dreamcuts_job

__all__ = ["dreamcuts_database", "run_dreamcuts_job"]

REPOSITORY = Path(__file__).resolve().parents[2]
CHARTS = REPOSITORY / "examples" / "plugin-charts"


@pytest.fixture(autouse=True)
def scratch_server(postgres_server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scratch databases are made on the suite's server; without this the kit starts one of its own."""
    monkeypatch.setenv(SERVER_VARIABLE, postgres_server.dsn())


@dataclass
class Site:
    """A folder that stands for site-packages: packages beside the metadata that an installer would write."""

    folder: Path
    database: str
    environment: dict[str, str] = field(default_factory=dict)

    def add(self, distribution: str, entry_points: str, **modules: str) -> None:
        """Install a distribution made of these modules."""
        for name, source in modules.items():
            (self.folder / f"{name}.py").write_text(source, "utf-8")
        metadata = self.folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(entry_points, "utf-8")

    def add_project(self, project: Path) -> None:
        """Install a project in src layout, with the entry points that its pyproject.toml declares."""
        described = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["project"]
        groups = [
            f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
            for group, points in described["entry-points"].items()
        ]
        for package in (project / "src").iterdir():
            if package.is_dir() and package.suffix != ".egg-info":
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(package, self.folder / package.name, ignore=ignored)
        self.add(described["name"], "\n".join(groups))

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run Python with the site on its path."""
        return subprocess.run(
            [sys.executable, *arguments],
            env={**os.environ, "PYTHONPATH": str(self.folder), **self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )

    def dreamcuts(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command of DreamCuts on the test's database, with assets in `folder/../assets`."""
        assets = self.folder.parent / "assets"
        settings = {
            "DATABASE_URL": self.database,
            "STORAGE_DIR": str(assets),
            "STORAGE_BASE_URL": assets.as_uri(),
            "POLL_INTERVAL_S": "0.2",
            "PROVIDER_POLL_S": "0.05",
        }
        return self.run("-m", "dreamcuts", *arguments, **{**settings, **environment})


@pytest.fixture
def site(tmp_path: Path, database: str) -> Site:
    folder = tmp_path / "site"
    folder.mkdir()
    return Site(folder, database)
