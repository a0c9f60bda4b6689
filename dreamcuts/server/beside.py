"""What watches a worker: the health server with its metrics and dashboard, and traces where wanted."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from dreamcuts.config import Settings
from dreamcuts.errors import ConfigError
from dreamcuts.server.app import make_app
from dreamcuts.server.dashboard import make_dashboard
from dreamcuts.server.dashboard.hosts import host_names
from dreamcuts.server.data import Reader
from dreamcuts.server.metrics import Exposition, Metrics
from dreamcuts.server.pulse import Pulse
from dreamcuts.server.serve import health_server
from dreamcuts.server.state import RunningState

if TYPE_CHECKING:  # OpenTelemetry is an extra, and slow to import
    from opentelemetry.sdk.trace.export import SpanExporter

    from dreamcuts.server.tracing import Tracing

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


def make_tracing(settings: Settings) -> Tracing | None:
    """What writes traces to OTEL_EXPORTER_OTLP_ENDPOINT; None if that is not set. Raises ConfigError."""
    exporter = span_exporter(settings)
    if exporter is None:
        return None
    from dreamcuts.server.tracing import Tracing

    return Tracing(Reader(settings.secret("DATABASE_URL")), exporter)


def span_exporter(settings: Settings) -> SpanExporter | None:
    """What sends spans there; None if it is not set. Raises ConfigError if OpenTelemetry is not installed."""
    endpoint = settings.otel_exporter_otlp_endpoint
    if not endpoint:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        raise ConfigError(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, but OpenTelemetry is not installed. "
            'Run pip install "dreamcuts[otel]", or unset it.'
        ) from None
    return OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")


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
        dashboard=make_dashboard(
            reader, token, host_names(settings.dashboard_hosts, settings.health_check_host)
        ),
        lifespan=reader.opened,
    )
    async with pulse.beating(), health_server(app, settings.health_check_host, port) as bound:
        yield bound
