"""Following one job or one manifest on the terminal, a line for each thing that happens."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from rich.console import Console
from rich.text import Text

from dreamcuts.admin import OVER, Admin, Row
from dreamcuts.progress import Follower

POLL_S = 0.25


def follow_manifest(admin: Admin, manifest: UUID, out: Console) -> bool:
    """Show a manifest's jobs until all have ended; returns whether it is done."""
    title = ((admin.manifest(manifest)["manifest_json"] or {}).get("metadata") or {}).get("title")
    Follower(out, str(title or manifest)).follow(admin, manifest)
    ended = admin.manifest(manifest)
    said = ended["output_url"] or ended["error_message"] or ""
    out.print(f"{ended['status']}: {said}" if said else ended["status"], markup=False)
    return bool(ended["status"] == "done")


def follow_job(admin: Admin, job: UUID, out: Console) -> bool:
    """Print what happens to a job until it has ended; returns whether it completed."""
    seen = _Seen(out)
    while True:
        row = admin.job(job)
        seen.look(row)
        if row["status"] in OVER:
            return bool(row["status"] == "completed")
        time.sleep(POLL_S)


class _Seen:
    """What has been printed already."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self._state: Any = None
        self._attempts: set[int] = set()
        self._calls: dict[Any, str] = {}

    def look(self, row: Row) -> None:
        for attempt in row["attempts_made"]:
            if attempt["claim"] not in self._attempts:
                self._attempts.add(attempt["claim"])
                why = ": ".join(filter(None, (attempt["error_class"], attempt["error_message"])))
                self._say(f"attempt {attempt['attempt']} {attempt['outcome']}", why, "yellow")
        for call in row["provider_calls"]:
            key = (call["created_at"], call["step"], call["endpoint"])
            if self._calls.get(key) != call["status"]:
                self._calls[key] = call["status"]
                cost = "" if call["cost_usd"] is None else f" (${call['cost_usd']})"
                what = f"{call['provider']} {call['endpoint']}{cost}"
                self._say(f"call {call['status']}", ": ".join(filter(None, (what, call["error"]))), "blue")
        state = (row["state"], row["reason"], row["worker_id"], row["attempts"])
        if state != self._state:
            self._state = state
            self._say(row["state"], _about(row), "green" if row["state"] == "completed" else "bold")

    def _say(self, what: str, about: str, style: str) -> None:
        line = Text.assemble(
            (f"{datetime.now(UTC):%H:%M:%S}  ", "dim"), (f"{what:<20} ", style), " ".join(about.split())
        )
        self._out.print(line)


def _about(row: Row) -> str:
    match row["state"]:
        case "processing":
            return f"attempt {row['attempts']} of {row['max_attempts']} by worker {str(row['worker_id'])[:8]}"
        case "completed":
            return str(row["output_url"] or "")
        case "failed" | "cancelled":
            return ": ".join(filter(None, (row["error_class"], row["error_message"])))
        case _:
            return str(row["reason"] or "")
