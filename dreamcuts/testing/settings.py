"""Settings that hold what a test says, and nothing of the machine that it runs on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import PrivateAttr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from dreamcuts.config import Settings


class IsolatedSettings(Settings):
    """Settings that are read neither from the environment nor from `.env.local`.

    `IsolatedSettings.of({"ACME_API_KEY": "k"})` also takes settings that only a plugin knows.
    """

    _others: dict[str, str] = PrivateAttr(default_factory=dict)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Settings by their environment names (either case). Raises ConfigError that lists the wrong ones."""
        known = {name.lower(): value for name, value in values.items() if name.lower() in cls.model_fields}
        made = cls.load(**known)
        assert isinstance(made, cls)
        made._others = {
            name.upper(): str(value) for name, value in values.items() if name.lower() not in known
        }
        return made

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What was passed in, alone."""
        return (init_settings,)

    def _unlisted(self, name: str) -> str:
        return self._others.get(name.upper(), "")
