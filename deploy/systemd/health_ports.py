"""Warn of workers of this machine that would serve health on the same port. bin/install-systemd runs it.

Arguments: the root below which etc/ is looked at ("" for this machine's), and the job types of workers that
are to be installed. Those that are enabled already count too. It changes nothing.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from pathlib import Path

ASSIGNMENT = re.compile(r"""\s*(\w+)=["']?([^"'\s]*)""")
TRUE = ("true", "1", "yes", "on", "t", "y")


def main(root: str, asked: list[str]) -> None:
    etc = Path(root or "/", "etc")
    health = {}
    for types in dict.fromkeys([*enabled(etc), *asked]):
        found = settings(etc, types)
        if found.get("ENABLE_HEALTH_CHECK", "").lower() in TRUE:
            health[types] = found
    if len(health) < 2:
        return
    ports: dict[str, list[str]] = defaultdict(list)
    for types, found in health.items():
        ports[found.get("HEALTH_CHECK_PORT") or own_port(types)].append(types)
    ports.pop("0", None)  # the system chooses
    free = (str(number) for number in range(8081, 9000) if str(number) not in ports)
    for number, (first, *others) in ports.items():
        for types in others:
            print(
                f"warning: the workers {first} and {types} have the same health port, {number}; the second "
                f"to start ends. Put HEALTH_CHECK_PORT={next(free)} into {etc}/dreamcuts/{types}.env "
                "(mode 0600).",
                file=sys.stderr,
            )


def enabled(etc: Path) -> list[str]:
    """The types of the workers that start with the machine."""
    units = (etc / "systemd/system/multi-user.target.wants").glob("dreamcuts-worker@*.service")
    instances = (unit.stem.partition("@")[2] for unit in units)
    return sorted(re.sub(r"\\x([0-9a-f]{2})", lambda byte: chr(int(byte[1], 16)), name) for name in instances)


def settings(etc: Path, types: str) -> dict[str, str]:
    """What systemd gives the worker: the settings of all, then its own."""
    found: dict[str, str] = {}
    for file in (etc / "dreamcuts/worker.env", etc / f"dreamcuts/{types}.env"):
        try:
            lines = file.read_text("utf-8", "replace").splitlines()
        except OSError:  # not there, or a dry run of somebody who may not read it
            continue
        found |= {pair[1]: pair[2] for line in lines if (pair := ASSIGNMENT.match(line))}
    return found


def own_port(types: str) -> str:
    """Where a worker serves health that is not told where."""
    # Here, since it takes a second and is rarely needed.
    from dreamcuts.config import Settings
    from dreamcuts.jobs.registry import load_job_types
    from dreamcuts.server.beside import PORTS

    names = [word.partition(":")[0] for word in types.split(",")]
    default = Settings.model_fields["health_check_port"].default
    if len(names) > 1:
        return str(default)
    known = load_job_types()
    return str(PORTS.get(known[names[0]].short_name if names[0] in known else names[0], default))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
