"""`dreamcuts providers`: list, limit, pause, resume, test."""

from __future__ import annotations

import difflib
import getpass
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from dreamcuts.cli import tables
from dreamcuts.cli.common import database_url, json_option, print_json
from dreamcuts.cli.costs import dollars
from dreamcuts.cli.moments import span
from dreamcuts.config import Settings
from dreamcuts.money import Money
from dreamcuts.providers.prices import priced_endpoints
from dreamcuts.providers.registry import load_providers

NONE = "none"


def calls(text: str) -> int | str:
    """A number of calls, or `none` for no limit. Raises BadParameter."""
    number = _number(text, whole=True)
    if number == 0:
        raise click.BadParameter(
            "0 would stop it. `dreamcuts providers pause` does that; `none` means no limit."
        )
    return number if isinstance(number, str) else int(number)


def dollars_a_day(text: str) -> float | str:
    """An amount, or `none` for no limit. Raises BadParameter."""
    return _number(text, whole=False)


def _number(text: str, *, whole: bool) -> float | str:
    if text.strip().lower() == NONE:
        return NONE
    try:
        number = int(text) if whole else float(text)
    except ValueError:
        what = "whole number" if whole else "number"
        raise click.BadParameter(f"{text!r} is no {what}. Give one, or `none` for no limit.") from None
    if number < 0 or not math.isfinite(number) or number >= 2**31:
        raise click.BadParameter(f"{text} cannot be a limit. Give a number above 0, or `none`.")
    return number


@click.group()
def providers() -> None:
    """List, limit, pause, resume and test providers, for all workers at once."""


@providers.command("list")
@json_option
def list_providers(as_json: bool) -> None:
    """List providers: their state, limits, and calls now.

    A provider is `slowed` after it answered 429, and recovers by one call at a time each minute; `paused` by
    a person, or by itself when it refused the account or failed five times in a row; `probing` when a pause
    is over and one call tries whether it is well again.
    """
    settings = Settings.load()
    with Money.connect(database_url(settings)) as money:
        states = {row["name"]: row for row in money.provider_states()}
        limits = money.endpoint_limits()
    rows = []
    for name in sorted({*load_providers(), *states}):
        known = load_providers().get(name)
        missing = [key for key in known.settings_needed if not settings.has(key)] if known else []
        rows.append(
            {"name": name, "state": "ok", **states.get(name, {}), "installed": known is not None}
            | {"missing_settings": missing, "endpoints": [row for row in limits if row["provider"] == name]}
        )
    if as_json:
        print_json(rows)
        return
    lines = [line for row in rows for line in (_line(row), *map(_endpoint_line, row["endpoints"]))]
    titles = ("PROVIDER", "STATE", "CONCURRENT", "PER MINUTE", "TODAY", "NOTE")
    tables.console().print(tables.rows_table(lines, {title: title for title in titles}))


@providers.command()
@click.argument("provider")
@click.option("--concurrent", type=calls, metavar="N|none", help="Calls at a time.")
@click.option("--per-minute", type=calls, metavar="N|none", help="Calls begun within a minute.")
@click.option("--daily-usd", type=dollars_a_day, metavar="USD|none", help="US dollars a day (UTC).")
@click.option("--endpoint", help="Limit this endpoint only, within the limits of its provider.")
@json_option
def limit(
    provider: str,
    concurrent: float | str | None,
    per_minute: float | str | None,
    daily_usd: float | str | None,
    endpoint: str | None,
    as_json: bool,
) -> None:
    """Limit calls to PROVIDER by all workers together. Takes effect with the next call; `none` lifts a limit.

    \b
        dreamcuts providers limit elevenlabs --concurrent 5 --per-minute 60
        dreamcuts providers limit fal --daily-usd 50
        dreamcuts providers limit fal --endpoint fal-ai/veo3.1/fast --concurrent 2
        dreamcuts providers limit elevenlabs --per-minute none
    """
    given = {"maxConcurrent": concurrent, "maxPerMinute": per_minute, "dailyLimitUsd": daily_usd}
    limits = {name: None if value == NONE else value for name, value in given.items() if value is not None}
    if not limits:
        raise click.UsageError("Say what to limit: --concurrent, --per-minute or --daily-usd.")
    if endpoint is not None and daily_usd is not None:
        raise click.UsageError("--daily-usd is for a whole provider: leave out --endpoint.")
    with Money.connect(database_url()) as money:
        _check_name(money, provider)
        if endpoint is not None:
            _check_endpoint(money, provider, endpoint)
        money.limit(provider, limits, endpoint)
        row = next(row for row in money.provider_states() if row["name"] == provider)
        endpoints = [row for row in money.endpoint_limits() if row["provider"] == provider]
    if as_json:
        print_json(row | {"endpoints": endpoints})
        return
    shown = next((one for one in endpoints if one["endpoint"] == endpoint), None) if endpoint else row
    what = f"{provider} {endpoint}" if endpoint else provider
    click.echo(f"{what}: {_limits_text(shown or {})}")


@providers.command()
@click.argument("provider")
@click.option(
    "--for", "length", type=span, metavar="TIME", help="So long (30m, 2h). Default: until it is resumed."
)
@click.option("--reason", default="paused by an operator", help="Shown with the jobs that wait.")
def pause(provider: str, length: timedelta | None, reason: str) -> None:
    """Let no new call go to PROVIDER. Its jobs stay pending; calls under way are finished."""
    until = None if length is None else datetime.now(UTC) + length
    with Money.connect(database_url()) as money:
        _check_name(money, provider)
        money.pause(provider, until=until, reason=reason, by=_user())
    click.echo(f"{provider} is paused {'until it is resumed' if until is None else _until(until)}")


@providers.command()
@click.argument("provider")
def resume(provider: str) -> None:
    """End the pause and the slow-down of PROVIDER; jobs that wait for it go on at once."""
    with Money.connect(database_url()) as money:
        _check_name(money, provider)
        jobs = money.resume(provider)
    click.echo(f"{provider} is resumed; waiting jobs that go on at once: {jobs}")


@providers.command()
@click.argument("provider", nargs=-1)
@json_option
def test(provider: tuple[str, ...], as_json: bool) -> None:
    """Try the key of each PROVIDER (default: all) with a call that costs nothing, and print what was found.

    Needs no database. Exit code 1 if one of them does not work. A provider that is paused stays so: see
    `dreamcuts providers resume`.
    """
    import anyio

    settings = Settings.load()
    names = provider or tuple(sorted(load_providers()))
    for name in names:
        if name not in load_providers():
            raise click.UsageError(_unknown(name, load_providers()))
    found = anyio.run(_test_all, names, settings)
    if as_json:
        print_json(found)
    for row in found if not as_json else ():
        took = f" ({row['milliseconds']} ms)" if row["milliseconds"] is not None else ""
        click.echo(f"{row['name']}: {'ok' if row['ok'] else 'FAILED'}: {row['found']}{took}")
    if not all(row["ok"] for row in found):
        raise click.exceptions.Exit(1)


async def _test_all(names: tuple[str, ...], settings: Settings) -> list[dict[str, Any]]:
    import anyio

    from dreamcuts.providers.checks import check_key

    found: dict[str, dict[str, Any]] = {}

    async def one(name: str) -> None:
        found[name] = await check_key(name, settings)

    async with anyio.create_task_group() as tasks:
        for name in names:
            tasks.start_soon(one, name)
    return [found[name] for name in names]


def _check_name(money: Money, name: str) -> None:
    """Raises UsageError for a provider that is neither installed here nor known to the database."""
    known = {*load_providers(), *(row["name"] for row in money.provider_states())}
    if name not in known:
        raise click.UsageError(_unknown(name, known))


def _check_endpoint(money: Money, provider: str, endpoint: str) -> None:
    """Raises UsageError for an endpoint that no job calls: its limit would never hold anything back.

    What a plugin's job type called before, and what has a limit already, is known too. Of a provider that
    DreamCuts does not bring along, any endpoint is taken.
    """
    known = set(priced_endpoints(provider))
    if not known:
        return
    if provider == "fal":
        from dreamcuts.jobs import image, lipsync, video

        for module in (image, lipsync, video):
            known.update(module.CATALOGUE.models.values())
    known.update(row["endpoint"] for row in money.endpoint_limits() if row["provider"] == provider)
    if endpoint in known or any(row["key"] == f"{provider} {endpoint}" for row in money.costs("endpoint")):
        return
    raise click.UsageError(_unknown(endpoint, known, f"endpoint of {provider}"))


def _unknown(name: str, known: Any, what: str = "provider") -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"There is no {what} {name!r}.{hint} Known: {', '.join(sorted(known))}."


def _line(row: dict[str, Any]) -> dict[str, str]:
    notes = []
    if not row["installed"]:
        notes.append("not installed here")
    if row["missing_settings"]:
        notes.append(f"{', '.join(row['missing_settings'])} not set here")
    if row["state"] in ("paused", "probing"):
        until = row["paused_until"]
        when = "until it is resumed" if until is None else _until(until)
        notes.append(f"{when}, by {row['paused_by']}: {row['pause_reason']}")
    today, daily = row.get("today_usd"), row.get("daily_limit_usd")
    return {
        "PROVIDER": row["name"],
        "STATE": row["state"],
        "CONCURRENT": _of(row.get("open_calls"), row.get("concurrent_now"), row.get("max_concurrent")),
        "PER MINUTE": _of(row.get("calls_last_minute"), row.get("max_per_minute")),
        "TODAY": ""
        if today is None
        else dollars(today) + (f" of {dollars(daily)}" if daily is not None else ""),
        "NOTE": "; ".join(notes),
    }


def _endpoint_line(row: dict[str, Any]) -> dict[str, str]:
    return {
        "PROVIDER": f"  {row['endpoint']}",
        "STATE": "",
        "CONCURRENT": _of(row["open_calls"], row["max_concurrent"]),
        "PER MINUTE": "" if row["max_per_minute"] is None else f"of {row['max_per_minute']}",
        "TODAY": "",
        "NOTE": "",
    }


def _of(now: int | None, limit: int | None, configured: int | None = None) -> str:
    if now is None:
        return ""
    text = str(now) if limit is None else f"{now} of {limit}"
    return text if configured is None or configured == limit else f"{text} (limit {configured})"


def _limits_text(row: dict[str, Any]) -> str:
    parts = []
    if row.get("max_concurrent") is not None:
        parts.append(f"{row['max_concurrent']} calls at a time")
    if row.get("max_per_minute") is not None:
        parts.append(f"{row['max_per_minute']} calls a minute")
    if row.get("daily_limit_usd") is not None:
        parts.append(f"{dollars(row['daily_limit_usd'])} a day")
    return ", ".join(parts) or "no limit"


def _until(moment: datetime) -> str:
    return f"until {moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a user database
        return "operator"
