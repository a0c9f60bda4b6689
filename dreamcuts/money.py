"""What people ask of providers and of the ledger: limits, pauses, spend. On psycopg, as dreamcuts.admin.

    with Money.connect(dsn) as money:
        money.limit("elevenlabs", {"maxConcurrent": 5, "maxPerMinute": 60})
        print(money.costs("provider"))

Amounts are US dollars. `spent_usd` is billed, `reserved_usd` belongs to calls under way, `uncertain_usd` to
calls of unknown outcome, `saved_usd` to calls that were not made because the same had been made before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from psycopg.types.json import Jsonb

from dreamcuts.admin import Admin, Row

By = Literal["provider", "endpoint", "type", "day", "manifest"]
GROUPS: tuple[By, ...] = ("provider", "endpoint", "type", "day", "manifest")
AMOUNTS = ("spent_usd", "reserved_usd", "uncertain_usd", "saved_usd")


class Money(Admin):
    """Providers and the ledger as an operator sees them. Changes take effect with the next call."""

    def provider_states(self) -> list[Row]:
        """Providers that have limits or trouble: `state` is ok, slowed, paused or probing."""
        return self._many("provider_states")

    def endpoint_limits(self) -> list[Row]:
        """Limits of single endpoints."""
        return self._many("endpoint_limits")

    def limit(self, provider: str, limits: Mapping[str, Any], endpoint: str | None = None) -> None:
        """Set `maxConcurrent`, `maxPerMinute` or `dailyLimitUsd`; None takes a limit away, others stay."""
        self._one("limit_provider", provider=provider, limits=Jsonb(dict(limits)), endpoint=endpoint)

    def pause(self, provider: str, *, until: datetime | None, reason: str, by: str) -> None:
        """Let no new call go to a provider, until then or until it is resumed."""
        self._one("pause_provider", provider=provider, until=until, reason=reason, by=by)

    def resume(self, provider: str) -> int:
        """End a pause and a slow-down; returns how many waiting jobs run at once because of it."""
        return int((self._one("resume_provider", provider=provider) or {})["dreamcut_resume_provider"])

    def costs(self, by: By, since: datetime | None = None) -> list[Row]:
        """Spend grouped by `key`, of calls that began since then; the dearest first, days in their order."""
        return self._many("costs", by=by, since=since)

    def manifest_costs(self, manifest: UUID) -> Row:
        """A manifest's `total`, its `limit_usd` as written, its `jobs`, and calls of `unknown` outcome."""
        jobs = self._many("manifest_costs", manifest=manifest)
        limit = self._one("manifest_cost_limit", manifest=manifest)
        return {
            "manifest_id": manifest,
            "limit_usd": None if limit is None else limit["max_total_cost"],
            "total": total(jobs),
            "jobs": jobs,
            "unknown": self._many("unknown_calls", manifest=manifest),
        }


def total(rows: Iterable[Row]) -> Row:
    """The sums over rows of spend."""
    listed = list(rows)
    sums: Row = {name: sum((row[name] for row in listed), Decimal(0)) for name in AMOUNTS}
    return sums | {name: sum(row[name] for row in listed) for name in ("calls", "unpriced_calls")}
