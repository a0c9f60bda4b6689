"""What is not Python and still needed stands in the wheel; what is an example package does not."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.plugins.conftest import REPOSITORY

HAS_BACKEND = importlib.util.find_spec("hatchling") is not None


@pytest.mark.skipif(not HAS_BACKEND, reason="the build backend hatchling is not installed")
def test_the_wheel_holds_sql_examples_and_the_testing_kit(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    (wheel,) = tmp_path.glob("dreamcuts-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for folder in ("migrations", "functions", "queries"):
        for path in (REPOSITORY / "sql" / folder).glob("*.sql"):
            assert f"dreamcuts/_sql/{folder}/{path.name}" in names
    assert {"dreamcuts/_examples/demo.json", "dreamcuts/py.typed", "dreamcuts/testing/run.py"} <= names
    assert not [name for name in names if "charts" in name]
