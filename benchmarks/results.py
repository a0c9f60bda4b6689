"""The figures of a run, as they are kept in docs/benchmarks/results.json and read by the report."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Runs = dict[str, list[float]]


@dataclass
class Line:
    """One queue with one set of settings. `runs` are the figures of every run, by measure."""

    key: str
    title: str
    system: str
    version: str
    settings: str
    jobs: int
    runs: Runs = field(default_factory=dict)
    failure: str | None = None

    def add(self, measure: str, value: float | None) -> None:
        """Note the figure of one run."""
        if value is not None:
            self.runs.setdefault(measure, []).append(value)

    def median(self, measure: str) -> float | None:
        """The median of the runs; None if there is none."""
        values = self.runs.get(measure)
        return statistics.median(values) if values else None

    @property
    def kind(self) -> str:
        """limit, own or peer."""
        return {"bare": "limit", "dreamcuts": "own"}.get(self.system, "peer")


@dataclass
class Table:
    """Figures of DreamCuts alone: what was measured, in words, and rows under headings."""

    title: str
    text: str
    head: list[str]
    rows: list[list[str]]


@dataclass
class Results:
    """A whole run: where and when, a line for each queue, and what was not measured, and why."""

    about: dict[str, str]
    lines: list[Line] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    depth: dict[str, Any] | None = None
    own: list[Table] = field(default_factory=list)
    busy: bool = False  # others used the machine: the figures compare nothing

    def save(self, file: Path) -> None:
        """Write the figures of every run."""
        file.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", "utf-8")

    @classmethod
    def load(cls, file: Path) -> Results:
        """Read what `save` wrote."""
        value = json.loads(file.read_text("utf-8"))
        lines = [Line(**line) for line in value.pop("lines")]
        own = [Table(**table) for table in value.pop("own", [])]
        return cls(**value, lines=lines, own=own)


def percentile(values: list[float], share: float) -> float:
    """The value that `share` of the values do not exceed, by linear interpolation."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
