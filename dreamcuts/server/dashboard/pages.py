"""What each page shows: a function of the database, the path and the query, giving a template's values."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID

from starlette.exceptions import HTTPException

from dreamcuts.admin import MANIFEST_STATUSES
from dreamcuts.server.dashboard.graph import draw
from dreamcuts.server.dashboard.words import media_kind
from dreamcuts.server.data import Reader

Values = dict[str, Any]
Gather = Callable[[Reader, Mapping[str, str], Mapping[str, str]], Awaitable[Values]]
PAGE_SIZE = 40
JOBS_SHOWN = 2000
"""Jobs of a manifest that its page shows, the first ones."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page: where it is, its template, and what it shows."""

    path: re.Pattern[str]
    template: str
    gather: Gather


async def overview(reader: Reader, path: Mapping[str, str], query: Mapping[str, str]) -> Values:
    """How everything stands."""
    depth, lag, throughput, failures, spend, workers, manifests, blocked, providers = await asyncio.gather(
        reader.shared("metrics_depth"),
        reader.shared("metrics_lag"),
        reader.shared("board_throughput"),
        reader.shared("board_failures", max_age=5.0),
        reader.shared("board_spend", max_age=5.0),
        reader.shared("metrics_workers"),
        reader.shared("board_manifests", before=None, before_id=None, status="rendering", limit=6),
        reader.shared("board_blocked", max_age=5.0),
        reader.shared("metrics_providers", max_age=5.0),
    )
    lags = {row["type"]: row["lag_s"] for row in lag}
    totals = {
        state: sum(row[state] for row in depth) for state in ("ready", "delayed", "blocked", "processing")
    }
    return {
        "depth": [row | {"lag_s": lags.get(row["type"])} for row in depth],
        "deepest": max(
            [1, *(row["ready"] + row["delayed"] + row["blocked"] + row["processing"] for row in depth)]
        ),
        "totals": totals,
        "slots": sum(row["slots"] for row in depth),
        "oldest_s": max([row["lag_s"] for row in lag], default=None),
        "throughput": throughput,
        "busiest": max([1, *(row["completed"] + row["retried"] + row["failed"] for row in throughput)]),
        "hour": {what: sum(row[what] for row in throughput) for what in ("completed", "retried", "failed")},
        "failures": failures,
        "spend": spend,
        "dearest": max([0.01, *(float(row["cost_usd"]) for row in spend)]),
        "workers": {row["state"]: row["workers"] for row in workers},
        "manifests": manifests,
        "blocked": blocked,
        "trouble": [row for row in providers if row["state"] != "ok"],
        "unserved": [row for row in depth if row["ready"] and not row["workers"]],
    }


async def manifests(reader: Reader, path: Mapping[str, str], query: Mapping[str, str]) -> Values:
    """Manifests, newest first."""
    status = query.get("status") or None
    if status is not None and status not in MANIFEST_STATUSES:
        raise HTTPException(400, f"status must be one of {', '.join(MANIFEST_STATUSES)}, not {status!r}.")
    before = _moment(query.get("before"))
    last = _uuid(query["id"], "manifest") if before is not None and query.get("id") else None
    rows = await reader.shared(
        "board_manifests", before=before, before_id=last, status=status, limit=PAGE_SIZE
    )
    more = rows[-1] if len(rows) == PAGE_SIZE else None
    return {"rows": rows, "status": status, "statuses": MANIFEST_STATUSES, "more": more, "before": before}


async def manifest(reader: Reader, path: Mapping[str, str], query: Mapping[str, str]) -> Values:
    """One manifest with its graph."""
    key = _uuid(path["id"], "manifest")
    found, jobs, history, spend = await asyncio.gather(
        reader.shared("board_manifest", max_age=1.0, id=key),
        reader.shared("board_manifest_jobs", max_age=1.0, manifest=key, limit=JOBS_SHOWN),
        reader.shared("board_history", max_age=10.0),
        reader.shared("manifest_spend", max_age=3.0, manifest=key),
    )
    if not found:
        raise HTTPException(404, f"There is no manifest {key}.")
    graph = draw(jobs, {row["type"]: float(row["mean_ms"]) for row in history if row["mean_ms"]})
    shown = [job | {"media": media_kind(job["output_url"], job["content_type"])} for job in jobs]
    whole = found[0]
    over = whole["status"] in ("done", "failed")
    # By the manifest's counts, too: the list may be cut. What is in the archive cannot be changed.
    present = {job["status"] for job in jobs if not job["archived"]}
    if whole["archived_at"] is None:
        words = ("pending", "processing", "failed", "cancelled")
        present |= {word for word in words if whole[f"{word}_jobs"]}
    return {
        "manifest": whole,
        "mixed": len({job["archived"] for job in jobs}) > 1,
        "jobs": shown,
        "graph": graph,
        "spend": spend,
        "cost": sum(float(row["cost_usd"]) for row in spend),
        "poster": next((job["output_url"] for job in shown if job["media"] == "image"), None),
        "assets": [job for job in shown if job["media"] and job["output_url"] != whole["output_url"]],
        "can_retry": bool(present & {"failed", "cancelled"}),
        "can_cancel": not over and bool(present & {"pending", "processing"}),
    }


async def jobs(reader: Reader, path: Mapping[str, str], query: Mapping[str, str]) -> Values:
    """Jobs that run, that nobody will free, and that had errors."""
    running, troubled, blocked = await asyncio.gather(
        reader.shared("board_running"),
        reader.shared("board_jobs", before=None, limit=60),
        reader.shared("board_blocked", max_age=5.0),
    )
    return {"running": running, "troubled": troubled, "blocked": blocked}


async def job(reader: Reader, path: Mapping[str, str], query: Mapping[str, str]) -> Values:
    """One job."""
    key = _uuid(path["id"], "job")
    found, attempts, calls = await asyncio.gather(
        reader.shared("show_job", max_age=1.0, id=key),
        reader.shared("show_job_attempts", max_age=1.0, id=key),
        reader.shared("show_job_calls", max_age=1.0, id=key),
    )
    if not found:
        found, attempts = await asyncio.gather(
            reader.shared("show_archived_job", max_age=10.0, id=key),
            reader.shared("show_archived_attempts", max_age=10.0, id=key),
        )
    if not found:
        raise HTTPException(404, f"There is no job {key}.")
    row = {"archived_at": None, **found[0]}
    wanted = list(dict.fromkeys([*row["depends_on"], *templates_of(row["payload"])]))
    siblings = (
        await reader.shared("board_job_siblings", max_age=1.0, manifest=row["manifest_id"], jobs=wanted)
        if row["manifest_id"] is not None and wanted
        else []
    )
    result = row["result"] or {}
    return {
        "job": row,
        "attempts": attempts,
        "calls": calls,
        "cost": sum(float(call["cost_usd"] or 0) for call in calls),
        "media": media_kind(row["output_url"], result.get("contentType")),
        "siblings": {sibling["job_id"]: sibling for sibling in siblings},
        "templates": templates_of(row["payload"]),
        "can_retry": row["archived_at"] is None
        and (row["status"] in ("failed", "cancelled") or row["state"] == "delayed"),
        "can_cancel": row["archived_at"] is None and row["status"] in ("pending", "processing"),
    }


async def workers(reader: Reader, path: Mapping[str, str], query: Mapping[str, str]) -> Values:
    """Workers, their slots, and what runs in them."""
    rows, running, depth = await asyncio.gather(
        reader.shared("board_workers"), reader.shared("board_running"), reader.shared("metrics_depth")
    )
    held: dict[Any, list[Any]] = {}
    for row in running:
        held.setdefault(row["worker_id"], []).append(row)
    return {"rows": rows, "held": held, "depth": depth}


async def providers(reader: Reader, path: Mapping[str, str], query: Mapping[str, str]) -> Values:
    """Providers with their limits, pauses, and calls."""
    rows, durations, spend = await asyncio.gather(
        reader.shared("board_providers"),
        reader.shared("board_durations", max_age=10.0),
        reader.shared("board_spend", max_age=5.0),
    )
    return {"rows": rows, "durations": durations, "spend": spend}


PAGES = (
    Page(re.compile(r"/"), "overview.html", overview),
    Page(re.compile(r"/manifests"), "manifests.html", manifests),
    Page(re.compile(r"/manifests/(?P<id>[^/]+)"), "manifest.html", manifest),
    Page(re.compile(r"/jobs"), "jobs.html", jobs),
    Page(re.compile(r"/jobs/(?P<id>[^/]+)"), "job.html", job),
    Page(re.compile(r"/workers"), "workers.html", workers),
    Page(re.compile(r"/providers"), "providers.html", providers),
)


def find_page(address: str) -> tuple[Page, dict[str, str], dict[str, str]]:
    """The page of an address below /dashboard, with the parts of its path and query. Raises HTTPException."""
    try:
        parts = urlsplit(address)
        query = dict(parse_qsl(parts.query, max_num_fields=20))
    except ValueError:
        raise HTTPException(400, "The address is not valid.") from None
    path = parts.path if parts.path == "/" else parts.path.rstrip("/")
    for page in PAGES:
        if match := page.path.fullmatch(path or "/"):
            return page, match.groupdict(), query
    raise HTTPException(404, f"/dashboard{path} does not exist.")


_TEMPLATE = re.compile(r"\{\{\s*(?:job_result|asset_url):([^}\s]+)\s*\}\}")


def templates_of(payload: Any) -> list[str]:
    """The ids that a payload's templates name, e.g. `{{job_result:job_tts_s1}}`."""
    if isinstance(payload, str):
        return _TEMPLATE.findall(payload)
    values = payload.values() if isinstance(payload, dict) else payload if isinstance(payload, list) else ()
    return list(dict.fromkeys(name for value in values for name in templates_of(value)))


def _uuid(text: str, what: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise HTTPException(400, f"{text[:80]!r} is no {what} id: it must be a uuid.") from None


def _moment(text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        return datetime.fromisoformat(text.replace(" ", "+"))
    except ValueError:
        raise HTTPException(
            400, f"before must be a time such as 2026-01-31T12:00:00Z, not {text[:40]!r}."
        ) from None
