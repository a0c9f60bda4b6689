"""What a worker asks for next, given what the last claims brought and what it heard meanwhile."""

from __future__ import annotations

import itertools
import math
import time
from uuid import uuid4

import pytest

from dreamcuts.queue.models import Job
from dreamcuts.queue.store import Look, Lookout
from dreamcuts.worker import claiming
from dreamcuts.worker.claiming import LONGEST_POLL_S, Appetite, Asked
from dreamcuts.worker.observer import NOBODY
from dreamcuts.worker.slots import HORIZON_S, LARGEST_CLAIM, Slots
from dreamcuts.worker.steering import Steering
from tests.worker.play import Play

SLOTS = 3
NEVER_S = 3600.0
turns = itertools.count(1)


def jobs(number: int, type: str = "work", urgency: int = -6, suspect: bool = False) -> list[Job]:
    return [
        Job(
            uuid4(), None, "job", type, {}, 1, 3, 1, urgency=urgency, turn=next(turns), is_suspect=suspect
        )
        for _ in range(number)
    ]  # fmt: skip


class Hunger:
    """An Appetite over real Slots, none of which ever runs anything."""

    def __init__(self, *types: str, poll_s: float = NEVER_S) -> None:
        self.steering = Steering(dict.fromkeys(types, SLOTS))
        self.slots = Slots(
            {name: Play(name) for name in types},
            self.steering,
            NOBODY,
            lambda worker, outcome: None,
            lambda name, at_once: None,
        )
        self.appetite = Appetite(self.slots, poll_s)

    def ask(self) -> Asked:
        asked = self.appetite.ask()
        assert asked is not None
        return asked

    def claim(self, *brought: Job) -> tuple[Lookout, ...]:
        """One whole claim; returns what it asked for."""
        asked = self.ask()
        self.appetite.got(asked, brought)
        return asked.lookouts


@pytest.fixture
def hunger(monkeypatch: pytest.MonkeyPatch) -> Hunger:
    monkeypatch.setattr(claiming, "RESCAN_S", NEVER_S)
    monkeypatch.setattr(claiming, "RESCAN_SHARE", 0)
    return Hunger("work")


def test_the_first_claim_asks_for_all_types_from_the_start() -> None:
    asked = Hunger("work", "other").claim()
    assert asked == (Lookout("work", SLOTS), Lookout("other", SLOTS))


def test_after_a_full_claim_the_next_goes_on_from_its_last_place(hunger: Hunger) -> None:
    first, second = jobs(SLOTS), jobs(SLOTS)
    assert hunger.claim(*first) == (Lookout("work", SLOTS),)
    assert hunger.claim(*second) == (Lookout("work", SLOTS, -6, first[-1].turn),)
    assert hunger.claim() == (Lookout("work", SLOTS, -6, second[-1].turn),)


def test_after_a_short_claim_from_the_middle_the_next_begins_at_the_start(hunger: Hunger) -> None:
    hunger.claim(*jobs(SLOTS))
    hunger.claim(*jobs(SLOTS - 1))
    assert hunger.claim() == (Lookout("work", SLOTS),)


def test_after_a_short_claim_from_the_start_it_is_quiet_until_it_hears_something(hunger: Hunger) -> None:
    hunger.claim(*jobs(SLOTS - 1))
    assert hunger.appetite.ask() is None and hunger.appetite.is_stilled()
    assert not hunger.appetite.wants("work")
    hunger.appetite.heard("work")
    assert hunger.appetite.wants("work") and not hunger.appetite.is_stilled()
    assert hunger.claim() == (Lookout("work", SLOTS),)
    assert hunger.appetite.ask() is None


def test_the_types_are_quiet_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claiming, "RESCAN_S", NEVER_S)
    hunger = Hunger("work", "other")
    full = jobs(SLOTS, "other")
    hunger.claim(*full, *jobs(1))
    assert hunger.claim() == (Lookout("other", SLOTS, -6, full[-1].turn),)
    hunger.claim()  # and from the start, which is short, too
    assert hunger.appetite.ask() is None
    hunger.appetite.heard()
    assert [each.type for each in hunger.claim()] == ["work", "other"]


def test_what_a_look_finds_is_asked_for() -> None:
    hunger = Hunger("work", "other")
    hunger.claim()
    hunger.appetite.looked(Look(["other"]), hears=True)
    assert [each.type for each in hunger.claim()] == ["other"]
    hunger.appetite.looked(Look([], -0.1), hears=True)  # something has come due; a claim promotes it
    assert [each.type for each in hunger.claim()] == ["work", "other"]


def test_looks_become_rarer_while_there_is_nothing_and_notifications_arrive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    hunger = Hunger("work", poll_s=1.0)
    hunger.claim()
    appetite = hunger.appetite

    def pause(ready: list[str], due_s: float | None, hears: bool) -> float:
        appetite.looked(Look(ready, due_s), hears=hears)
        return appetite.seconds_to_look()

    pauses = [pause([], None, True) for _ in range(7)]
    for wanted, got in zip([1, 2, 4, 8, 16, LONGEST_POLL_S, LONGEST_POLL_S], pauses, strict=True):
        assert 0.85 * wanted < got < 1.15 * wanted
    assert pause([], 3.0, True) <= 3.1  # when the next delayed job comes due
    assert pause(["work"], None, True) < 1.2  # something is there, and perhaps cannot be claimed yet
    assert pause([], None, True) < 1.2
    assert pause([], None, False) < 1.2 and pause([], None, False) < 1.2  # nobody would wake us
    for _ in range(5):
        pause([], None, True)
    appetite.look_soon()
    assert appetite.seconds_to_look() <= 1.0


def test_a_job_that_ends_is_a_reason_to_claim_only_where_a_provider_has_a_limit() -> None:
    hunger = Hunger("work")
    hunger.claim()
    hunger.appetite.one_ended()  # before the first look, one may have
    assert hunger.claim() == (Lookout("work", SLOTS),)
    hunger.appetite.looked(Look([]), hears=True)
    hunger.appetite.one_ended()
    assert hunger.appetite.ask() is None
    hunger.appetite.looked(Look([], None, is_limited=True), hears=True)
    hunger.appetite.one_ended()
    assert hunger.claim() == (Lookout("work", SLOTS),)


def test_only_a_worker_in_a_flood_does_without_being_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    hunger = Hunger("work", "other")
    first = hunger.ask()
    assert first.waits
    hunger.appetite.got(first, [*jobs(SLOTS), *(job._replace(type="other") for job in jobs(SLOTS))])
    second = hunger.ask()
    assert not second.waits  # the last one found all it asked for, just now
    hunger.appetite.got(second, jobs(SLOTS))
    third = hunger.ask()  # the other type from the start, where some may have come back
    hunger.appetite.got(third, jobs(SLOTS))
    assert hunger.ask().waits  # nothing is left of the other type


@pytest.mark.parametrize("brought", [0, SLOTS - 1, SLOTS])
@pytest.mark.parametrize("place", ["from the start", "from the middle"])
def test_news_that_arrive_while_a_claim_is_under_way_are_not_lost(
    hunger: Hunger, brought: int, place: str
) -> None:
    """The claim may have looked before the job was there that the news are about; or is more urgent."""
    if place == "from the middle":
        hunger.claim(*jobs(SLOTS))
    asked = hunger.ask()
    hunger.appetite.heard("work")
    hunger.appetite.got(asked, jobs(brought))
    assert hunger.claim() == (Lookout("work", SLOTS),)


def test_now_and_then_a_claim_begins_with_the_most_urgent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    hunger = Hunger("work")
    asked = hunger.ask()
    clock[0] += 0.125  # a slow one: there are many dead entries
    hunger.appetite.got(asked, jobs(SLOTS))
    wait = claiming.RESCAN_SHARE * 0.125
    for _ in range(3):
        clock[0] += wait / 4
        assert hunger.claim(*jobs(SLOTS))[0].after_turn is not None
    clock[0] += wait / 4
    assert hunger.claim(*jobs(SLOTS))[0].after_turn is None
    clock[0] += claiming.RESCAN_S * 0.6  # this one took no time
    assert hunger.claim(*jobs(SLOTS))[0].after_turn is not None
    clock[0] += claiming.RESCAN_S * 0.6
    assert hunger.claim(*jobs(SLOTS))[0].after_turn is None


def test_whatever_it_hears_a_dear_claim_from_the_start_is_not_made_again_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each would walk over all that was claimed before, for as long as no vacuum removes it."""
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    hunger = Hunger("work", "other")

    def claim(seconds: float, *types: str) -> list[bool]:
        """One claim, which takes some time and brings all it asks for; where it begins at the start."""
        asked = hunger.ask()
        clock[0] += seconds
        hunger.appetite.got(asked, [job for name in types for job in jobs(SLOTS, name)])
        return [lookout.after_turn is None for lookout in asked.lookouts]

    assert claim(0.1, "work", "other") == [True, True]
    hunger.appetite.heard()
    hunger.appetite.looked(Look([]), hears=True)
    clock[0] += claiming.RESCAN_SHARE * 0.09
    assert claim(0.0, "work", "other") == [False, False]
    clock[0] += claiming.RESCAN_SHARE * 0.02
    hunger.steering.slots["other"] = 0
    assert claim(0.1, "work") == [True]
    hunger.steering.slots["other"] = SLOTS
    assert claim(0.1, "work", "other") == [False, True]  # its turn comes for itself, so the next is later
    clock[0] += claiming.RESCAN_SHARE * 0.12
    hunger.appetite.heard()
    assert claim(0.0, "work", "other") == [True, False]
    clock[0] += claiming.RESCAN_SHARE * 0.1
    assert claim(0.0, "work", "other") == [True, True]


def test_a_claim_that_took_long_because_all_stood_still_does_not_put_the_next_start_off_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    hunger = Hunger("work")
    asked = hunger.ask()
    clock[0] += 30
    hunger.appetite.got(asked, jobs(SLOTS))
    hunger.appetite.looked(Look([], due_s=-1.0), hears=True)
    clock[0] += claiming.LONGEST_RESCAN_S * 0.9
    assert not hunger.appetite.will_promote() and hunger.claim(*jobs(SLOTS))[0].after_turn is not None
    clock[0] += claiming.LONGEST_RESCAN_S * 0.2
    assert hunger.appetite.will_promote() and hunger.claim(*jobs(SLOTS))[0].after_turn is None


def test_a_worker_without_room_promotes_nothing_by_its_next_claim() -> None:
    hunger = Hunger("work", "other")
    assert hunger.appetite.will_promote()
    hunger.steering.slots.update(work=0, other=0)
    assert not hunger.appetite.will_promote()


def test_a_type_without_slots_is_no_reason_to_look_often() -> None:
    hunger = Hunger("work", "other", poll_s=1.0)
    hunger.steering.slots["other"] = 0
    hunger.claim()
    for _ in range(6):
        hunger.appetite.looked(Look([]), hears=True)
    assert hunger.appetite.seconds_to_look() > 5


def test_what_came_due_and_could_not_be_had_is_looked_for_again_soon() -> None:
    hunger = Hunger("work", poll_s=1.0)
    for _ in range(4):
        hunger.claim()
        hunger.appetite.looked(Look([], due_s=-1.0), hears=True)
        assert hunger.appetite.seconds_to_look() < 1.2


def test_a_look_asks_about_the_types_of_which_nothing_is_known() -> None:
    hunger = Hunger("work", "other")
    assert hunger.appetite.unknown() == []
    hunger.claim(*jobs(SLOTS))
    assert hunger.appetite.unknown() == ["other"]
    hunger.appetite.heard("other")
    assert hunger.appetite.unknown() == []


def test_while_something_may_be_ready_looks_do_not_become_rarer() -> None:
    """A busy worker looks for what comes due, and wakes those who have room for it."""
    hunger = Hunger("work", poll_s=1.0)
    for _ in range(3):
        hunger.appetite.looked(Look([]), hears=True)
        assert hunger.appetite.seconds_to_look() < 1.2


def test_a_suspect_is_no_place_to_go_on_from(hunger: Hunger) -> None:
    """It is found from the start, wherever the others are looked for."""
    (suspect,) = jobs(1, suspect=True)
    others = jobs(SLOTS - 1)
    hunger.claim(*others, suspect._replace(turn=10**9))
    assert hunger.claim() == (Lookout("work", SLOTS, -6, others[-1].turn),)


def test_a_claim_of_nothing_but_a_suspect_leaves_the_place_as_it_is(hunger: Hunger) -> None:
    hunger.steering.slots["work"] = 1
    hunger.claim(*jobs(1, suspect=True))
    assert hunger.claim() == (Lookout("work", 1),)


# How much to ask for: Slots.room and what may be claimed ahead.


def test_nothing_is_claimed_ahead_before_a_job_has_shown_that_it_is_short(hunger: Hunger) -> None:
    assert hunger.slots.room("work") == SLOTS
    hunger.slots.lanes["work"].ran(0.001)
    assert hunger.slots.room("work") == SLOTS + round(SLOTS * HORIZON_S / 0.001)
    hunger.slots.lanes["work"].forget_pace()
    assert hunger.slots.room("work") == SLOTS


@pytest.mark.parametrize("seconds", [SLOTS * HORIZON_S * 1.01, 60.0, math.inf])
def test_of_a_type_whose_jobs_are_longer_than_the_horizon_nothing_is(hunger: Hunger, seconds: float) -> None:
    hunger.slots.lanes["work"].ran(seconds)
    assert hunger.slots.room("work") == SLOTS


def test_there_is_a_most_over_all_types_and_scaling_to_nothing_asks_for_nothing() -> None:
    hunger = Hunger("work", "other")
    for lane in hunger.slots.lanes.values():
        lane.ran(0.0)
    assert [each.jobs for each in hunger.claim()] == [SLOTS + LARGEST_CLAIM // 2] * 2
    hunger.steering.slots["work"] = 0
    hunger.appetite.heard()
    assert [each.type for each in hunger.claim()] == ["other"]


def test_twice_a_claim_may_be_here_and_half_of_one_is_worth_the_next(hunger: Hunger) -> None:
    hunger.slots.lanes["work"].ran(0.005)
    ahead = hunger.slots.lanes["work"].ahead(SLOTS, LARGEST_CLAIM)
    assert ahead == 30
    worker = uuid4()
    hunger.slots.admit(worker, jobs(SLOTS + ahead))
    assert hunger.slots.room("work") == ahead
    hunger.slots.admit(worker, jobs(ahead // 2))
    assert hunger.slots.room("work") == ahead // 2 and hunger.slots.is_worth_a_claim(["work"])
    hunger.slots.admit(worker, jobs(1))
    assert not hunger.slots.is_worth_a_claim(["work"]) and hunger.appetite.ask() is None
