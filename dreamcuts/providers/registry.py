"""Finding plugins: providers and job types come from entry points, the built-in ones like anyone's.

A package adds a provider with

    [project.entry-points."dreamcuts.providers"]
    acme = "acme_dreamcuts:AcmeProvider"

A plugin that cannot be loaded is named in one warning and left out; it never stops the others.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, cast

from dreamcuts.config import Settings
from dreamcuts.errors import ConfigError
from dreamcuts.providers.base import Provider

GROUP = "dreamcuts.providers"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Broken:
    """A plugin that could not be loaded: its name, the distribution it is from, and why."""

    name: str
    distribution: str
    reason: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a group of entry points gave."""

    plugins: dict[str, Any]
    broken: tuple[Broken, ...] = ()


def load_group(
    points: Iterable[EntryPoint], *, make: Callable[[EntryPoint], Any] = EntryPoint.load
) -> Loaded:
    """Load entry points by name. Of two with one name the first stays, and the other is reported."""
    plugins: dict[str, Any] = {}
    broken: list[Broken] = []
    for point in points:
        distribution = point.dist.name if point.dist else "unknown"
        if point.name in plugins:
            reason = "another plugin of that name was found first"
            broken.append(Broken(point.name, distribution, reason))
            continue
        try:
            plugins[point.name] = make(point)
        except (Exception, SystemExit) as error:  # a plugin may fail in any way; it must not stop the worker
            broken.append(Broken(point.name, distribution, f"{type(error).__name__}: {error}"))
    for plugin in broken:
        log.warning("Plugin %s of %s is left out: %s", plugin.name, plugin.distribution, plugin.reason)
    return Loaded(plugins, tuple(broken))


@cache
def load_providers() -> dict[str, type[Provider]]:
    """All providers by name. Loaded once a process; broken plugins are left out with a warning."""
    return dict(load_group(built_in_first(GROUP), make=_provider_class).plugins)


def make_provider(name: str, settings: Settings) -> Provider:
    """Make the provider registered under `name`.

    Raises ConfigError if there is none of that name, or if a setting that it needs is missing.
    """
    factory = load_providers().get(name)
    if factory is None:
        known = ", ".join(sorted(load_providers())) or "none"
        raise ConfigError(f"No provider is registered under {name!r}. Registered: {known}.")
    settings.require((needed, f"the provider {name}") for needed in factory.settings_needed)
    return factory.from_settings(settings)


def provider_settings() -> list[str]:
    """The names of the settings that any of the loaded providers needs, plugins' own too: mostly keys."""
    return sorted({needed for provider in load_providers().values() for needed in provider.settings_needed})


def provider_problems(candidate: Any) -> list[str]:
    """What keeps an object from being a provider's class, in words; empty if it is one."""
    if not isinstance(candidate, type):
        return [f"it is no class, but {candidate!r}"]
    cls: Any = candidate
    needed = ("name", "settings_needed", "from_settings", "aclose")
    if missing := [name for name in needed if not hasattr(cls, name)]:
        return [f"it has no {', '.join(missing)}"]
    problems = []
    if not isinstance(cls.name, str) or not cls.name:
        problems.append(f"name must be a str, not {cls.name!r}")
    settings = cls.settings_needed
    if not isinstance(settings, tuple) or not all(isinstance(name, str) for name in settings):
        problems.append(f"settings_needed must be a tuple of str, not {settings!r}")
    if not inspect.iscoroutinefunction(cls.aclose):
        problems.append("aclose must be an async method")
    return problems


def _provider_class(point: EntryPoint) -> type[Provider]:
    candidate = point.load()
    if problems := provider_problems(candidate):
        raise TypeError(f"{point.value} is no provider: {'; '.join(problems)}")
    if candidate.name != point.name:
        raise ValueError(f"it is registered as {point.name!r}, but its class is named {candidate.name!r}")
    return cast(type[Provider], candidate)


def built_in_first(group: str) -> list[EntryPoint]:
    """The group's entry points; DreamCuts' own come first, so that no plugin takes their names unseen."""
    return sorted(
        entry_points(group=group), key=lambda point: (not point.value.startswith("dreamcuts."), point.name)
    )
