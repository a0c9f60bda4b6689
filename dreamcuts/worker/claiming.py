"""What to claim, and when.

A claim is made only where it may find something: for a type of which the last claim got all it asked for, or
of which a notification says that something is ready. It asks for jobs while the last ones are being worked
off. Now and then the worker looks for itself, with a statement that writes nothing: once in a poll interval,
and more and more rarely while there is nothing to do and notifications arrive.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from dreamcuts.queue.models import Job
from dreamcuts.queue.store import Look, Lookout
from dreamcuts.worker.slots import Slots

RESCAN_S = 0.2
"""How long a type's claims may begin where the last one ended. Then one begins with the most urgent again."""
RESCAN_SHARE = 20
"""... and, whatever was heard, not before this many times what the last one took, which may have walked
over a million dead entries. Where it began at the start for one of several types, so many times longer.

A type of which the last claim found the end always begins at its start."""
LONGEST_RESCAN_S = 10.0
"""... but within this. A claim also takes long when the process or the database stood still."""
LONGEST_POLL_S = 30.0
"""How long a worker that hears notifications goes without looking, however long there was nothing to do."""
FLOOD_S = 0.2
"""Claims that come quicker than this, and find all they ask for, need nobody to wake the worker."""


@dataclass(slots=True)
class _Known:
    """What is known of a type's ready jobs. `news` counts what was heard of them, `room` what made room.

    `after` is where the last claim ended; None: the next begins at the start. The last that did so ended at
    `scanned_at`, knew the first `scanned_news` news, and was so dear that the next should not come before
    `scan_not_before`.
    """

    may_be_ready: bool = True
    after: tuple[int, int] | None = None
    scanned_at: float = 0.0
    scanned_news: int = 0
    scan_not_before: float = 0.0
    news: int = 0
    room: int = 0

    def begins_at_start(self, now: float) -> bool:
        """Whether the next claim is to find what is more urgent than where the last one ended."""
        if self.after is None:
            return True
        is_time = self.news != self.scanned_news or now >= self.scanned_at + RESCAN_S
        return is_time and now >= self.scan_not_before


@dataclass(frozen=True, slots=True)
class Asked:
    """A claim under way: how many of each type, from where, what was known when it was made."""

    lookouts: tuple[Lookout, ...]
    known: tuple[tuple[int, int], ...]
    at: float
    waits: bool


class Appetite:
    """Decides what the next claim asks for, and learns from what it brought."""

    def __init__(self, slots: Slots, poll_s: float) -> None:
        self._slots = slots
        self._poll_s = poll_s
        self._known = {name: _Known() for name in slots.lanes}
        self._pause_s = poll_s
        self._look_at = time.monotonic() + poll_s
        self._full_at = 0.0
        self._is_limited = True  # until a look says that nothing is

    # When to look, and at what

    def unknown(self) -> list[str]:
        """The types that a look is to ask about: of the others we know that something may be ready.

        To find their first ready job, it would walk over all that was claimed and not vacuumed yet.
        """
        return [name for name, known in self._known.items() if not known.may_be_ready]

    def seconds_to_look(self) -> float:
        """Seconds until it is time to look."""
        return max(0.0, self._look_at - time.monotonic())

    def look_soon(self) -> None:
        """Something may come due, or come without a word: look within a poll interval."""
        self._pause_s = self._poll_s
        self._look_at = min(self._look_at, time.monotonic() + self._poll_s)

    def looked(self, found: Look, *, hears: bool) -> None:
        """Learn from a look at the unknown types. `hears`: notifications arrive."""
        due_s = found.due_s
        self._is_limited = found.is_limited
        if due_s is not None and due_s <= 0:
            self.heard()
        for name in found.ready:
            self.heard(name)
        idle = hears and not any(
            known.may_be_ready and self._slots.serves(name) for name, known in self._known.items()
        )
        pause = self._pause_s if idle else self._poll_s
        self._pause_s = min(self._pause_s * 2, max(LONGEST_POLL_S, self._poll_s)) if idle else self._poll_s
        # Jitter, so that idle workers do not look in step.
        pause *= random.uniform(0.9, 1.1)
        if due_s is not None and due_s > 0:
            pause = min(pause, due_s + random.uniform(0.0, 0.01))
        self._look_at = time.monotonic() + pause

    # What to claim

    def heard(self, name: str = "") -> None:
        """Something of the type, or of any, may be ready."""
        for known in (self._known[name],) if name else self._known.values():
            known.news += 1
            known.may_be_ready = True

    def one_ended(self) -> None:
        """A job ended. Its call may have made room under a provider's limit, for other types too."""
        if not self._is_limited:
            return
        for known in self._known.values():
            known.room += 1
            known.may_be_ready = True

    def is_stilled(self) -> bool:
        """Whether nothing was ready of any type for which there was room."""
        return not any(known.may_be_ready and self._slots.room(name) for name, known in self._known.items())

    def wants(self, name: str) -> bool:
        """Whether a free slot of the type is a reason to claim."""
        return self._known[name].may_be_ready

    def will_promote(self) -> bool:
        """Whether the next claim begins at the start of some type, and so makes ready what has come due."""
        now = time.monotonic()
        return any(
            known.may_be_ready and known.begins_at_start(now) and self._slots.room(name)
            for name, known in self._known.items()
        )

    def ask(self) -> Asked | None:
        """What to claim now; None: nothing."""
        names = [name for name, known in self._known.items() if known.may_be_ready]
        if not self._slots.is_worth_a_claim(names):
            return None
        now = time.monotonic()
        lookouts = []
        for name in names:
            known = self._known[name]
            if room := self._slots.room(name):
                after = None if known.begins_at_start(now) else known.after
                lookouts.append(Lookout(name, room, *(after or (None, None))))
        if not lookouts:
            return None
        # All of its types are in a flood: it comes back by itself.
        waits = len(names) < len(self._known) or now - self._full_at > FLOOD_S
        known_now = tuple((self._known[each.type].news, self._known[each.type].room) for each in lookouts)
        return Asked(tuple(lookouts), known_now, now, waits)

    def got(self, asked: Asked, jobs: Sequence[Job]) -> None:
        """Learn from a claim's answer."""
        now = time.monotonic()
        last: dict[str, Job] = {}
        counts = dict.fromkeys(self._known, 0)
        for job in jobs:
            if not job.is_suspect:  # those are found from the start, always
                last[job.type] = job  # they come in the order in which they were claimed
            counts[job.type] += 1
        is_full = True
        scans = sum(lookout.after_turn is None for lookout in asked.lookouts)
        for lookout, (news, room) in zip(asked.lookouts, asked.known, strict=True):
            known = self._known[lookout.type]
            from_start = lookout.after_turn is None
            if from_start:
                known.scanned_at = now
                known.scanned_news = news
                # Where the types' turns come in different claims, each has its part of the share.
                pause = RESCAN_SHARE * (now - asked.at) * len(asked.lookouts) / scans
                known.scan_not_before = now + min(pause, LONGEST_RESCAN_S)
            if counts[lookout.type] >= lookout.jobs:
                if lookout.type in last:
                    known.after = (last[lookout.type].urgency, last[lookout.type].turn)
            else:
                is_full = False
                # From the middle, it may have missed what is before; from the start, there is no more.
                known.after = None
                known.may_be_ready = not from_start or (known.news, known.room) != (news, room)
        if is_full:
            self._full_at = now
        if jobs:
            self.look_soon()
