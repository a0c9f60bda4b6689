"""What an operator asks of a worker through the database: other slots, an end, a restart."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from enum import StrEnum
from uuid import UUID

from dreamcuts.queue.models import Heartbeat

log = logging.getLogger(__name__)


class Command(StrEnum):
    """What a worker can be asked to do, as it stands in `dreamcut_workers.command`."""

    DRAIN = "drain"
    """Claim no more, finish what runs within the shutdown timeout, end."""
    DRAIN_NOW = "drain_now"
    """Hand back what runs, end."""
    RESTART = "restart"
    """As DRAIN, and start anew."""


class Steering:
    """The slots that count now, and whether the process is to start anew when it has drained."""

    def __init__(self, slots: Mapping[str, int]) -> None:
        self.slots = dict(slots)
        self.wants_restart = False
        self._heeded: tuple[UUID, str] | None = None

    def scale(self, slots: Mapping[str, int]) -> bool:
        """Take over the slots that the database names; returns whether they are other ones."""
        known = {name: number for name, number in slots.items() if name in self.slots}
        if known == self.slots or not known:
            return False
        changes = (f"{name} {self.slots[name]} -> {n}" for name, n in known.items() if n != self.slots[name])
        log.info("Scaled: %s", ", ".join(changes))
        self.slots |= known
        return True

    def asked(self, worker: UUID, beat: Heartbeat) -> Command | None:
        """The command that this heartbeat brings for the first time, or None."""
        if beat.command is None or self._heeded == (worker, beat.command):
            return None
        self._heeded = (worker, beat.command)
        try:
            command = Command(beat.command)
        except ValueError:
            log.warning("Asked to %r, which this release does not know", beat.command)
            return None
        self.wants_restart = command is Command.RESTART
        log.info("Asked to %s: %s", command.replace("_", " "), beat.command_reason or "no reason given")
        return command
