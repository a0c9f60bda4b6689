"""Trying a provider's key without paying: `dreamcuts providers test`."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from dreamcuts.config import Settings
from dreamcuts.errors import ConfigError, JobError
from dreamcuts.log import known_secrets
from dreamcuts.providers.redaction import redact
from dreamcuts.providers.registry import make_provider, provider_settings

CHECK_S = 30.0


async def check_key(name: str, settings: Settings) -> dict[str, Any]:
    """Whether the provider `name` takes the key: `name`, `ok`, `found` (for people), `class`, `milliseconds`.

    A provider without a `check` of its own counts as well if it can be made. Never raises.
    """
    started = time.monotonic()
    ok, error_class, asked = False, None, False
    try:
        provider = make_provider(name, settings)
        try:
            check: Callable[[], Awaitable[str]] | None = getattr(provider, "check", None)
            if check is None:
                ok, found = True, "it has its settings; it offers no check that costs nothing"
            else:
                asked = True
                with anyio.fail_after(CHECK_S):
                    found = await check()
                ok = True
        finally:
            await provider.aclose()
    except ConfigError as error:
        found = str(error)
    except JobError as error:
        found, error_class = str(error), error.error_class.value
    except TimeoutError:
        found = f"no answer within {CHECK_S:g} s"
    except Exception as error:  # a plugin's check may fail in any way
        found = f"{type(error).__name__}: {error}"
    took = round((time.monotonic() - started) * 1000) if asked else None
    found = redact(found, known_secrets(settings, provider_settings()))
    return {"name": name, "ok": ok, "found": found, "class": error_class, "milliseconds": took}
