"""The jobs that a worker holds: those that run, one in each slot, and a few that wait for a slot.

A type has slots; each runs one job at a time. Jobs that are over within a millisecond would leave a slot
idle for most of the time, while the next claim is under way. So a type whose jobs are short has some claimed
ahead: as many as its slots get through within HORIZON_S by the time that the last ones took. A type with
longer jobs has none, and what waits here for longer than it should goes back to the queue.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple
from uuid import UUID

import anyio
import anyio.abc

from dreamcuts.jobs.base import Job, JobType
from dreamcuts.queue.models import HandedBack, Outcome
from dreamcuts.worker.attempt import Attempt, StopReason
from dreamcuts.worker.observer import WorkerObserver
from dreamcuts.worker.steering import Steering
from dreamcuts.worker.tools import Tools

log = logging.getLogger(__name__)

HORIZON_S = 0.05
"""How much work, in seconds of a type's slots, may be claimed ahead."""
LARGEST_CLAIM = 1000
"""Jobs in one claim, over all types, beyond those for which a slot is free."""
AT_ONCE_S = 0.001
"""What is over within this time is followed by the next job in the same task."""
TICK_S = 0.25
"""How often running and waiting jobs are looked at for having taken too long."""
STUBBORN_S = 15.0
"""How long a job may go on after it was told that its time is up."""
LONGEST_WAIT_S = 0.5
"""How long a job may wait here for a slot."""
_WEIGHT = 0.1
"""Of the latest job in the average."""


class _Waiting(NamedTuple):
    worker: UUID
    job: Job
    since: float


class Lane:
    """The slots of one type."""

    def __init__(self, job_type: JobType) -> None:
        self.job_type = job_type
        self.limit_s = job_type.time_limit.total_seconds()
        self.active = 0
        self.waiting: deque[_Waiting] = deque()
        self._run_s: float | None = None

    def ran(self, seconds: float) -> None:
        """A job was over after so many seconds."""
        average = self._run_s
        self._run_s = seconds if average is None else average + (seconds - average) * _WEIGHT

    def forget_pace(self) -> None:
        """Nothing is claimed ahead until jobs have shown again that they are short."""
        self._run_s = None

    def ahead(self, slots: int, most: int) -> int:
        """How many jobs may be claimed ahead."""
        if self._run_s is None:
            return 0
        return min(most, int(slots * HORIZON_S / max(self._run_s, 1e-6)))


class Slots:
    """All that a worker holds. `on_outcome(worker, outcome)` takes what is to be written down.

    `on_stubborn()`: a job does not end although its time is over.
    `on_room(type, at_once)` hears that a slot of the type is free; `at_once`: its jobs were over at once.
    """

    def __init__(
        self,
        types: Mapping[str, JobType],
        steering: Steering,
        observer: WorkerObserver,
        on_outcome: Callable[[UUID, Outcome], None],
        on_room: Callable[[str, bool], None],
        *,
        on_stubborn: Callable[[], None] = lambda: None,
        claim_ahead: bool = True,
    ) -> None:
        self.lanes = {name: Lane(job_type) for name, job_type in types.items()}
        self.attempts: dict[UUID, Attempt] = {}
        self._steering = steering
        self._observer = observer
        self._on_outcome = on_outcome
        self._on_room = on_room
        self._on_stubborn = on_stubborn
        self._most_ahead = LARGEST_CLAIM // max(1, len(types)) if claim_ahead else 0
        self._tasks: anyio.abc.TaskGroup | None = None
        self._tools: Tools | None = None
        self._occupied = anyio.Event()
        self._done = anyio.Event()

    def open(self, tasks: anyio.abc.TaskGroup, tools: Tools) -> None:
        """Where jobs run, and what they may use."""
        self._tasks = tasks
        self._tools = tools

    # What is held, and what may be claimed

    def active(self, name: str) -> int:
        """Slots of the type that are taken."""
        return self.lanes[name].active

    def is_empty(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return not self.attempts and not any(lane.waiting for lane in self.lanes.values())

    def is_done(self) -> bool:
        """Whether nothing is held for which an outcome is to come: empty, but for jobs that were given up."""
        return all(attempt.is_given_up for attempt in self.attempts.values()) and not any(
            lane.waiting for lane in self.lanes.values()
        )

    def held(self, worker: UUID) -> Iterator[Job]:
        """The jobs that run or wait, and that this incarnation claimed."""
        for attempt in self.attempts.values():
            if attempt.worker == worker and not attempt.is_given_up:
                yield attempt.job
        for lane in self.lanes.values():
            for entry in lane.waiting:
                if entry.worker == worker:
                    yield entry.job

    def free(self, name: str) -> int:
        """Slots of the type for which no job is there."""
        lane = self.lanes[name]
        return max(0, self._steering.slots[name] - lane.active - len(lane.waiting))

    def serves(self, name: str) -> bool:
        """Whether the type has slots, free or not."""
        return self._steering.slots[name] > 0

    def room(self, name: str) -> int:
        """How many jobs of the type to claim now.

        Twice as many may be here as are claimed at once: one claim is under way while the last is worked off.
        """
        lane, slots = self.lanes[name], self._steering.slots[name]
        ahead = lane.ahead(slots, self._most_ahead)
        return max(0, min(slots + 2 * ahead - lane.active - len(lane.waiting), slots + ahead))

    def is_worth_a_claim(self, names: Iterable[str]) -> bool:
        """Whether a slot is free for which nothing waits here, or half a claim would find room."""
        room = most = 0
        for name in names:
            lane, slots = self.lanes[name], self._steering.slots[name]
            if lane.active < slots and not lane.waiting:
                return True
            room += self.room(name)
            most += lane.ahead(slots, self._most_ahead)
        return room > 0 and most <= 2 * room

    # Taking jobs in, running them

    def admit(self, worker: UUID, jobs: Iterable[Job]) -> None:
        """Take in what `worker`, an incarnation of this process, has claimed."""
        now = time.monotonic()
        touched: dict[str, Lane] = {}
        for job in jobs:
            if earlier := self.attempts.get(job.id):
                earlier.stop("taken")  # released by an operator, and ours again before we heard of it
            lane = touched.setdefault(job.type, self.lanes[job.type])
            lane.waiting.append(_Waiting(worker, job, now))
        self._occupied.set()
        for name, lane in touched.items():
            self._fill(name, lane)

    def _fill(self, name: str, lane: Lane) -> None:
        """Put a task into a free slot if a job waits for one. When it starts, it does so for the next."""
        if lane.waiting and lane.active < self._steering.slots[name] and self._tasks is not None:
            lane.active += 1
            self._tasks.start_soon(self._occupy, name, lane)

    async def _occupy(self, name: str, lane: Lane) -> None:
        """One slot, for as long as its jobs are over at once. After a longer one, another task goes on."""
        attempt: Attempt | None = None
        at_once = True
        try:
            self._fill(name, lane)
            with anyio.CancelScope() as scope:
                while lane.waiting:
                    attempt = self._begin(lane, scope)
                    await attempt.run()
                    if not attempt.is_over_at_once(AT_ONCE_S):
                        break
                    self._end(lane, attempt, attempt.outcome)
                    attempt = None
            if attempt is not None:
                at_once = False
                outcome = await attempt.conclude()
                self._end(lane, attempt, outcome)
                attempt = None
        finally:
            if attempt is not None:
                self._end(lane, attempt, None)
            lane.active -= 1
            self._fill(name, lane)
            self._on_room(name, at_once)
            if self.is_done():
                self._done.set()

    def _begin(self, lane: Lane, scope: anyio.CancelScope) -> Attempt:
        assert self._tools is not None
        entry = lane.waiting.popleft()
        attempt = Attempt(entry.job, entry.worker, lane.job_type, self._tools, self._observer, scope)
        self.attempts[entry.job.id] = attempt
        self._observer.attempt_began(entry.job)
        return attempt

    def _end(self, lane: Lane, attempt: Attempt, outcome: Outcome | None) -> None:
        job = attempt.job
        took = time.monotonic() - attempt.began
        lane.ran(took)
        self._observer.attempt_ended(job, outcome, took)
        attempt.forget()
        if self.attempts.get(job.id) is attempt:
            del self.attempts[job.id]
        if outcome is not None and not attempt.is_given_up:
            self._on_outcome(attempt.worker, outcome)

    # Stopping

    def stop(self, job: UUID, claim: int, reason: StopReason) -> None:
        """Stop one job, if it is held under this claim."""
        attempt = self.attempts.get(job)
        if attempt is not None and attempt.job.claim == claim:
            attempt.stop(reason)
            return
        for lane in self.lanes.values():
            for entry in lane.waiting:
                if entry.job.id == job and entry.job.claim == claim:
                    lane.waiting.remove(entry)
                    return

    def stop_all(self, reason: StopReason) -> None:
        """Stop everything that runs; what waits goes back, or is dropped if it was taken from us."""
        for attempt in list(self.attempts.values()):
            attempt.stop(reason)
        if reason == "handed_back":
            self.return_waiting("handed back by a worker that stopped")
        for lane in self.lanes.values():
            lane.waiting.clear()
        if self.is_done():
            self._done.set()

    def return_waiting(self, why: str) -> None:
        """Hand back what waits for a slot."""
        for lane in self.lanes.values():
            self._return(lane, why)

    def _return(self, lane: Lane, why: str) -> None:
        while lane.waiting:
            entry = lane.waiting.popleft()
            self._on_outcome(entry.worker, HandedBack(entry.job, why))

    async def until_done(self) -> None:
        """Return when nothing is held for which an outcome is to come."""
        while not self.is_done():
            self._done = anyio.Event()
            await self._done.wait()

    def _give_up(self, attempt: Attempt) -> None:
        """A job blocks a thread, or swallows its cancellation: without it being over, say how it ended."""
        log.error(
            "Job %s goes on %.0f s after its time limit and heeds no cancellation. It counts as timed out; "
            "its slot is lost, so this worker drains and ends.",
            attempt.job.job_id,
            STUBBORN_S,
            extra={"job_id": attempt.job.job_id},
        )
        self._on_outcome(attempt.worker, attempt.give_up())
        if self.is_done():
            self._done.set()
        self._on_stubborn()

    async def keep_time(self) -> None:
        """Stop what runs for too long, return what waits for too long; until cancelled."""
        while True:
            if self.is_empty():
                self._occupied = anyio.Event()
                await self._occupied.wait()
            asleep = time.monotonic()
            await anyio.sleep(TICK_S)
            now = time.monotonic()
            stopped_s = now - asleep - TICK_S
            for attempt in list(self.attempts.values()):
                if attempt.has_run:
                    continue  # what is left is ours: a ticket, say, that waits for the database
                if attempt.told_at is not None:
                    # Counted from then, without the time in which the whole process stood still: no job could
                    # end in that.
                    attempt.told_at += stopped_s
                    if now - attempt.told_at > STUBBORN_S and not attempt.is_given_up:
                        self._give_up(attempt)
                elif now - attempt.began > self.lanes[attempt.job.type].limit_s:
                    attempt.told_at = now
                    attempt.stop("timed_out")
            for lane in self.lanes.values():
                if lane.waiting and now - lane.waiting[0].since > LONGEST_WAIT_S:
                    lane.forget_pace()
                    self._return(lane, "claimed ahead, but the jobs before it took longer than expected")
