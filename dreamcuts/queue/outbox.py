"""Outcomes on their way into Postgres, in batches.

Group commit: while one batch is being written, the next gathers; an idle worker writes at once. Nothing waits
for a timer. When the database is away, outcomes are kept and written when it is back, if the lease still
holds; what the queue then refuses is logged and dropped, since somebody else has the job.

An outcome waits for the lock of its manifest. While somebody holds that for long, the manifest's outcomes
are put aside and tried again on their own, so that all others go on.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple
from uuid import UUID

import anyio
import asyncpg

from dreamcuts.db.jsontext import encode_json
from dreamcuts.db.pool import RETRY_ERRORS
from dreamcuts.errors import ErrorClass
from dreamcuts.queue.models import Completed, Failed, HandedBack, Job, Outcome, Settled
from dreamcuts.queue.outage import Outage, retry_delay
from dreamcuts.queue.store import Store

log = logging.getLogger(__name__)

LARGEST_BATCH = 1000
LARGEST_BATCH_CHARS = 16_000_000
"""Of results in one statement: Postgres takes no message of a gigabyte, and closes the connection instead."""
LARGEST_RESULT_CHARS = 16_000_000
LONGEST_MESSAGE = 4000
ASIDE_S = 5.0
"""How long outcomes are put aside whose manifest somebody has locked."""
VALUE_ERRORS = ("22", "23", "54")
"""SQLSTATE classes that say that this very value cannot be stored: data, integrity, program limit."""
OTHER_TRIES = 5
"""How often an outcome is tried when Postgres refuses it for a reason that is not the outcome's."""


class _Entry(NamedTuple):
    """An outcome on its way: who holds the job, and how long its result is as JSON.

    `not_before` (monotonic seconds) is set when it was put aside.
    """

    worker: UUID
    outcome: Outcome
    chars: int
    not_before: float = 0.0


class Outbox:
    """Takes outcomes and sees to it that each is written once. `on_settled` hears what became of each."""

    def __init__(self, store: Store, outage: Outage, on_settled: Callable[[Settled], None]) -> None:
        self._store = store
        self._outage = outage
        self._on_settled = on_settled
        self._waiting: list[_Entry] = []
        self._writing: list[_Entry] = []
        self._aside: dict[UUID, float] = {}
        """When what is locked is tried again (monotonic seconds), by what _locked_with says."""
        self._changed = anyio.Event()
        self._sleeps = False
        self.has_lost_outcomes = False

    def put(self, worker: UUID, outcome: Outcome) -> None:
        """Add the outcome of a job that `worker`, an incarnation of this process, holds."""
        # What waits for a lock holds up its own manifest alone: none of it may join the batch of the others.
        not_before = self._aside.get(_locked_with(outcome), 0.0) if self._aside else 0.0
        self._waiting.append(_Entry(worker, *_storable(outcome), not_before))
        self._wake()

    def is_behind(self) -> bool:
        """Whether more waits than the next two batches, beside what somebody's lock holds up."""
        if not self._aside:
            return len(self._waiting) > 2 * LARGEST_BATCH
        return sum(not entry.not_before for entry in self._waiting) > 2 * LARGEST_BATCH

    def held(self) -> list[Job]:
        """Jobs whose outcome is not written yet: they are still ours."""
        return [entry.outcome.job for entry in (*self._writing, *self._waiting)]

    def drop(self, worker: UUID) -> int:
        """Forget the outcomes of an incarnation that lost its lease; returns how many."""
        kept = [entry for entry in self._waiting if entry.worker != worker]
        dropped = len(self._waiting) - len(kept)
        self._waiting = kept
        self._aside.clear()
        self._wake()
        return dropped

    async def run(self) -> None:
        """Write outcomes until cancelled."""
        while True:
            due = math.inf
            if self._waiting:
                due = min(entry.not_before for entry in self._waiting) if self._aside else 0.0
            if due > time.monotonic():
                with anyio.move_on_after(due - time.monotonic()):
                    await self._change()
                continue
            await self._write_due()

    async def wait_empty(self) -> None:
        """Return when everything is written."""
        while self._waiting or self._writing:
            await self._change()

    def _wake(self) -> None:
        if self._sleeps:  # to set what is set already costs as much
            self._sleeps = False
            self._changed.set()

    async def _change(self) -> None:
        """Wait until something changes."""
        if not self._sleeps:
            self._sleeps = True
            self._changed = anyio.Event()
        await self._changed.wait()

    async def _write_due(self) -> None:
        """Write one batch: outcomes of one incarnation and one kind, in one statement."""
        now = time.monotonic()
        first = next(entry for entry in self._waiting if entry.not_before <= now)
        worker = first.worker
        batch: list[_Entry] = []
        left: list[_Entry] = []
        chars = 0
        for place, entry in enumerate(self._waiting):
            if len(batch) >= LARGEST_BATCH:
                left += self._waiting[place:]
                break
            fits = _is_alike(entry, first)
            chars += entry.chars if fits else 0
            full = chars > LARGEST_BATCH_CHARS and batch
            (batch if fits and not full else left).append(entry)
        self._waiting = left
        self._writing = batch
        try:
            await self._write(worker, [entry.outcome for entry in batch])
        finally:
            # Whatever was not written (cancelled in between) is still to be written.
            self._waiting = self._writing + self._waiting
            self._writing = []
            self._wake()

    async def _write(self, worker: UUID, outcomes: Sequence[Outcome]) -> None:
        tries = 0
        while True:
            try:
                settled = await self._store.write(worker, outcomes)
            except (ValueError, TypeError) as error:  # asyncpg could not encode a value
                await self._write_apart(worker, outcomes, error)
                return
            except asyncpg.LockNotAvailableError:
                await self._write_by_manifest(worker, outcomes)
                return
            except RETRY_ERRORS as error:
                tries += 1
                self._outage.failed(error)
                await anyio.sleep(retry_delay(tries))
            except asyncpg.PostgresError as error:
                tries += 1
                if str(error.sqlstate)[:2] in VALUE_ERRORS or tries >= OTHER_TRIES:
                    await self._write_apart(worker, outcomes, error)
                    return
                await anyio.sleep(retry_delay(tries))
            else:
                self._outage.ended()
                self._done(settled)
                return

    async def _write_by_manifest(self, worker: UUID, outcomes: Sequence[Outcome]) -> None:
        """Somebody holds one of the manifests: find out which, and let its outcomes wait aside."""
        groups: dict[UUID, list[Outcome]] = {}
        for outcome in outcomes:
            groups.setdefault(_locked_with(outcome), []).append(outcome)
        if len(groups) > 1:
            for group in groups.values():
                await self._write(worker, group)
            return
        key = _locked_with(outcomes[0])
        later = self._aside[key] = time.monotonic() + ASIDE_S
        aside = {outcome.job.id for outcome in outcomes}
        self._waiting += [entry for entry in self._writing if entry.outcome.job.id in aside]
        self._writing = [entry for entry in self._writing if entry.outcome.job.id not in aside]
        # Those, too, that came while this was being written.
        self._waiting = [
            entry._replace(not_before=later) if _locked_with(entry.outcome) == key else entry
            for entry in self._waiting
        ]
        job = outcomes[0].job
        what = f"Job {job.job_id}" if job.manifest_id is None else f"Manifest {job.manifest_id}"
        log.warning("%s is locked by somebody else; %d outcomes wait", what, len(aside))

    async def _write_apart(self, worker: UUID, outcomes: Sequence[Outcome], error: Exception) -> None:
        """Postgres refused the batch: find the outcome that it does not take, and fail that job alone."""
        if len(outcomes) > 1:
            for outcome in outcomes:
                await self._write(worker, [outcome])
            return
        (outcome,) = outcomes
        reason = f"{type(error).__name__}: {error}"[:LONGEST_MESSAGE]
        log.error("The outcome of %s cannot be stored: %s", outcome.job.job_id, reason)
        plain = Failed(outcome.job, ErrorClass.BUG, "The outcome cannot be stored; the worker's log says why")
        if isinstance(outcome, Completed):
            refused = Failed(outcome.job, ErrorClass.BUG, f"The result cannot be stored: {reason}")
            await self._write(worker, [refused])
        elif outcome != plain:
            await self._write(worker, [plain])
        else:
            self.has_lost_outcomes = True  # the job stays ours until this incarnation ends
            self._done([Settled(outcome, None)])

    def _done(self, settled: Sequence[Settled]) -> None:
        if len(settled) == len(self._writing):
            self._writing = []  # all of the batch, as nearly always
        else:
            over = {entry.outcome.job.id for entry in settled}
            self._writing = [entry for entry in self._writing if entry.outcome.job.id not in over]
        for entry in settled:
            if self._aside:
                self._aside.pop(_locked_with(entry.outcome), None)
            self._on_settled(entry)


def _is_alike(entry: _Entry, first: _Entry) -> bool:
    """Whether an entry can go into one statement with the first. What was put aside goes by its manifest."""
    if type(entry.outcome) is not type(first.outcome):
        return False
    if entry.worker is not first.worker and entry.worker != first.worker:  # comparing is slow, and rare
        return False
    if not first.not_before:
        return not entry.not_before
    return bool(entry.not_before) and _locked_with(entry.outcome) == _locked_with(first.outcome)


def _locked_with(outcome: Outcome) -> UUID:
    """What outcomes wait for together: their manifest, or the job alone if it has none."""
    return outcome.job.manifest_id or outcome.job.id


def _storable(outcome: Outcome) -> tuple[Outcome, int]:
    """The outcome as Postgres can take it, and the length of its result as JSON."""
    match outcome:
        case Completed():
            try:
                result, encoded = _clean(outcome.result)
            except Exception as error:  # a plugin's own mapping may raise anything
                message = f"The result is not JSON: {type(error).__name__}: {error}"
                return Failed(outcome.job, ErrorClass.BUG, _clean_text(message)), 0
            if len(encoded) > LARGEST_RESULT_CHARS:
                # Not retried: the work is done, and paid; another attempt would end the same way.
                message = (
                    f"The result is too large: {len(encoded):,} characters of JSON, and "
                    f"{LARGEST_RESULT_CHARS:,} is the most. Store the data as an asset, and its URL in "
                    "the result."
                )
                return Failed(outcome.job, ErrorClass.INVALID_REQUEST, message), 0
            url = outcome.output_url
            url = None if url is None else _clean_text(url)
            return Completed(outcome.job, result, url, encoded), len(encoded)
        case Failed():
            message = _clean_text(outcome.message)
            if len(message) > LONGEST_MESSAGE:
                message = message[: LONGEST_MESSAGE - 1] + "…"
            try:
                detail, encoded = _clean(outcome.detail)
                if len(encoded) > LARGEST_RESULT_CHARS:
                    detail = {"note": "the detail of this error was too large"}
            except Exception:
                detail = {"note": "the detail of this error was not JSON"}
            return replace(outcome, message=message, detail=detail), 0
        case HandedBack():
            return outcome, 0


def _clean(value: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The value itself if Postgres can take it, else a cleaned copy; and the same as JSON.

    Raises what json raises.
    """
    encoded = encode_json(value)
    try:
        encoded.encode()
    except UnicodeEncodeError:
        suspicious = True
    else:
        suspicious = "\\u0000" in encoded
    if not suspicious:
        return value, encoded
    cleaned: dict[str, Any] = _clean_tree(value)
    return cleaned, encode_json(cleaned)


def _clean_tree(value: Any) -> Any:
    if isinstance(value, str):
        return _clean_text(value)
    if isinstance(value, dict):
        return {_clean_text(str(key)): _clean_tree(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean_tree(item) for item in value]
    return value


def _clean_text(text: str) -> str:
    """Without what Postgres' text cannot hold: NUL, and halves of surrogate pairs."""
    return text.replace("\x00", "�").encode("utf-8", "replace").decode("utf-8")
