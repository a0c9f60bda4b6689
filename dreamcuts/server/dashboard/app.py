"""The dashboard's routes: pages, their events, signing in, and the few things that may be changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dreamcuts import __version__
from dreamcuts.errors import DatabaseError
from dreamcuts.server.dashboard.access import Access
from dreamcuts.server.dashboard.actions import act
from dreamcuts.server.dashboard.hosts import KnownHosts
from dreamcuts.server.dashboard.live import changes
from dreamcuts.server.dashboard.pages import find_page
from dreamcuts.server.dashboard.words import FILTERS
from dreamcuts.server.data import Reader

BASE = "/dashboard"
HERE = Path(__file__).parent
SAID = "dreamcuts_said"
LONGEST_FORM = 16_384
# Media may come from wherever the assets are stored; everything else is this server's own.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "form-action 'self'; img-src 'self' http: https: data:; media-src 'self' http: https:; "
    "base-uri 'none'; frame-ancestors 'none'"
)


def make_dashboard(reader: Reader, token: str | None, hosts: frozenset[str]) -> Starlette:
    """The application, to be mounted at /dashboard. Read-only without a `token`; `hosts` are its names."""
    board = Dashboard(reader, Access(token))
    pages = ("/", "/manifests", "/manifests/{id}", "/jobs", "/jobs/{id}", "/workers", "/providers")
    return Starlette(
        routes=[
            *(Route(path, board.page) for path in pages),
            Route("/events", board.events),
            Route("/sign-in", board.sign_in, methods=["GET", "POST"]),
            Route("/sign-out", board.sign_out, methods=["POST"]),
            Route("/act", board.act, methods=["POST"]),
            Mount("/static", StaticFiles(directory=HERE / "static")),
        ],
        middleware=[Middleware(SafeHeaders), Middleware(KnownHosts, names=hosts)],
        exception_handlers={HTTPException: board.explain, DatabaseError: board.explain},
    )


class Dashboard:
    """The routes' functions, over one reader and one set of sessions."""

    def __init__(self, reader: Reader, access: Access) -> None:
        self._reader = reader
        self._access = access
        self._templates = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=select_autoescape(default=True),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(FILTERS)

    async def page(self, request: Request) -> Response:
        """A whole page."""
        address = _address(request)
        page, path, query = find_page(address)
        values = await page.gather(self._reader, path, query)
        return self._show(request, page.template, values | {"address": address})

    async def events(self, request: Request) -> Response:
        """The main part of the page in `?page=`, as often as it changes."""
        address = request.query_params.get("page", "/")
        page, path, query = find_page(address)
        common = self._common(request) | {"address": address}
        template = self._templates.get_template(page.template)

        async def render() -> str:
            values = await page.gather(self._reader, path, query)
            return "".join(template.blocks["main"](template.new_context(common | values)))

        return StreamingResponse(
            changes(request, render),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    async def sign_in(self, request: Request) -> Response:
        """The form for the token, and what it sends."""
        if not self._access.is_possible:
            raise HTTPException(
                403, "This dashboard is read-only. Set DASHBOARD_TOKEN where it runs to sign in here."
            )
        if request.method == "GET":
            return self._show(request, "sign_in.html", {"problem": None})
        form = await _form(request)
        try:
            session = self._access.try_sign_in(form.get("token", ""))
        except PermissionError as error:
            return self._show(request, "sign_in.html", {"problem": str(error)}, 429)
        if session is None:
            return self._show(request, "sign_in.html", {"problem": "That is not the token."}, 403)
        response = RedirectResponse(f"{BASE}/", 303)
        secure = "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))
        self._access.remember(response, session, secure=secure)
        return response

    async def sign_out(self, request: Request) -> Response:
        """End the session."""
        await self._signed_form(request)
        response = RedirectResponse(f"{BASE}/", 303)
        self._access.forget(response)
        return response

    async def act(self, request: Request) -> Response:
        """Retry, cancel, pause or resume; then back to the page where it was asked for."""
        form = await self._signed_form(request)
        said = await act(self._reader, form.get("what", ""), form.get("target", ""))
        back = form.get("back", "/")
        response = RedirectResponse(BASE + (back if back.startswith("/") and "\\" not in back else "/"), 303)
        response.set_cookie(SAID, quote(said), max_age=60, path=BASE, httponly=True, samesite="strict")
        return response

    async def explain(self, request: Request, error: Exception) -> Response:
        """An error as a page that says what is wrong."""
        if isinstance(error, HTTPException):
            status, text = error.status_code, error.detail
        else:
            status, text = 503, str(error)
        if text == "Not Found":
            text = f"{request.url.path} does not exist."
        elif text == "Method Not Allowed":
            text = f"{request.url.path} does not take {request.method}."
        return self._show(request, "error.html", {"code": status, "text": text}, status)

    async def _signed_form(self, request: Request) -> dict[str, str]:
        """The request's form. Raises HTTPException unless it comes from a page of somebody who signed in."""
        session = self._access.session(request)
        if session is None:
            raise HTTPException(403, "Sign in first: only who has the token may change something.")
        form = await _form(request)
        if not self._access.is_from_our_form(session, form.get("key", "")):
            raise HTTPException(403, "This form was not made for your session. Load the page again.")
        return form

    def _common(self, request: Request) -> dict[str, Any]:
        session = self._access.session(request)
        return {
            "base": BASE,
            "version": __version__,
            "signed_in": session is not None,
            "can_sign_in": self._access.is_possible,
            "key": self._access.form_key(session),
            "said": "",
        }

    def _show(
        self, request: Request, template: str, values: Mapping[str, Any], status: int = 200
    ) -> Response:
        said = unquote(request.cookies.get(SAID, ""))
        context = self._common(request) | {"address": None, "said": said} | dict(values)
        html = self._templates.get_template(template).render(context)
        response = HTMLResponse(html, status, headers={"Cache-Control": "no-store"})
        if said:
            response.delete_cookie(SAID, path=BASE, httponly=True, samesite="strict")
        return response


class SafeHeaders:
    """Headers that keep a page from loading, or being loaded by, anything foreign."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    (b"content-security-policy", POLICY.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"same-origin"),
                ]
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


def _address(request: Request) -> str:
    """The request's path below /dashboard, with its query."""
    path = request.url.path.removeprefix(BASE) or "/"
    return f"{path}?{request.url.query}" if request.url.query else path


async def _form(request: Request) -> dict[str, str]:
    """The fields of a small form."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LONGEST_FORM:
            raise HTTPException(413, "The form is too large.")
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=20))
    except ValueError:
        raise HTTPException(400, "The form cannot be read.") from None
