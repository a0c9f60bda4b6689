"""The health server: runs beside the worker and tells how it is doing."""

from __future__ import annotations

from dreamcuts.server.app import make_app
from dreamcuts.server.pulse import Pulse
from dreamcuts.server.serve import health_server, serving
from dreamcuts.server.state import RunningState

__all__ = ["Pulse", "RunningState", "health_server", "make_app", "serving"]
