"""Traces: one for each manifest, whatever worker runs its jobs; sent to a collector over the wire."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from uuid import UUID

import psycopg
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from psycopg.types.json import Jsonb

from dreamcuts.client import Client
from dreamcuts.errors import ErrorClass
from dreamcuts.queue.models import Completed, Failed, Job
from dreamcuts.sandbox import Sandbox
from dreamcuts.server.data import Reader
from dreamcuts.server.tracing import Tracing, span_id, trace_id

WORKER = UUID("00000000-0000-4000-8000-000000000001")


class Kept(SpanExporter):
    """Keeps what is exported."""

    def __init__(self) -> None:
        self.spans: dict[str, ReadableSpan] = {}

    def export(self, spans: object) -> SpanExportResult:
        self.spans |= {span.name: span for span in spans}
        return SpanExportResult.SUCCESS


@pytest.mark.anyio
async def test_a_manifest_is_one_trace_linked_along_its_dependencies(
    database: str, connection: psycopg.Connection
) -> None:
    manifest = Client(connection).submit_manifest(
        {},
        [{"job_id": "speech", "type": "t"}, {"job_id": "lips", "type": "t", "depends_on": ["speech"]}],
    )
    connection.execute("select dreamcut_register_worker(%s, 'h', 1, '0', '{t}', '{5}', '1 hour')", [WORKER])

    def claim() -> Job:
        row = connection.execute(
            "select id, job_id, claims from dreamcut_claim_jobs(%s, '{t}', '{1}')", [WORKER]
        ).fetchone()
        assert row is not None
        return Job(row[0], manifest, row[1], "t", {}, 1, 3, row[2])

    kept = Kept()
    tracing = Tracing(Reader(database), kept)
    call = UUID(int=7)
    async with tracing.opened():
        speech = claim()
        tracing.attempt_began(speech)
        tracing.call_began(speech, call, "elevenlabs", "dialogue")
        tracing.call_ended(speech, call, "succeeded", 0.5)
        tracing.attempt_ended(speech, Completed(speech, {}), 1.0)
        connection.execute(
            "select dreamcut_complete_jobs(%s, %s, '{1}', %s, '{null}')", [WORKER, [speech.id], [Jsonb({})]]
        )
        lips = claim()
        tracing.attempt_began(lips)
        tracing.attempt_ended(lips, Failed(lips, ErrorClass.OVERLOADED, "busy"), 1.0)

    assert set(kept.spans) == {"t speech", "t lips", "elevenlabs dialogue"}
    assert {span.context.trace_id for span in kept.spans.values() if span.context} == {manifest.int}
    first, second, below = (kept.spans[name] for name in ("t speech", "t lips", "elevenlabs dialogue"))
    assert first.context is not None and first.context.span_id == span_id(speech.id, 1)
    assert first.parent is None and second.parent is None
    assert below.parent is not None and below.parent.span_id == first.context.span_id
    assert [(link.context.trace_id, link.context.span_id) for link in second.links] == [
        (trace_id(manifest), span_id(speech.id, 1))
    ]
    assert not second.status.is_ok and second.status.description == "busy"
    assert below.attributes is not None and below.attributes["dreamcuts.cost_usd"] == 0.5


def test_a_worker_sends_its_spans_to_a_collector_and_imports_nothing_without(
    database: str, connection: psycopg.Connection, sandbox: Sandbox
) -> None:
    received: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    Client(connection).submit_manifest(
        {},
        [
            {
                "job_id": "effect",
                "type": "gen_sound_effects_elevenlabs",
                "payload": {"text": "whoosh", "durationSeconds": 1.0},
            }
        ],
    )
    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            env = {
                **os.environ, **sandbox.environment(), "DATABASE_URL": database,
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            }  # fmt: skip
            done = subprocess.run(
                [sys.executable, "-m", "dreamcuts", "work", "--types", "sound_effects", "--until-idle"],
                env=env,
                capture_output=True,
                text=True,
                timeout=150,
            )
        finally:
            server.shutdown()
            thread.join()
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    names = set()
    for body in received:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            names |= {span.name for scope in resource.scope_spans for span in scope.spans}
    assert "gen_sound_effects_elevenlabs effect" in names
    assert any(name.startswith("elevenlabs ") for name in names)

    probe = (
        "import sys, dreamcuts.service; print(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
