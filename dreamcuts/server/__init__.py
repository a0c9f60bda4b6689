"""The health server: runs inside the worker and tells how it is doing."""

from __future__ import annotations

from dreamcuts.server.app import RunningState, make_app
from dreamcuts.server.serve import health_server

__all__ = ["RunningState", "health_server", "make_app"]
