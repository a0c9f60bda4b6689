"""The keys of a plugin's provider are as secret as our own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import anyio
import pytest
from click.testing import CliRunner

from dreamcuts.cli import work
from dreamcuts.config import Settings
from dreamcuts.log import known_secrets
from dreamcuts.providers import registry
from dreamcuts.worker.tools import tools_from

KEY = "acme-id:acme-s3cr3t-0123456789"
URL = "https://api.acme.example/v1"


class AcmeProvider:
    name: ClassVar[str] = "acme"
    settings_needed: ClassVar[tuple[str, ...]] = ("ACME_KEY", "ACME_URL")


@pytest.fixture(autouse=True)
def acme(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = {**registry.load_providers(), "acme": AcmeProvider}
    monkeypatch.setattr(registry, "load_providers", lambda: loaded)
    monkeypatch.setenv("ACME_KEY", KEY)
    monkeypatch.setenv("ACME_URL", URL)


def test_known_secrets_include_the_settings_of_plugins() -> None:
    secrets = known_secrets(Settings.load(), registry.provider_settings())
    assert {KEY, "acme-s3cr3t-0123456789", URL} <= set(secrets)
    assert "" not in secrets and "//api.acme.example/v1" not in secrets


@pytest.mark.anyio
async def test_errors_of_jobs_are_stored_without_them(tmp_path: Path) -> None:
    store: Any = None
    settings = Settings.load(storage_dir=tmp_path, storage_base_url="http://127.0.0.1:1/a")
    async with tools_from(settings)(store) as tools:
        await anyio.lowlevel.checkpoint()
        assert tools.redact(f"refused: {KEY} and acme-s3cr3t-0123456789") == "refused: [hidden] and [hidden]"


def test_a_worker_s_log_is_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden: list[list[str]] = []
    monkeypatch.setattr(work, "setup_logging", lambda level, form, secrets: hidden.append(list(secrets)))
    monkeypatch.setattr(work, "run_service", lambda *_, **__: None)
    done = CliRunner().invoke(work.work, [])
    assert done.exit_code == 0, done.output
    assert KEY in hidden[-1]
