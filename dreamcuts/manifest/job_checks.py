"""What is wrong with the jobs of a manifest: their shape, their dependencies, the templates they use."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dreamcuts.manifest.assets import PRODUCES
from dreamcuts.manifest.decompose import LIPSYNC, JobSpec, given_job
from dreamcuts.manifest.model import Manifest

PLACEHOLDER = re.compile(r"\{\{\s*(job_result|asset_url)\s*:\s*([^{}]+?)\s*\}\}")

_SHAPES = (
    ("payload", Mapping, "an object"),
    ("dependsOn", list, "a list of job ids"),
    ("depends_on", list, "a list of job ids"),
    ("retryPolicy", Mapping, "an object"),
    ("retry_policy", Mapping, "an object"),
    ("metadata", Mapping, "an object"),
)


@dataclass(frozen=True, slots=True)
class ListedJob:
    """A job, its place in the list, and which of its fields were left out because they cannot be read."""

    number: int
    spec: JobSpec
    unread: frozenset[str] = frozenset()

    @property
    def where(self) -> str:
        """The job as problems name it."""
        return f"jobs[{self.number}] {self.spec.job_id}"


def read_jobs(entries: Sequence[Any], problems: list[str]) -> list[ListedJob]:
    """The jobs of a list, each without the fields that are of the wrong shape; those go to `problems`."""
    listed = []
    for number, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            problems.append(f"jobs[{number}] is {show(entry)}; write an object with id, type and payload.")
            continue
        unread = {
            name: what
            for name, kind, what in _SHAPES
            if entry.get(name) is not None
            and not (
                isinstance(entry[name], kind)
                and (kind is not list or all(isinstance(job_id, str) for job_id in entry[name]))
            )
        }
        problems += [
            f"jobs[{number}].{name} is {show(entry[name])}; write {what}." for name, what in unread.items()
        ]
        read = {name: value for name, value in entry.items() if name not in unread}
        listed.append(ListedJob(number, given_job(read), frozenset(unread)))
    return listed


def job_problems(listed: Sequence[ListedJob]) -> Iterable[str]:
    """Ids, types, attempts, dependencies that lead nowhere or in a circle."""
    yield from duplicates("jobs[].id", (job.spec.job_id for job in listed if job.spec.job_id))
    links = _links(listed)
    for job in listed:
        spec = job.spec
        if not spec.job_id:
            yield f"jobs[{job.number}].id is missing; every job needs one of its own."
        if not spec.type:
            yield f"{job.where}.type is missing; e.g. tts_elevenlabs."
        if not isinstance(spec.max_attempts, int) or spec.max_attempts < 1:
            yield f"{job.where}.maxAttempts is {show(spec.max_attempts)}; write 1 or more."
        for name in spec.depends_on:
            if name not in links:
                yield (
                    f"{job.where}.dependsOn names {show(name)}, which is not a job of this "
                    f"manifest ({names(links)}); add that job or drop the dependency."
                )
    for cycle in _cycles(links):
        yield f"jobs depend on each other in a circle: {' -> '.join(cycle)}; drop one of these dependencies."


def _links(listed: Sequence[ListedJob]) -> dict[str, list[str]]:
    """What each job waits for. Jobs of one id are taken together, so that they hide no circle."""
    links: dict[str, list[str]] = {}
    for job in listed:
        links.setdefault(job.spec.job_id, []).extend(job.spec.depends_on)
    return links


def _cycles(links: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Circles among the dependencies, one for each knot; found by depth-first search without recursion."""
    done: set[str] = set()
    cycles = []
    for root in links:
        path: list[str] = []
        stack: list[tuple[str, bool]] = [(root, False)]
        while stack:
            name, leaving = stack.pop()
            if leaving:
                path.pop()
                done.add(name)
            elif name in path:
                cycles.append([*path[path.index(name) :], name])
            elif name not in done:
                path.append(name)
                stack.append((name, True))
                stack += [(other, False) for other in links[name] if other in links]
    return cycles


def placeholder_problems(
    model: Manifest, listed: Sequence[ListedJob], makers_known: bool = True
) -> Iterable[str]:
    """Templates that could never be resolved, or that could be reached before what they name is made.

    Without `makers_known`, a job that cannot be read may make any asset.
    """
    links = _links(listed)
    specs = [job.spec for job in listed]
    for job in listed:
        waits_for = _ancestors(job.spec, links)
        for field, kind, name in _placeholders(job.spec):
            where = f"{job.where}.payload.{field}"
            makers = {one.job_id for one in specs if any(one.payload.get(key) == name for key in PRODUCES)}
            asset = model.assets.get(name)
            if kind == "asset_url" and asset is not None and asset.origin_url:
                continue
            makers = makers if kind == "asset_url" else {name} & set(links)
            if not makers and kind == "asset_url" and not makers_known:
                continue
            if not makers:
                options = links if kind == "job_result" else model.assets
                what = "job" if kind == "job_result" else "asset that a job makes or a user brought"
                yield f"{where} names {name!r}, which is no {what} ({names(options)}); correct the name."
            elif not makers & waits_for and not job.unread & {"dependsOn", "depends_on"}:
                yield (
                    f"{where} needs what {names(sorted(makers))} makes, but dependsOn does not name it; "
                    "add it, or the job may run too early."
                )


def _placeholders(spec: JobSpec) -> list[tuple[str, str, str]]:
    """(field, kind, name) of every template and stand-in in a payload."""

    def walk(value: Any, field: str) -> Iterable[tuple[str, str, str]]:
        if isinstance(value, str):
            yield from ((field, match[1], match[2]) for match in PLACEHOLDER.finditer(value))
        elif isinstance(value, Mapping):
            for key, item in value.items():
                yield from walk(item, f"{field}.{key}" if field else str(key))
        elif isinstance(value, list):
            for number, item in enumerate(value):
                yield from walk(item, f"{field}[{number}]")

    found = list(walk(spec.payload, ""))
    if spec.type == LIPSYNC:
        for key, url_key, kind in (
            ("audioJobId", "audioUrl", "job_result"),
            ("videoAssetId", "videoUrl", "asset_url"),
        ):
            name = spec.payload.get(key)
            if name and not spec.payload.get(url_key):
                found.append((key, kind, str(name)))
    return found


def _ancestors(spec: JobSpec, links: Mapping[str, Sequence[str]]) -> set[str]:
    seen: set[str] = set()
    todo = list(spec.depends_on)
    while todo:
        name = todo.pop()
        if name not in seen and name in links:
            seen.add(name)
            todo += links[name]
    return seen


def duplicates(where: str, given: Iterable[str]) -> Iterable[str]:
    """Names that are used more than once."""
    for name, count in Counter(given).items():
        if count > 1:
            yield f"{where} {name!r} is used {count} times; give each its own."


def names(given: Iterable[str], limit: int = 12) -> str:
    """A list of names for a problem's text."""
    listed = list(given)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return (", ".join(listed[:limit]) or "there is none") + more


def show(value: Any) -> str:
    """A value for a problem's text."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
