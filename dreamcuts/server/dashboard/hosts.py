"""Which names the dashboard answers to.

Whoever reads it needs no token, so a browser must not be led here under a foreign name: a page of
`evil.example` whose name suddenly points to 127.0.0.1 could read the dashboard as its own (DNS rebinding). An
address as the name is always fine, since nobody can make one point elsewhere.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from dreamcuts.errors import ConfigError

SETTING = "DASHBOARD_HOSTS"
ANY = "*"


def host_names(setting: str, *more: str) -> frozenset[str]:
    """This machine's names, those of the setting (by commas), and `more`. Raises ConfigError."""
    given = [name.strip().lower().rstrip(".") for name in setting.split(",") if name.strip()]
    for name in given:
        if name != ANY and not all(
            part.replace("_", "-").replace("-", "a").isalnum() for part in name.split(".")
        ):
            raise ConfigError(
                f"{SETTING}: {name!r} is no host name. Name hosts without scheme or port, "
                "e.g. dashboard.example.com,studio-1"
            )
    machine = socket.gethostname().lower()
    return frozenset(
        {"localhost", machine, machine.partition(".")[0], *given, *(name.lower() for name in more)}
    )


def is_known(host: str, names: Iterable[str]) -> bool:
    """Whether a request's Host header, with or without a port, is an address or one of the names."""
    name = host.strip().lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    try:
        ipaddress.ip_address(name)
    except ValueError:
        name = name.rstrip(".")
        return name in names or name.endswith(".localhost") or ANY in names
    return True


class KnownHosts:
    """Refuses requests under a name that is not ours."""

    def __init__(self, app: ASGIApp, names: frozenset[str]) -> None:
        self._app = app
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = Headers(scope=scope).get("host", "") if scope["type"] == "http" else ""
        if scope["type"] != "http" or is_known(host, self._names):
            await self._app(scope, receive, send)
            return
        text = (
            f"This dashboard does not answer to the name {host[:100]!r}. "
            f"If that is a name of it, add it to {SETTING} where it runs.\n"
        )
        await PlainTextResponse(text, 403)(scope, receive, send)
