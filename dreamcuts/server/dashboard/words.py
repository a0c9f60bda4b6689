"""Values as people read them."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from dreamcuts import wording
from dreamcuts.jobs.registry import load_job_types

_KINDS = {
    ".mp3": "audio", ".wav": "audio", ".ogg": "audio", ".m4a": "audio", ".mp4": "video", ".webm": "video",
    ".mov": "video", ".png": "image", ".jpg": "image", ".jpeg": "image", ".webp": "image", ".gif": "image",
}  # fmt: skip


def duration(milliseconds: Any) -> str:
    """As wording.duration has it; a dash for nothing."""
    return "–" if milliseconds is None else wording.duration(milliseconds)


def seconds(value: Any) -> str:
    """A number of seconds as `duration` has it."""
    return duration(None if value is None else float(value) * 1000)


def ago(moment: datetime | None) -> str:
    """How long ago."""
    if moment is None:
        return "–"
    passed = (datetime.now(UTC) - moment).total_seconds()
    return "just now" if passed < 1 else f"{duration(passed * 1000)} ago"


def clock(moment: datetime | None) -> str:
    """A moment in UTC."""
    return "–" if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def day(value: date) -> str:
    """`24 Nov`."""
    return f"{value.day} {value:%b}"


def money(value: Any) -> str:
    """US dollars: `$0.0042`, `$1.20`, `$1,204`."""
    if value is None:
        return "–"
    amount = float(value)
    if amount >= 1000:
        return f"${amount:,.0f}"
    return f"${amount:.2f}" if amount >= 0.1 or amount == 0 else f"${amount:.4f}"


def count(value: Any) -> str:
    """A whole number with thousands apart; beyond 100,000 rounded."""
    number = int(value or 0)
    if number >= 1_000_000:
        return f"{number / 1e6:.1f}M"
    return f"{number / 1000:.0f}k" if number >= 100_000 else f"{number:,}"


def short(value: Any) -> str:
    """The beginning of a uuid."""
    return str(value)[:8]


def type_name(name: str) -> str:
    """A job type's short name with spaces, e.g. `sound effects`."""
    known = load_job_types().get(name)
    return (known.short_name if known else name).replace("_", " ")


def link(url: Any) -> str | None:
    """The URL, if a page may link to it."""
    if not isinstance(url, str):
        return None
    try:
        return url if urlsplit(url).scheme in ("http", "https") else None
    except ValueError:
        return None


def media_kind(url: Any, content_type: Any = None) -> str | None:
    """`audio`, `video` or `image`, from the content type, else from the file's name."""
    if isinstance(content_type, str) and content_type.split("/")[0] in ("audio", "video", "image"):
        return content_type.split("/")[0]
    if link(url) is None:
        return None
    return _KINDS.get(PurePosixPath(urlsplit(url).path).suffix.lower())


def pretty(value: Any) -> str:
    """JSON on several lines."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal) else str(value)


FILTERS = {
    "duration": duration,
    "seconds": seconds,
    "ago": ago,
    "clock": clock,
    "day": day,
    "money": money,
    "count": count,
    "short": short,
    "type_name": type_name,
    "link": link,
    "pretty": pretty,
}
