"""A short chaos run in every test run; `make chaos` makes a long one."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.harness import Chaos, seed_of_environment
from tests.chaos.plan import FAST


def test_a_short_chaos_run(tmp_path: Path) -> None:
    lines: list[str] = []

    def say(line: str) -> None:
        print(line)  # at once: pytest shows it also when the run ends with an error
        lines.append(line)

    assert Chaos(seed_of_environment(), FAST, tmp_path, say).run(), "\n".join(lines)
    assert lines[0].startswith("chaos seed")
