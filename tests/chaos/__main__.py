"""`make chaos`: a long run, then every kill point many times. `--help` says what can be chosen.

What a run that failed leaves behind is kept.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.harness import Chaos, seed_of_environment
from tests.chaos.kill_points import kill_many_times
from tests.chaos.plan import FAST, LONG


def say(line: str) -> None:
    print(line, flush=True)


def count(text: str) -> int:
    """A number from 0; argparse names the option that has another value."""
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """What to do. The environment, as in `make chaos KILLS=n`, stands in for an option that is left out."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description="Break workers, Postgres and providers, and check every promise.",
        allow_abbrev=False,
    )
    parser.add_argument("--only", choices=("random", "kill-points"), help="leave out the other part")
    parser.add_argument("--fast", action="store_true", help="short random runs, as in the test suite")
    parser.add_argument(
        "--seed", type=count, default=os.environ.get("CHAOS_SEED") or None,
        help="replay the random run with this seed (CHAOS_SEED)",
    )  # fmt: skip
    parser.add_argument(
        "--runs", type=count, default=os.environ.get("CHAOS_RUNS") or "1",
        help="how many random runs to make (CHAOS_RUNS; 1)",
    )  # fmt: skip
    parser.add_argument(
        "--kills", type=count, default=os.environ.get("KILLS") or "10",
        help="how often to kill at each point (KILLS; 10)",
    )  # fmt: skip
    chosen = parser.parse_args(arguments)
    if chosen.only == "random":
        chosen.kills = 0
    elif chosen.only == "kill-points":
        chosen.runs = 0
    return chosen


def main(arguments: Sequence[str]) -> int:
    chosen = parse(arguments)
    size = FAST if chosen.fast else LONG
    for _ in range(chosen.runs):
        folder = Path(tempfile.mkdtemp(prefix="dreamcuts-chaos-"))
        seed = seed_of_environment() if chosen.seed is None else chosen.seed
        if not Chaos(seed, size, folder, say).run():
            say(f"  its logs: {folder}")
            return 1
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if not chosen.kills or kill_many_times(chosen.kills, say) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
