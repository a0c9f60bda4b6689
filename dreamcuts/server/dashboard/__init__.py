"""The dashboard: pages made on the server, kept current by server-sent events."""

from __future__ import annotations

from dreamcuts.server.dashboard.app import make_dashboard

__all__ = ["make_dashboard"]
