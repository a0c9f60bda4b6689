"""A dashboard over the test's database, on a port that the OS chose, with a film half made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from dreamcuts.client import Client
from dreamcuts.config import Settings
from dreamcuts.server.alone import dashboard_server

TOKEN = "correct horse battery staple"


@dataclass(frozen=True)
class Film:
    """A manifest of which one job is done, one failed, one runs, one waits, and one will never run."""

    manifest: UUID
    jobs: dict[str, UUID]
    worker: UUID


@pytest.fixture
def film(connection: psycopg.Connection) -> Film:
    client = Client(connection)
    manifest = client.submit_manifest(
        {"metadata": {"title": "The <b>lighthouse</b>", "durationSeconds": 5}},
        [
            {"job_id": "job_tts_s1", "type": "tts_elevenlabs", "payload": {"text": "Hello <script>"}},
            {"job_id": "job_gen_bad", "type": "gen_image_falai", "payload": {"prompt": "a cat"}},
            {"job_id": "job_gen_now", "type": "gen_image_falai", "priority": 1},
            {
                "job_id": "job_lipsync_s1",
                "type": "lip_sync_lypsso",
                "payload": {"audioUrl": "{{job_result:job_tts_s1}}"},
                "depends_on": ["job_tts_s1", "job_gen_now"],
            },
            {
                "job_id": "job_render",
                "type": "render_shotstack",
                "depends_on": ["job_lipsync_s1", "job_never_made"],
            },
        ],
    )
    worker = uuid4()
    connection.execute(
        "select dreamcut_register_worker(%s, 'studio-1', 4711, '0.1.0', '{tts_elevenlabs,gen_image_falai}', "
        "'{3,2}', '1 hour')",
        [worker],
    )
    connection.execute(
        "select dreamcut_claim_jobs(%s, '{tts_elevenlabs,gen_image_falai}', '{3,2}')", [worker]
    )
    jobs = {
        str(row[0]): row[1]
        for row in connection.execute(
            "select job_id, id from dreamcut_jobs where manifest_id = %s", [manifest]
        )
    }
    connection.execute(
        "insert into dreamcut_provider_calls (job, manifest_id, job_id, claim, worker_id, provider, "
        "endpoint, status, cost_usd, finished_at) values (%s, %s, 'job_tts_s1', 1, %s, 'elevenlabs', "
        "'dialogue', 'succeeded', 0.42, now())",
        [jobs["job_tts_s1"], manifest, worker],
    )
    result = {"provider": "elevenlabs", "contentType": "audio/mpeg"}
    connection.execute(
        "select dreamcut_complete_jobs(%s, %s, '{1}', %s, '{http://127.0.0.1:9/s1.mp3}')",
        [worker, [jobs["job_tts_s1"]], [Jsonb(result)]],
    )
    connection.execute(
        "select dreamcut_fail_jobs(%s, %s, '{1}', '{invalid_request}', '{the prompt is <i>empty</i>}', "
        "%s, '{null}', '{1 second}')",
        [worker, [jobs["job_gen_bad"]], [Jsonb({"provider": "fal"})]],
    )
    connection.execute(
        "select dreamcut_heartbeat(%s, '1 hour', false, %s, '{1}')", [worker, [jobs["job_gen_now"]]]
    )
    return Film(manifest, jobs, worker)


@pytest.fixture
def board(database: str, tmp_path: Path) -> Iterator[str]:
    """The address of a dashboard with a token, without the last slash."""
    settings = Settings.load(database_url=database, dashboard_token=TOKEN, storage_dir=tmp_path / "assets")
    with dashboard_server(settings, "127.0.0.1", 0) as address:
        yield address.rstrip("/")


@pytest.fixture
def open_board(database: str) -> Iterator[str]:
    """As `board`, without a token: read-only."""
    with dashboard_server(Settings.load(database_url=database), "127.0.0.1", 0) as address:
        yield address.rstrip("/")
