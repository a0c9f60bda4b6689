"""The doctor's checks of the settings: what `dreamcuts work` would refuse, and what does not fit together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import httpx

from dreamcuts.config import Settings
from dreamcuts.errors import ConfigError
from dreamcuts.findings import Finding, failure, fine, warning
from dreamcuts.jobs.base import JobType
from dreamcuts.log import known_level
from dreamcuts.server.beside import health_port, span_exporter
from dreamcuts.server.serve import listen

OF_A_TYPE = ("MAX_CONCURRENT_JOBS", "RETRY_DELAY_MS")


def settings_findings(
    settings: Settings, job_types: Sequence[JobType], wrong: Mapping[str, str]
) -> Iterator[Finding]:
    """What is wrong with the settings, each by itself. `wrong` are those that could not be read at all."""
    found = [
        *(failure("settings", f"{name}: {what}.", _way_out(name)) for name, what in wrong.items()),
        *_refused(settings, job_types),
        *_unwise(settings),
    ]
    if not found:
        where = ".env.local and the environment" if Path(".env.local").is_file() else "the environment"
        found = [fine("settings", f"read from {where}")]
    yield from found
    if settings.enable_health_check and "HEALTH_CHECK_PORT" not in wrong:
        yield _health_port(settings, [job_type.short_name for job_type in job_types])


def without_wrong(wrong: Mapping[str, str]) -> Settings:
    """The settings with each of the `wrong` ones at its default, so that the other checks can go on."""
    fields = Settings.model_fields
    defaults = {name.lower(): fields[name.lower()].default for name in wrong if name.lower() in fields}
    return Settings.load(**defaults, **({} if len(defaults) == len(wrong) else {"_env_file": None}))


def _way_out(name: str) -> str:
    field = Settings.model_fields.get(name.lower())
    if field is None:
        return "Save it as UTF-8."
    default = "" if field.default is None else f": then it is {field.default}"
    return f"Mend it ({field.description}), or unset it{default}."


def _refused(settings: Settings, job_types: Sequence[JobType]) -> Iterator[Finding]:
    """What can be read, and what `work` refuses all the same. Asked of the code that it asks."""
    try:
        known_level(settings.log_level)
    except ConfigError as error:
        yield failure("settings", str(error), _way_out("LOG_LEVEL"))
    seen: set[str] = set()
    for job_type in job_types:
        for name in OF_A_TYPE:
            try:
                settings.for_type(job_type.short_name, name)
            except ConfigError as error:
                if str(error) not in seen:
                    own = f"{job_type.short_name.upper()}_{name}"
                    yield failure("settings", str(error), f"Mend {own}, or unset it: then {name} counts.")
                seen.add(str(error))
    try:
        span_exporter(settings)
    except ConfigError as error:
        way_out = 'pip install "dreamcuts[otel]", or unset OTEL_EXPORTER_OTLP_ENDPOINT.'
        yield failure("settings", str(error).split(". ")[0] + ".", way_out)


def _unwise(settings: Settings) -> Iterator[Finding]:
    if settings.heartbeat_s * 3 > settings.lease_s:
        yield warning(
            "settings",
            f"HEARTBEAT_S={settings.heartbeat_s:g} leaves fewer than three heartbeats in LEASE_S="
            f"{settings.lease_s:g}: one that is late may cost a worker its jobs.",
            f"Set LEASE_S to {settings.heartbeat_s * 4:g} or more.",
        )
    if settings.allow_private_urls:
        yield warning(
            "settings",
            "ALLOW_PRIVATE_URLS is on: a payload can make workers read from your network.",
            "It is meant for the sandbox. Unset it.",
        )
    if not settings.enable_workers:
        yield warning(
            "settings", "ENABLE_WORKERS is false: workers start and claim nothing.", "Unset ENABLE_WORKERS."
        )


def _health_port(settings: Settings, types: Sequence[str]) -> Finding:
    """Whether a worker of these types could have its port, or has it already."""
    host, port = settings.health_check_host, health_port(settings, types)
    where = f"{host}:{port}"
    try:
        listen(host, port).close()
    except ConfigError as error:
        if _is_ours(host, port):
            return fine("health port", f"a worker serves on {where}; another one here needs another port")
        text, _, way_out = str(error).partition(". ")
        return failure("health port", f"{text}.", way_out)
    one = len(types) > 1 and port
    return fine("health port", f"{where} is free{', for one worker process on this machine' if one else ''}")


def _is_ours(host: str, port: int) -> bool:
    # 0.0.0.0 is what a worker may listen on, and is not asked.
    reached = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    with contextlib.suppress(httpx.HTTPError, httpx.InvalidURL, ValueError):
        answer = httpx.get(f"http://{reached}:{port}/health", timeout=3, trust_env=False).json()
        return isinstance(answer, dict) and "totalActiveJobs" in answer
    return False
