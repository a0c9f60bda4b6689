"""Workers on all machines, steered through the database.

    with Fleet.connect(dsn) as fleet:
        fleet.scale_type("gen_image_falai", 4)
        fleet.command(fleet.find_workers(["tts_elevenlabs"]), Command.RESTART)

A worker hears of it within moments where notifications arrive, and within a heartbeat where they do not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from dreamcuts.admin import Admin, Row
from dreamcuts.errors import DatabaseError, NotFound
from dreamcuts.worker.steering import Command

Profile = Literal["high", "normal", "low"]
PROFILES: tuple[Profile, ...] = ("high", "normal", "low")
THERE = frozenset({"live", "draining", "silent"})

POLL_S = 0.25


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What `dreamcuts top` shows: rows as the views in sql/functions/7*_views.sql have them."""

    depth: list[Row]
    workers: list[Row]
    throughput: list[Row]
    failures: list[Row]
    manifests: list[Row]
    scaling: list[Row]


class Fleet(Admin):
    """The workers as an operator sees them."""

    def workers(self, *, all: bool = False) -> list[Row]:
        """Workers that are there; with `all` also those that ended within the last day.

        `state` is live, draining, silent (its lease ran out), stopped or lost. `slots` and `own_slots` (what
        it was started with, null if the same) stand beside `types`; `running` is jobs by type at the last
        heartbeat.
        """
        return self._many("fleet_workers", all=all)

    def find_workers(
        self,
        references: Iterable[str],
        *,
        host: str | None = None,
        as_given: Mapping[str, str] | None = None,
    ) -> list[UUID]:
        """Live workers meant by uuids, beginnings of them, or full type names; none given means all.

        `host` leaves only those on that machine. Raises NotFound that names what fits no worker, in the words
        of `as_given` where it has some for a reference.
        """
        there = [row for row in self.workers() if row["state"] in THERE and host in (None, row["host"])]
        chosen: dict[UUID, None] = {}
        asked = list(references)
        said = as_given or {}
        for reference in asked:
            fitting = [row["id"] for row in there if reference in row["types"]]
            if not fitting:
                digits = reference.replace("-", "").lower()
                fitting = [row["id"] for row in there if row["id"].hex.startswith(digits)]
                if len(fitting) > 1:
                    given = said.get(reference, reference)
                    raise NotFound(f"More than one worker's id begins with {given!r}: give more of it.")
            if not fitting:
                where = "" if host is None else f" on {host}"
                raise NotFound(
                    f"No worker{where} is {said.get(reference, reference)!r}, or serves a type of that name. "
                    "See `dreamcuts workers list`."
                )
            chosen |= dict.fromkeys(fitting)
        return list(chosen) if asked else [row["id"] for row in there]

    def command(
        self, workers: Iterable[UUID], command: Command, reason: str = "asked by an operator"
    ) -> list[UUID]:
        """Ask workers to drain or restart; returns those that are there to heed it."""
        return self._ids("command_workers", workers=list(workers), command=command.value, reason=reason)

    def scale_type(self, type: str, slots: int | None) -> list[UUID]:
        """Let each worker process run `slots` jobs of a type at a time; None: as many as it was started with.

        Holds for workers that start later, too. Returns the live workers that serve the type.
        """
        return self._ids("scale_type", type=type, slots=slots)

    def scale_profile(self, profile: Profile) -> list[UUID]:
        """Scale all types without a number of their own: twice as many, as started, or half as many."""
        return self._ids("scale_profile", profile=profile)

    def scaling(self) -> list[Row]:
        """What is scaled: `type` ('*' for the profile of all others), `slots`, `profile`."""
        return self._many("scaling")

    def wait_ended(
        self, workers: Iterable[UUID], timeout_s: float, still: Callable[[int], None] = lambda left: None
    ) -> None:
        """Return when these workers have ended. `still` hears how many have not.

        Raises DatabaseError after `timeout_s` seconds, naming those that are left.
        """
        waited_for = set(workers)
        deadline = time.monotonic() + timeout_s
        while left := {row["id"] for row in self.workers() if row["id"] in waited_for}:
            if time.monotonic() > deadline:
                names = ", ".join(str(worker)[:8] for worker in sorted(left))
                raise DatabaseError(f"After {timeout_s:g} s these workers had not ended: {names}.")
            still(len(left))
            time.sleep(POLL_S)

    def snapshot(self, *, minutes: int = 30, failures: int = 8, manifests: int = 8) -> Snapshot:
        """Everything that `dreamcuts top` shows. None of it counts the table of jobs."""
        return Snapshot(
            depth=self._many("top_depth"),
            workers=self.workers(),
            throughput=self._many("top_throughput", minutes=minutes),
            failures=self._many("top_failures", limit=failures),
            manifests=self._many("top_manifests", limit=manifests),
            scaling=self.scaling(),
        )

    def _ids(self, name: str, **values: Any) -> list[UUID]:
        row = self._one(name, **values) or {}
        return list(next(iter(row.values()), ()))
