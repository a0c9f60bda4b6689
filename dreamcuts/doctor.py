"""Checks of everything that a worker needs, each with the way out: what `dreamcuts doctor` prints.

    findings = anyio.run(examine, settings, load_job_types().values())
    broken = [finding for finding in findings if finding.level is Level.FAILURE]

Nothing here costs money or touches a job. The storage check writes one small file, always the same.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import anyio
import anyio.to_thread
import httpx

from dreamcuts.config import Settings
from dreamcuts.doctor_database import database_findings
from dreamcuts.doctor_settings import settings_findings
from dreamcuts.errors import ConfigError, StorageError
from dreamcuts.findings import Finding, Level, failure, fine, warning
from dreamcuts.jobs.base import JobType
from dreamcuts.log import Redactor, known_secrets
from dreamcuts.providers.checks import check_key
from dreamcuts.providers.registry import load_providers
from dreamcuts.storage import open_storage

CHECKS = ("settings", "keys", "database", "storage", "disk")
STORED_AS = "doctor/check.txt"
GIB = 2**30
LITTLE_SPACE = 5 * GIB
NO_SPACE = GIB // 2


async def examine(
    settings: Settings,
    job_types: Iterable[JobType],
    checks: Sequence[str] = CHECKS,
    wrong: Mapping[str, str] | None = None,
) -> list[Finding]:
    """Run the checks, those of `checks`, for a worker of these types; returns what was found, in their order.

    `wrong` are settings that could not be read (`SettingsWrong.problems`): each is a failure, whatever is
    checked besides. Never raises for what is wrong with the set-up.
    """
    served = list(job_types)
    found: dict[str, list[Finding]] = {}

    async def one(check: str) -> None:
        match check:
            case "settings":
                found[check] = await anyio.to_thread.run_sync(
                    lambda: list(settings_findings(settings, served, wrong or {}))
                )
            case "keys":
                found[check] = await _keys(settings, served)
            case "database":
                found[check] = await _database(settings)
            case "storage":
                found[check] = await _storage(settings)
            case "disk":
                found[check] = list(_disk(settings))
            case _:
                raise ValueError(f"no check is called {check!r}")

    async with anyio.create_task_group() as tasks:
        for check in checks:
            tasks.start_soon(one, check)
    redact = Redactor(known_secrets(settings))
    return [
        Finding(finding.check, finding.level, redact(finding.text), redact(finding.way_out))
        for check in checks
        for finding in found[check]
    ]


def worst(findings: Iterable[Finding]) -> Level:
    """The worst of what was found."""
    levels = {finding.level for finding in findings}
    return next((level for level in (Level.FAILURE, Level.WARNING) if level in levels), Level.OK)


async def _keys(settings: Settings, job_types: list[JobType]) -> list[Finding]:
    """The key of each provider that the types use: set, and accepted by the provider."""
    installed = load_providers()
    users: dict[str, list[str]] = {}
    needed: set[str] = set()
    for job_type in job_types:
        for place, name in enumerate(job_type.providers):
            if name in installed:
                users.setdefault(name, []).append(job_type.short_name)
                if place == 0:
                    needed.add(name)
    findings: dict[str, Finding] = {}

    async def one(name: str) -> None:
        used = ", ".join(users[name])
        missing = [key for key in installed[name].settings_needed if not settings.has(key)]
        if missing:
            say = failure if name in needed else warning
            way_out = f"Set {' and '.join(missing)} in the environment or in .env.local."
            findings[name] = say(f"key {name}", f"{', '.join(missing)} is not set (for {used}).", way_out)
            return
        row = await check_key(name, settings)
        if row["ok"]:
            findings[name] = fine(f"key {name}", f"{row['found']} (for {used})")
        elif row["class"] in ("auth", "quota"):
            way_out = f"Mend the account or its key, then: dreamcuts providers resume {name}"
            findings[name] = failure(f"key {name}", f"{row['found']}", way_out)
        else:
            way_out = f"Try again: dreamcuts providers test {name}. Jobs are retried until it answers."
            findings[name] = warning(f"key {name}", f"{row['found']}", way_out)

    async with anyio.create_task_group() as tasks:
        for name in users:
            tasks.start_soon(one, name)
    return [findings[name] for name in users]


async def _database(settings: Settings) -> list[Finding]:
    if not settings.has("DATABASE_URL"):
        return [
            failure("database", "DATABASE_URL is not set.", "Set it in the environment or in .env.local.")
        ]
    return await database_findings(settings.secret("DATABASE_URL"))


async def _storage(settings: Settings) -> list[Finding]:
    """Write a file as a job would, and read it back from its public URL as a provider would."""
    try:
        storage = open_storage(settings)
    except ConfigError as error:
        return [failure("storage", str(error), "Set one of them in the environment or in .env.local.")]
    token = uuid.uuid4().hex
    try:
        with tempfile.TemporaryDirectory(prefix="dreamcuts-doctor-") as folder:
            source = Path(folder) / "check.txt"
            source.write_text(token)
            try:
                asset = await storage.save(STORED_AS, source, "text/plain")
            except StorageError as error:
                return [
                    failure("storage", str(error), "See the message; nothing can be finished without it.")
                ]
    finally:
        await storage.aclose()
    return [fine("storage", f"{asset.path} was written"), await _public_read(settings, asset.url, token)]


async def _public_read(settings: Settings, url: str, token: str) -> Finding:
    place = url.partition("?")[0]
    way_out = "Providers fetch files from there: make the bucket public, or its address reachable."
    say = failure
    if settings.storage_dir is not None:
        way_out = (
            "Let something serve STORAGE_DIR at STORAGE_BASE_URL: a worker with ENABLE_HEALTH_CHECK does."
        )
        say = warning  # the server may be the worker that is not running yet
    fresh = url + ("&" if "?" in url else "?") + f"fresh={token}"  # past any cache
    try:
        async with httpx.AsyncClient(timeout=15, follow_redirects=True) as client:
            answer = await client.get(fresh)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return say("public read", f"{place} cannot be read: {str(error) or type(error).__name__}.", way_out)
    if answer.status_code != 200:
        return say("public read", f"{place} answers {answer.status_code}.", way_out)
    if answer.text != token:
        return say("public read", f"{place} gives something else than what was written.", way_out)
    if httpx.URL(url).host in ("127.0.0.1", "localhost", "::1"):
        return warning(
            "public read",
            f"{place} can be read here, and nowhere else.",
            "Providers outside cannot fetch it.",
        )
    return fine("public read", f"{place} gives what was written")


def _disk(settings: Settings) -> Iterator[Finding]:
    places = {"temporary files": Path(tempfile.gettempdir())}
    if settings.storage_dir is not None:
        places["STORAGE_DIR"] = settings.storage_dir
    for name, place in places.items():
        there = next((folder for folder in (place, *place.resolve().parents) if folder.exists()), Path("/"))
        free = shutil.disk_usage(there).free
        text = f"{free / GIB:.1f} GiB free for {name} ({place})"
        way_out = "Make room. A video job needs up to twice MAX_DOWNLOAD_MB while it runs."
        if free < NO_SPACE:
            yield failure("disk", text, way_out)
        elif free < LITTLE_SPACE:
            yield warning("disk", text, way_out)
        else:
            yield fine("disk", text)
