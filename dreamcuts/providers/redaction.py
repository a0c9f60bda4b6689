"""Keep secrets out of whatever is logged, stored or shown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

MAX_BODY_CHARS = 2_000
HIDDEN = "[hidden]"

_PATTERNS = (
    # Authorization: Key id:secret, Bearer eyJ...
    re.compile(r"(?i)\b(?:key|bearer|basic)\s+[A-Za-z0-9._:+/=-]{12,}"),
    re.compile(r"\bsk_[A-Za-z0-9]{8,}"),
    re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"),
)
_NAMED = re.compile(
    r"(?i)(?<![A-Za-z0-9_])([\"']?(?:authorization|xi-api-key|x-api-key|api[_-]?key|apikey|password|secret|token)[\"']?\s*[:=]\s*)"
    r"([\"']?)[^\s\"'&,;}]+"
)
_USERINFO = re.compile(r"(\w+://)[^/\s:@]+:[^/\s@]+@")


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` without the given secrets, and without what looks like a key, a token or a password."""
    for secret in secrets:
        for part in (secret, *secret.split(":")):
            if len(part) >= 6:
                text = text.replace(part, HIDDEN)
    for pattern in _PATTERNS:
        text = pattern.sub(HIDDEN, text)
    text = _NAMED.sub(rf"\1\2{HIDDEN}", text)
    return _USERINFO.sub(rf"\1{HIDDEN}@", text)


def kept_body(body: Any, secrets: Iterable[str] = ()) -> str:
    """A provider's answer as it is kept with an attempt: redacted, and at most MAX_BODY_CHARS long."""
    text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False, default=str)
    text = redact(text, secrets)
    return text if len(text) <= MAX_BODY_CHARS else text[: MAX_BODY_CHARS - 1] + "…"
