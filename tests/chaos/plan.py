"""What a chaos run does, all of it from one seed: graphs of jobs, and faults with their times."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.jobtypes import IMAGE, RENDER, SOUND, STEP

SUBMIT = r"^POST /fal-ai/"
STATUS = r"^GET /fal-ai/.*/status"
RESULT = r"^GET /fal-ai/[^/]+/requests/[^/]+$"
RENDER_SUBMIT = r"^POST /edit/[^/]+/render$"
RENDER_STATUS = r"^GET /edit/[^/]+/render/"
SPEAK = r"^POST /v1/"
MADE = r"^GET /[0-9a-f]{32}\."
"""A file that the sandbox made; not the picture that the films are made of."""


@dataclass(frozen=True)
class Size:
    """How large a run is. `lease` and the times of the faults are in seconds.

    `paid` is the share of jobs that ask fal or ElevenLabs, `films` that of graphs that end in a render. In a
    run that `picks_up`, faults must have met open calls, else it shows nothing about them.
    """

    jobs: int
    paid: float
    films: float
    workers: int
    faults: int
    every: float
    lease: float
    picks_up: bool


FAST = Size(jobs=140, paid=0.2, films=0.2, workers=3, faults=9, every=0.9, lease=1.5, picks_up=False)
LONG = Size(jobs=2200, paid=0.25, films=0.35, workers=4, faults=110, every=1.4, lease=2.0, picks_up=True)

QUEUE_S = (0.05, 3.0)
"""How long a request waits at fal, from and to."""

FILM = {
    "resolution": {"width": 64, "height": 64},
    "quality": "verylow",
    "enableCaptions": False,
    "enableTransitions": False,
}


def marked(job_id: str) -> str:
    """Words by which the request of a job is known, wherever its other inputs come from."""
    return f"for-{job_id}"


def manifest_json(picture: str) -> dict[str, Any]:
    """A film of one second that shows the picture at this URL."""
    return {
        "metadata": {"durationSeconds": 1, "aspectRatio": "1:1"},
        "scenes": [{"id": "s1", "durationSeconds": 1, "visuals": [{"assetId": "lantern"}]}],
        "assets": {"lantern": {"source": "user", "mimeType": "image/png", "originUrl": picture}},
    }


RETRIES = {"backoffSeconds": 0.1, "maxBackoffSeconds": 0.5}
ATTEMPTS = 60  # so that no job runs out of them by our faults alone


@dataclass(frozen=True)
class PlannedJob:
    """A row of dreamcut_jobs as the producer inserts it."""

    job_id: str
    type: str
    payload: dict[str, Any]
    depends_on: list[str]
    metadata: dict[str, Any] = field(default_factory=dict)
    max_attempts: int = ATTEMPTS


@dataclass(frozen=True)
class Graph:
    """One manifest's jobs. `bulk`: inserted as one statement, else one by one in one transaction."""

    jobs: list[PlannedJob]
    bulk: bool
    film: str | None
    """The job that renders the manifest, if one does."""


@dataclass(frozen=True)
class FaultAt:
    """A fault: when, what, and to which of the workers (by number) or requests."""

    at: float
    kind: str
    worker: int
    seconds: float
    details: dict[str, Any] = field(default_factory=dict)


def graphs(seed: int, size: Size) -> Iterator[Graph]:
    """Layered graphs of 6 to 30 jobs each, some with a job that never succeeds."""
    chance = random.Random(f"graphs {seed}")
    left, number = size.jobs, 0
    while left > 0:
        count = min(left, chance.randint(6, 30))
        jobs = [_job(chance, number, place, size) for place in range(count)]
        film = None
        if chance.random() < size.films:
            film = jobs[-1].job_id
            # As planners have it: all that is to be heard is there, so every attempt sends the same edit.
            heard = {job.job_id for job in jobs[:-1] if job.type == SOUND}
            jobs[-1] = PlannedJob(film, RENDER, FILM, sorted(heard | set(jobs[-1].depends_on)))
        chance.shuffle(jobs)  # a dependent may come before what it depends on
        yield Graph(jobs, bulk=chance.random() < 0.7, film=film)
        left -= count
        number += 1


def _job(chance: random.Random, graph: int, place: int, size: Size) -> PlannedJob:
    name = f"g{graph}_j{place}"
    earlier = [f"g{graph}_j{other}" for other in range(place)]
    depends_on = chance.sample(earlier, min(len(earlier), chance.choice((0, 1, 1, 2, 3))))
    if chance.random() < size.paid:
        if chance.random() < 0.2:
            sound = {
                "text": f"an old lantern creaks softly in the wind, {marked(name)}",
                "durationSeconds": 0.5,
            }
            return PlannedJob(name, SOUND, sound, depends_on)
        payload: dict[str, Any] = {
            "prompt": f"a lantern by the river, {marked(name)}",
            "imageSize": {"width": 64, "height": 64},
            "fallbackProviders": [],
        }
        return PlannedJob(name, IMAGE, payload, depends_on)
    payload = {"ms": chance.choice((5, 50, 200, 500, 900)), "fails": chance.choice((0, 0, 0.1, 0.3))}
    if chance.random() < 0.01:
        payload["fatal"] = True
    if chance.random() < 0.01:
        payload["blockMs"] = 200
    metadata = {"onDependencyFailure": "run"} if chance.random() < 0.1 else {}
    return PlannedJob(name, STEP, payload, depends_on, metadata)


def faults(seed: int, size: Size) -> list[FaultAt]:
    """The faults of a run in the order of their times; every kind comes before any comes again."""
    chance = random.Random(f"faults {seed}")
    kinds: list[str] = []
    while len(kinds) < size.faults:
        round_ = list(KINDS)
        chance.shuffle(round_)
        kinds += round_
    planned = []
    for place, kind in enumerate(kinds[: size.faults]):
        planned.append(
            FaultAt(
                at=(place + chance.random()) * size.every,
                kind=kind,
                worker=chance.randrange(size.workers),
                seconds=_duration(chance, kind, size),
                details=_details(chance, kind),
            )
        )
    return sorted(planned, key=lambda fault: fault.at)


KINDS = (
    "kill",
    "kill",
    "terminate",
    "stop_long",
    "stop_short",
    "postgres_crash",
    "cut_all",
    "cut_one",
    "provider",
    "provider",
    "provider",
    "operator_cancel",
    "operator_release",
)


def _duration(chance: random.Random, kind: str, size: Size) -> float:
    match kind:
        case "stop_long":
            return size.lease * chance.uniform(1.3, 2.0)
        case "stop_short":
            return size.lease * chance.uniform(0.1, 0.6)
        case "postgres_crash":
            return size.lease * chance.choice((0.1, 0.5, 1.5))
        case _:
            return 0.0


def _details(chance: random.Random, kind: str) -> dict[str, Any]:
    if kind != "provider":
        return {}
    return dict(
        chance.choice(
            (
                {"kind": "status", "status": 429, "headers": {"Retry-After": "0.3"}, "pattern": SUBMIT},
                {"kind": "status", "status": 500, "pattern": SUBMIT},
                {"kind": "status", "status": 503, "pattern": STATUS, "times": 4},
                {"kind": "status", "status": 502, "pattern": RESULT, "times": 2},
                {"kind": "drop_before", "pattern": SUBMIT},
                {"kind": "drop_after", "pattern": SUBMIT},
                {"kind": "drop_after", "pattern": STATUS, "times": 3},
                {"kind": "delay", "seconds": 1.0, "pattern": SUBMIT, "times": 3},
                {"kind": "hang", "seconds": 2.0, "pattern": STATUS, "times": 2},
                {"kind": "status", "status": 404, "pattern": MADE, "provider": "files"},
                {"kind": "drop_before", "pattern": MADE, "provider": "files", "times": 2},
                {"kind": "drop_before", "pattern": RENDER_SUBMIT, "provider": "shotstack"},
                {"kind": "drop_after", "pattern": RENDER_SUBMIT, "provider": "shotstack"},
                {"kind": "delay", "seconds": 1.0, "pattern": RENDER_SUBMIT, "provider": "shotstack"},
                {"kind": "status", "status": 503, "pattern": RENDER_STATUS, "provider": "shotstack"},
                {"kind": "drop_after", "pattern": SPEAK, "provider": "elevenlabs"},
                {"kind": "delay", "seconds": 1.0, "pattern": SPEAK, "provider": "elevenlabs", "times": 2},
            )
        )
    )
