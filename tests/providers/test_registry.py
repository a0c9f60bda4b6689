"""Plugins are found by entry points; a broken one is named and stops nobody."""

from __future__ import annotations

import logging
from importlib.metadata import EntryPoint

import pytest

from dreamcuts.config import Settings
from dreamcuts.errors import ConfigError
from dreamcuts.jobs.registry import load_job_types
from dreamcuts.providers.registry import load_group, load_providers, make_provider

TTS = EntryPoint("tts_elevenlabs", "dreamcuts.jobs.tts:TtsJob", "dreamcuts.jobs")


def test_the_built_in_providers_come_by_entry_points() -> None:
    providers = load_providers()
    assert {"elevenlabs", "fal", "shotstack"} <= set(providers)
    assert all(cls.name == name for name, cls in providers.items())


def test_a_broken_plugin_is_named_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    broken = EntryPoint("acme", "no_such_package_of_acme:Job", "dreamcuts.jobs")
    no_job = EntryPoint("odd", "pathlib:Path", "dreamcuts.jobs")
    with caplog.at_level(logging.WARNING):
        types = load_job_types([broken, no_job, TTS])

    assert set(types) == {"tts_elevenlabs"}
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("Plugin acme of unknown is left out: ModuleNotFoundError")
    assert "is no job type: it has no short_name, payload_model" in second


def test_of_two_plugins_with_one_name_the_first_stays(caplog: pytest.LogCaptureFixture) -> None:
    other = EntryPoint("tts_elevenlabs", "dreamcuts.jobs.music:MusicJob", "dreamcuts.jobs")
    loaded = load_group([TTS, other])
    assert loaded.plugins["tts_elevenlabs"].__name__ == "TtsJob"
    assert [plugin.reason for plugin in loaded.broken] == ["another plugin of that name was found first"]


def test_a_missing_key_and_an_unknown_provider_are_explained() -> None:
    settings = Settings.load()
    with pytest.raises(ConfigError, match=r"FAL_KEY \(needed for the provider fal\)"):
        make_provider("fal", settings)
    with pytest.raises(ConfigError, match=r"'acme'\. Registered: elevenlabs, fal, shotstack"):
        make_provider("acme", settings)
