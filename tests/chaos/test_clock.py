"""The wrong clock of a chaos run's worker is wrong however it is asked; what waits is not disturbed."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from tests.chaos.machine import ROOT

ASK = """
import sys
from tests.chaos.clock import put_off
put_off(float(sys.argv[1]))
import json, time as clock
from datetime import UTC, datetime
from time import monotonic, time
import dreamcuts.service  # all of it can be imported
said = [time(), clock.time(), clock.time_ns() / 1e9]
said += [datetime.now(UTC).timestamp(), datetime.now().timestamp()]
said.append(datetime.fromisoformat(datetime.now(UTC).isoformat()).timestamp())
assert isinstance(datetime.now(), datetime) and isinstance(datetime(2020, 1, 1), datetime)
print(json.dumps({"wrong": said, "right": monotonic()}))
"""


@pytest.mark.parametrize("offset", [3600.0, -86400.0])
def test_every_clock_is_off(offset: float) -> None:
    before, before_monotonic = time.time(), time.monotonic()
    said = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", ASK, str(offset)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    after, after_monotonic = time.time(), time.monotonic()
    found = json.loads(said.stdout)
    for wrong in found["wrong"]:
        assert before <= wrong - offset <= after
    assert before_monotonic <= found["right"] <= after_monotonic
