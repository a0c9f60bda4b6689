"""The dashboard without a worker beside it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from dreamcuts.config import Settings
from dreamcuts.server.app import AssetFiles
from dreamcuts.server.dashboard import make_dashboard
from dreamcuts.server.dashboard.hosts import host_names
from dreamcuts.server.data import Reader
from dreamcuts.server.serve import serving


@contextlib.contextmanager
def dashboard_server(settings: Settings, host: str, port: int) -> Iterator[str]:
    """Serve the dashboard while the block runs; gives its address.

    Raises ConfigError for a taken port or a wrong host.
    """
    reader = Reader(settings.secret("DATABASE_URL"))
    token = settings.dashboard_token.get_secret_value() if settings.dashboard_token else None

    hosts = host_names(settings.dashboard_hosts, host)

    async def home(request: Request) -> Response:
        return RedirectResponse("/dashboard/")

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with reader.opened():
            yield

    routes: list[BaseRoute] = [Route("/", home), Mount("/dashboard", make_dashboard(reader, token, hosts))]
    if settings.storage_dir is not None:
        routes.append(Mount("/files", AssetFiles(directory=settings.storage_dir, check_dir=False)))
    app = Starlette(routes=routes, lifespan=lifespan)
    with serving(app, host, port, option="--port", host_option="--host") as bound:
        shown = f"[{host}]" if ":" in host else host
        yield f"http://{shown}:{bound}/dashboard/"
