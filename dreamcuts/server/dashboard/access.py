"""Who may change something: whoever has signed in with the token.

Nothing is kept on the server. The session is a cookie signed with a key made from the token, so that changing
the token ends all sessions; each form carries a second signature, so that no other site can send one.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time

from starlette.requests import Request
from starlette.responses import Response

COOKIE = "dreamcuts_session"
LASTS_S = 12 * 3600
TRIES_A_MINUTE = 10


class Access:
    """Sessions of one dashboard. Without a token nobody can sign in, and the dashboard is read-only."""

    def __init__(self, token: str | None) -> None:
        self._token = token or ""
        self._key = hashlib.sha256(b"dreamcuts dashboard session\0" + self._token.encode()).digest()
        self._tries: list[float] = []

    @property
    def is_possible(self) -> bool:
        """Whether there is a token to sign in with."""
        return bool(self._token)

    def try_sign_in(self, given: str) -> str | None:
        """A new session if `given` is the token. Raises PermissionError after too many tries in a minute."""
        now = time.monotonic()
        self._tries = [moment for moment in self._tries if now - moment < 60]
        if len(self._tries) >= TRIES_A_MINUTE:
            raise PermissionError("Too many tries. Wait a minute.")
        self._tries.append(now)
        if not self._token or not hmac.compare_digest(given.encode(), self._token.encode()):
            return None
        self._tries.clear()
        body = f"{int(time.time()) + LASTS_S}.{secrets.token_urlsafe(12)}"
        return f"{body}.{self._sign('session', body)}"

    def session(self, request: Request) -> str | None:
        """The request's session, if it is ours and has not run out."""
        cookie = request.cookies.get(COOKIE, "")
        body, _, signature = cookie.rpartition(".")
        until = body.split(".")[0]
        if not self._token or not hmac.compare_digest(
            signature.encode(), self._sign("session", body).encode()
        ):
            return None
        return cookie if until.isdecimal() and int(until) > time.time() else None

    def form_key(self, session: str | None) -> str:
        """What a form of this session must carry; empty without a session."""
        return self._sign("form", session) if session else ""

    def is_from_our_form(self, session: str, given: str) -> bool:
        """Whether a form was made for this session."""
        return hmac.compare_digest(given.encode(), self.form_key(session).encode())

    def remember(self, response: Response, session: str, *, secure: bool) -> None:
        """Set the session's cookie."""
        response.set_cookie(
            COOKIE,
            session,
            max_age=LASTS_S,
            path="/dashboard",
            httponly=True,
            samesite="strict",
            secure=secure,
        )

    def forget(self, response: Response) -> None:
        """Take the session's cookie away."""
        response.delete_cookie(COOKIE, path="/dashboard", httponly=True, samesite="strict")

    def _sign(self, purpose: str, text: str) -> str:
        return hmac.new(self._key, f"{purpose}\0{text}".encode(), hashlib.sha256).hexdigest()
