"""What the sandbox's providers would have charged, one entry per billed request.

A test reads it to prove that nothing was paid twice; the demo to say what a run would have cost. Prices are
round list prices (fal model pages, ElevenLabs and Shotstack price lists); they are estimates.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Bill:
    """One billed request. `mark` hashes the request's body: equal marks are the same work paid again."""

    at: float
    provider: str
    endpoint: str
    request_id: str
    units: float
    unit: str
    usd: float
    mark: str


class Billing:
    """The list of bills. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bills: list[Bill] = []

    def record(
        self,
        provider: str,
        endpoint: str,
        request_id: str,
        *,
        units: float,
        unit: str,
        usd: float,
        body: bytes = b"",
    ) -> Bill:
        """Add a bill for a request whose raw body was `body`."""
        bill = Bill(
            at=time.time(),
            provider=provider,
            endpoint=endpoint,
            request_id=request_id,
            units=round(units, 4),
            unit=unit,
            usd=round(usd, 6),
            mark=hashlib.sha256(endpoint.encode() + b"\n" + body).hexdigest()[:16],
        )
        with self._lock:
            self._bills.append(bill)
        return bill

    def bills(self, provider: str | None = None, endpoint: str | None = None) -> list[Bill]:
        """The bills so far, oldest first, of one provider and endpoint or of all."""
        with self._lock:
            return [
                bill
                for bill in self._bills
                if (provider is None or bill.provider == provider)
                and (endpoint is None or bill.endpoint == endpoint)
            ]

    def clear(self) -> None:
        """Forget all bills."""
        with self._lock:
            self._bills.clear()

    def report(self) -> dict[str, Any]:
        """All bills and their totals, as `GET /_sandbox/billing` answers them."""
        bills = self.bills()
        providers = sorted({bill.provider for bill in bills})
        return {
            "bills": [asdict(bill) for bill in bills],
            "totals": _totals(bills)
            | {"providers": {name: _totals([b for b in bills if b.provider == name]) for name in providers}},
            "paid_twice": sorted({bill.mark for bill in bills if _count(bills, bill.mark) > 1}),
        }


def _totals(bills: Sequence[Bill]) -> dict[str, Any]:
    return {"requests": len(bills), "usd": round(sum(bill.usd for bill in bills), 6)}


def _count(bills: Sequence[Bill], mark: str) -> int:
    return sum(1 for bill in bills if bill.mark == mark)
