"""One sandbox for a module of provider tests: each test starts with its faults, bills and log forgotten."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from dreamcuts.config import Settings
from dreamcuts.providers.elevenlabs import ElevenLabsProvider
from dreamcuts.providers.fal import FalProvider
from dreamcuts.providers.shotstack import ShotstackProvider
from dreamcuts.sandbox import Sandbox


@pytest.fixture(scope="module")
def shared_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with Sandbox.running(folder=tmp_path_factory.mktemp("sandbox"), speed=10) as running:
        yield running


@pytest.fixture
def box(shared_sandbox: Sandbox) -> Sandbox:
    shared_sandbox.reset()
    return shared_sandbox


@pytest.fixture
def settings(box: Sandbox) -> Settings:
    return Settings.load(**{name.lower(): value for name, value in box.environment().items()})


@pytest.fixture
async def elevenlabs(settings: Settings) -> AsyncIterator[ElevenLabsProvider]:
    provider = ElevenLabsProvider.from_settings(settings)
    yield provider
    await provider.aclose()


@pytest.fixture
async def fal(settings: Settings) -> AsyncIterator[FalProvider]:
    provider = FalProvider.from_settings(settings)
    yield provider
    await provider.aclose()


@pytest.fixture
async def shotstack(settings: Settings) -> AsyncIterator[ShotstackProvider]:
    provider = ShotstackProvider.from_settings(settings)
    yield provider
    await provider.aclose()
