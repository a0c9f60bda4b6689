"""A worker process for the chaos tests: `dreamcuts work` with the tests' own job types too.

    python worker_main.py chaos_step:8,gen_image_falai:4

CHAOS_CLOCK_OFFSET_S puts the clock that Python sees that many seconds off.
"""

from __future__ import annotations

import os
import sys
import time

from dreamcuts.config import Settings
from dreamcuts.errors import DreamCutsError
from dreamcuts.log import known_secrets, setup_logging
from dreamcuts.service import run_service
from tests.chaos.jobtypes import all_types


def main() -> int:
    offset = float(os.environ.get("CHAOS_CLOCK_OFFSET_S", "0"))
    if offset:
        real = time.time
        time.time = lambda: real() + offset
    slots = {
        name: int(number) for name, _, number in (part.partition(":") for part in sys.argv[1].split(","))
    }
    settings = Settings.load()
    setup_logging(settings.log_level, settings.log_format, known_secrets(settings))
    try:
        run_service(
            settings,
            all_types(),
            slots,
            shutdown_timeout=float(os.environ.get("CHAOS_SHUTDOWN_S", "1")),
            pooled=False,
        )
    except DreamCutsError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
