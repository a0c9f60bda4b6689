"""`make chaos`: a long run, then every kill point many times.

CHAOS_SEED replays a run, CHAOS_RUNS makes several. KILLS is how often each point is gone through (10); 0
leaves them out, and CHAOS_RUNS=0 the runs. What a run that failed leaves behind is kept.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from tests.chaos.harness import Chaos, seed_of_environment
from tests.chaos.kill_points import kill_many_times
from tests.chaos.plan import FAST, LONG


def say(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    size = FAST if "--fast" in sys.argv else LONG
    for _ in range(int(os.environ.get("CHAOS_RUNS", "1"))):
        folder = Path(tempfile.mkdtemp(prefix="dreamcuts-chaos-"))
        if not Chaos(seed_of_environment(), size, folder, say).run():
            say(f"  its logs: {folder}")
            return 1
        shutil.rmtree(folder, ignore_errors=True)
    kills = int(os.environ.get("KILLS", "10"))
    return 0 if not kills or kill_many_times(kills, say) else 1


if __name__ == "__main__":
    sys.exit(main())
