"""`make chaos`: long runs. CHAOS_SEED replays one; CHAOS_RUNS makes several."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from tests.chaos.harness import Chaos, seed_of_environment
from tests.chaos.plan import FAST, LONG


def main() -> int:
    size = FAST if "--fast" in sys.argv else LONG
    for _ in range(int(os.environ.get("CHAOS_RUNS", "1"))):
        with tempfile.TemporaryDirectory(prefix="dreamcuts-chaos-", ignore_cleanup_errors=True) as folder:
            if not Chaos(
                seed_of_environment(), size, Path(folder), lambda line: print(line, flush=True)
            ).run():
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
