"""Settings, from the environment and `.env.local` (the environment wins).

The names are those of the product's founding document: no prefix, upper case. A worker asks only for what
its job types need; `Settings.require` says what is missing and for what. Keys are SecretStr, so that no
repr, log line or error can show them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from dreamcuts.errors import ConfigError
from dreamcuts.wording import reason


class SettingsWrong(ConfigError):
    """Settings cannot be read; `problems` says of each by its name what is wrong with it."""

    def __init__(self, problems: Mapping[str, str]) -> None:
        self.problems = dict(problems)
        super().__init__(
            "Settings are wrong: " + "; ".join(f"{name}: {what}" for name, what in self.problems.items())
        )


class Settings(BaseSettings):
    """Everything that can be configured. `Settings.load()` reads it and explains what is wrong."""

    model_config = SettingsConfigDict(
        env_file=".env.local",
        env_file_encoding="utf-8",
        extra="ignore",
        env_ignore_empty=True,
        hide_input_in_errors=True,
    )

    database_url: SecretStr | None = Field(None, description="Postgres, e.g. postgresql://user@host/db")
    supabase_url: str | None = Field(None, description="Supabase project; its Storage keeps the assets")
    supabase_service_role_key: SecretStr | None = Field(None, description="Key for Supabase Storage")
    elevenlabs_api_key: SecretStr | None = Field(None, description="Speech, music and sound effects")
    fal_key: SecretStr | None = Field(None, description="Images, video and lip sync")
    shotstack_api_key: SecretStr | None = Field(None, description="The final render")

    elevenlabs_base_url: str = Field("https://api.elevenlabs.io", description="ElevenLabs API")
    fal_queue_url: str = Field("https://queue.fal.run", description="fal queue API")
    shotstack_base_url: str = Field("https://api.shotstack.io", description="Shotstack API, without /edit")

    storage_bucket: str = Field("production-assets", description="Supabase Storage bucket")
    storage_dir: Path | None = Field(None, description="Keep assets in this folder instead of Supabase")
    storage_base_url: str | None = Field(None, description="Where STORAGE_DIR is served from")
    allow_private_urls: bool = Field(
        False, description="Let payload URLs point to loopback and private addresses (the sandbox needs it)"
    )
    max_download_mb: int = Field(512, ge=1, description="Largest file fetched from a provider, in MiB")

    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR")
    log_format: Literal["text", "json"] = Field("text", description="text or json")
    enable_workers: bool = Field(
        True, description="false: `dreamcuts work` starts with no slots and claims nothing"
    )
    enable_health_check: bool = Field(False, description="Serve /health, /metrics and the dashboard")
    health_check_port: int = Field(8080, ge=0, le=65535, description="Port of the health server")
    health_check_host: str = Field("127.0.0.1", description="Address of the health server; 0.0.0.0 for all")
    otel_exporter_otlp_endpoint: str | None = Field(
        None, description="OpenTelemetry collector, e.g. http://127.0.0.1:4318; needs dreamcuts[otel]"
    )
    dashboard_token: SecretStr | None = Field(
        None, description="Lets who knows it retry, cancel, pause and resume in the dashboard"
    )
    dashboard_hosts: str = Field(
        "", description="Names that the dashboard answers to besides this machine's own, by commas; *: any"
    )
    max_concurrent_jobs: int | None = Field(None, ge=1, description="Slots per job type")
    retry_delay_ms: int | None = Field(None, ge=0, description="First retry delay, in milliseconds")

    poll_interval_s: float = Field(
        1.0,
        gt=0,
        description="Seconds until an idle worker looks for work; up to 30 s while notifications arrive",
    )
    heartbeat_s: float = Field(10.0, gt=0, description="Seconds between heartbeats")
    lease_s: float = Field(45.0, gt=0, description="Seconds after which a silent worker counts as dead")
    archive_after_days: int = Field(
        7, ge=0, le=3650, description="Days after which completed jobs move to the archive; 0: never"
    )
    archive_failed_after_days: int = Field(
        30, ge=0, le=3650, description="The same for failed and cancelled jobs, and all of a failed manifest"
    )
    price_missing: Literal["allow", "refuse"] = Field(
        "allow",
        description="refuse: make no call whose price is not known; allow: make it, marked unpriced",
    )
    provider_poll_s: float | None = Field(
        None, gt=0, description="Seconds between polls of a provider's queue (default: by job type)"
    )

    @classmethod
    def load(cls, **overrides: Any) -> Settings:
        """Read the settings. Raises SettingsWrong that lists every wrong one at once."""
        try:
            return cls(**overrides)
        except ValidationError as error:
            problems: dict[str, str] = {}
            for issue in error.errors(include_url=False):
                field = str(issue["loc"][0])
                problems.setdefault(field.upper(), f"{reason(issue)}{cls._given(field, issue['input'])}")
            raise SettingsWrong(problems) from None
        except UnicodeDecodeError:
            raise SettingsWrong({".env.local": "It is not UTF-8 text"}) from None

    @classmethod
    def _given(cls, field: str, value: object) -> str:
        """The value as an error names it. What may be a secret is left out; so is the end of a long one."""
        known = cls.model_fields.get(field)
        if known is None or "Secret" in str(known.annotation):
            return ""
        text = repr(value)
        return f", not {text if len(text) <= 40 else text[:39] + '…'}"

    def has(self, name: str) -> bool:
        """Whether the setting of that environment name is set."""
        return bool(self._text(name))

    def require(self, needs: Iterable[tuple[str, str]]) -> None:
        """Check `(setting, what it is needed for)` pairs. Raises ConfigError naming all that are missing."""
        missing: dict[str, list[str]] = {}
        for name, purpose in needs:
            if not self.has(name):
                missing.setdefault(name, []).append(purpose)
        if missing:
            raise ConfigError(
                "Missing settings: "
                + "; ".join(
                    f"{name} (needed for {', '.join(dict.fromkeys(why))})" for name, why in missing.items()
                )
                + ". Set them in the environment or in .env.local."
            )

    def secret(self, name: str) -> str:
        """The value of a secret setting, e.g. `settings.secret("FAL_KEY")`. Raises ConfigError if unset."""
        value = self._text(name)
        if not value:
            raise ConfigError(f"{name} is not set. Set it in the environment or in .env.local.")
        return value

    def value(self, name: str, default: str = "") -> str:
        """The text of any setting, also of one that only a plugin knows (`ACME_BASE_URL`), else `default`."""
        return self._text(name) or default

    def for_type(self, short_name: str, name: str) -> int | None:
        """`MAX_CONCURRENT_JOBS` or `RETRY_DELAY_MS` for a type; its own (`TTS_RETRY_DELAY_MS`) wins."""
        specific = f"{short_name.upper()}_{name}"
        raw = self._unlisted(specific)
        if not raw:
            general: int | None = getattr(self, name.lower())
            return general
        try:
            value = int(raw)
        except ValueError:
            raise ConfigError(f"{specific} must be a whole number, not {raw!r}.") from None
        lowest = 1 if name == "MAX_CONCURRENT_JOBS" else 0
        if value < lowest:
            raise ConfigError(f"{specific} must be at least {lowest}, not {value}.")
        return value

    def _text(self, name: str) -> str:
        if name.lower() not in type(self).model_fields:
            return self._unlisted(name)
        value = getattr(self, name.lower())
        if isinstance(value, SecretStr):
            return value.get_secret_value()
        return "" if value is None else str(value)

    def _unlisted(self, name: str) -> str:
        """The text of a setting that is no field of this class: one of a job type, or a plugin's own."""
        return os.environ.get(name) or self._dotenv().get(name, "")

    def _dotenv(self) -> dict[str, str]:
        from dotenv import dotenv_values  # comes with pydantic-settings

        try:
            return {key: value for key, value in dotenv_values(".env.local").items() if value}
        except UnicodeDecodeError:  # `load` has said so
            return {}
