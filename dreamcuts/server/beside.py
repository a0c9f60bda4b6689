"""Putting the health server beside a worker: its probes, metrics, files and dashboard."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence

from dreamcuts.config import Settings
from dreamcuts.server.app import make_app
from dreamcuts.server.dashboard import make_dashboard
from dreamcuts.server.data import Reader
from dreamcuts.server.metrics import Exposition, Metrics
from dreamcuts.server.pulse import Pulse
from dreamcuts.server.serve import health_server
from dreamcuts.server.state import RunningState

PORTS = {
    "tts": 3001,
    "image": 3002,
    "video": 3003,
    "lipsync": 3004,
    "music": 3005,
    "sound_effects": 3006,
    "render": 3007,
}
"""The product's founding ports of workers that serve a single type."""


def health_port(settings: Settings, types: Sequence[str]) -> int:
    """HEALTH_CHECK_PORT if it is set; else a single type's founding port; else the default."""
    if "health_check_port" not in settings.model_fields_set and len(types) == 1:
        return PORTS.get(types[0], settings.health_check_port)
    return settings.health_check_port


@contextlib.asynccontextmanager
async def beside_worker(
    settings: Settings, state: RunningState, metrics: Metrics, port: int
) -> AsyncIterator[int]:
    """Serve while the block runs, watching the event loop that it runs in; gives the port.

    Raises ConfigError if the port cannot be had.
    """
    pulse = Pulse(on_lag=metrics.lag)
    reader = Reader(settings.secret("DATABASE_URL"))
    token = settings.dashboard_token.get_secret_value() if settings.dashboard_token else None
    app = make_app(
        state,
        settings.storage_dir,
        pulse=pulse,
        metrics=Exposition(metrics, state, reader),
        dashboard=make_dashboard(reader, token),
        lifespan=reader.opened,
    )
    async with pulse.beating(), health_server(app, settings.health_check_host, port) as bound:
        yield bound
