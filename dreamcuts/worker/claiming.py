"""What to claim, and when.

A claim costs the database the same whether it finds something or not, so one is made only where it may find
something: for a type of which the last claim got all it asked for, or of which a notification says that
something is ready, or when it is time to poll. It asks for jobs while the last ones are being worked off.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from dreamcuts.queue.models import Job
from dreamcuts.queue.store import Lookout
from dreamcuts.worker.slots import Slots

RESCAN_S = 0.2
"""How long a type's claims may begin where the last one ended. Then one begins with the most urgent again."""
RESCAN_SHARE = 20
"""... and not before this many times what the last such claim took: it may have walked over a million dead
entries."""


@dataclass(slots=True)
class _Lookout:
    """What is known of a type's ready jobs. `news` counts what was heard of them."""

    may_be_ready: bool = True
    after: tuple[int, int] | None = None
    from_start_at: float = 0.0
    news: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """A claim under way: how many of each type, from where, and what was known when it was made."""

    lookouts: tuple[Lookout, ...]
    news: tuple[int, ...]
    at: float


class Appetite:
    """Decides what the next claim asks for, and learns from what it brought."""

    def __init__(self, slots: Slots, poll_interval: float) -> None:
        self._slots = slots
        self._poll_interval = poll_interval
        self._known = {name: _Lookout() for name in slots.lanes}
        self._poll_at = 0.0

    def seconds_to_poll(self) -> float:
        """Seconds until all types are asked for again."""
        return max(0.0, self._poll_at - time.monotonic())

    def heard(self, name: str = "") -> None:
        """Something of the type, or of any, may be ready."""
        for known in (self._known[name],) if name else self._known.values():
            known.news += 1
            known.may_be_ready = True
            known.after = None

    def is_stilled(self) -> bool:
        """Whether nothing was ready of any type for which there was room."""
        return not any(known.may_be_ready and self._slots.room(name) for name, known in self._known.items())

    def wants(self, name: str) -> bool:
        """Whether a free slot of the type is a reason to claim."""
        return self._known[name].may_be_ready

    def ask(self) -> Asked | None:
        """What to claim now; None: nothing."""
        now = time.monotonic()
        if now >= self._poll_at:
            self.heard()
            # Jitter, so that idle workers do not poll in step.
            self._poll_at = now + self._poll_interval * random.uniform(0.9, 1.1)
        names = [name for name, known in self._known.items() if known.may_be_ready]
        if not self._slots.is_worth_a_claim(names):
            return None
        lookouts = []
        for name in names:
            known = self._known[name]
            if now >= known.from_start_at:
                known.after = None
            if room := self._slots.room(name):
                lookouts.append(Lookout(name, room, *(known.after or (None, None))))
        if not lookouts:
            return None
        return Asked(tuple(lookouts), tuple(self._known[each.type].news for each in lookouts), now)

    def got(self, asked: Asked, jobs: Sequence[Job]) -> None:
        """Learn from a claim's answer."""
        now = time.monotonic()
        last: dict[str, Job] = {}
        counts: dict[str, int] = dict.fromkeys(self._known, 0)
        for job in jobs:
            if not job.is_suspect:  # those are found from the start, always
                last[job.type] = job  # they come in the order in which they were claimed
            counts[job.type] += 1
        for lookout, news in zip(asked.lookouts, asked.news, strict=True):
            known = self._known[lookout.type]
            from_start = lookout.after_turn is None
            if from_start:
                known.from_start_at = now + max(RESCAN_S, RESCAN_SHARE * (now - asked.at))
            if counts[lookout.type] >= lookout.jobs:
                if known.news == news and lookout.type in last:
                    known.after = (last[lookout.type].urgency, last[lookout.type].turn)
            else:
                # From the middle, it may have missed what is before; from the start, there is no more.
                known.after = None
                known.may_be_ready = not from_start or known.news != news
