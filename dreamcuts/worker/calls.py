"""A job's rows in `dreamcut_provider_calls`, as the job sees them (the CallLog protocol)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from dreamcuts.jobs.base import Job, OpenCall
from dreamcuts.providers.base import Ticket
from dreamcuts.queue.store import Store
from dreamcuts.worker.patience import patiently


class StoredCalls:
    """CallLog over Postgres. Beginning a call is fenced; what is known about one is always written down.

    A statement that fails for want of the database is tried again: between a provider's answer and its row
    lies paid work.
    """

    def __init__(self, store: Store, worker: UUID, job: Job) -> None:
        self._store = store
        self._worker = worker
        self._job = job

    async def open_calls(self) -> list[OpenCall]:
        """Calls of earlier attempts that still have no outcome, oldest first."""
        rows = await patiently(lambda: self._store.open_calls(self._job.id))
        return [
            OpenCall(
                id=row["id"],
                provider=row["provider"],
                endpoint=row["endpoint"],
                request=row["request"],
                ticket=None if row["request_id"] is None else Ticket(row["request_id"], row["ticket"]),
                step=row["step"],
            )
            for row in rows
        ]

    async def begin(
        self,
        provider: str,
        endpoint: str,
        *,
        request: Mapping[str, Any],
        step: int = 0,
        estimate_usd: float | None = None,
    ) -> UUID:
        """Record the intent, before the request goes out. Raises LeaseLost if the job is no longer ours."""
        return await patiently(
            lambda: self._store.begin_call(
                self._worker,
                self._job,
                provider=provider,
                endpoint=endpoint,
                step=step,
                request=request,
                estimate_usd=estimate_usd,
            )
        )

    async def submitted(self, call: UUID, ticket: Ticket) -> None:
        """Record the provider's request id."""
        await patiently(lambda: self._store.submitted_call(call, ticket.request_id, ticket.detail))

    async def finish(
        self,
        call: UUID,
        status: str,
        *,
        cost_usd: float | None = None,
        error: str | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Close the call."""
        await patiently(
            lambda: self._store.finish_call(call, status, cost_usd=cost_usd, error=error, detail=detail)
        )
