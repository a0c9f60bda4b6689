"""A manifest's jobs as a drawing: in layers from left to right, by what they wait for.

A job stands one layer after the last of its dependencies. Within a layer, jobs stand near those that they are
joined to, so that few lines cross. The critical path is the chain of jobs that takes longest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

NODE_WIDTH, NODE_HEIGHT = 204, 48
GAP_X, GAP_Y, MARGIN = 84, 10, 4
SWEEPS = 6
UNKNOWN_MS = 10_000.0


@dataclass(frozen=True, slots=True)
class Node:
    """A job in the drawing; `x` and `y` are its upper left corner."""

    job: Mapping[str, Any]
    x: int
    y: int
    critical: bool


@dataclass(frozen=True, slots=True)
class Edge:
    """A line from a dependency to what waits for it; `path` is SVG's."""

    path: str
    critical: bool
    met: bool


@dataclass(frozen=True, slots=True)
class Graph:
    """The drawing. `critical_ms` is how long the critical path takes, or is expected to."""

    nodes: list[Node]
    edges: list[Edge]
    width: int
    height: int
    critical: list[str]
    critical_ms: float


def draw(jobs: Sequence[Mapping[str, Any]], mean_ms: Mapping[str, float]) -> Graph:
    """Lay out jobs (job_id, type, status, depends_on, processing_time_ms); `mean_ms` by type is history."""
    by_id = {job["job_id"]: job for job in jobs}
    before = {
        name: [other for other in dict.fromkeys(job["depends_on"]) if other in by_id and other != name]
        for name, job in by_id.items()
    }
    order = _topological(before)
    layer: dict[str, int] = {}
    for name in order:
        layer[name] = max((layer[other] + 1 for other in before[name] if other in layer), default=0)
    critical, critical_ms = _critical(order, before, by_id, mean_ms)
    place = _place(order, before, layer)
    on_path = set(critical)
    steps = set(pairwise(critical))
    nodes = [Node(by_id[name], *place[name], name in on_path) for name in order]
    edges = [
        Edge(_line(place[other], place[name]), (other, name) in steps, by_id[other]["status"] == "completed")
        for name in order
        for other in before[name]
    ]
    edges.sort(key=lambda edge: edge.critical)  # drawn last, on top
    return Graph(
        nodes=nodes,
        edges=edges,
        width=max((x for x, _ in place.values()), default=0) + NODE_WIDTH + MARGIN,
        height=max((y for _, y in place.values()), default=0) + NODE_HEIGHT + MARGIN,
        critical=critical,
        critical_ms=critical_ms,
    )


def _topological(before: Mapping[str, list[str]]) -> list[str]:
    """Dependencies first. Jobs that wait for each other come last, as they are."""
    waits = {name: len(others) for name, others in before.items()}
    after: dict[str, list[str]] = {name: [] for name in before}
    for name, others in before.items():
        for other in others:
            after[other].append(name)
    order = [name for name, number in waits.items() if number == 0]
    for name in order:
        for following in after[name]:
            waits[following] -= 1
            if waits[following] == 0:
                order.append(following)
    found = set(order)
    return order + [name for name in before if name not in found]


def _critical(
    order: Sequence[str],
    before: Mapping[str, list[str]],
    by_id: Mapping[str, Mapping[str, Any]],
    mean_ms: Mapping[str, float],
) -> tuple[list[str], float]:
    """The chain that takes longest, and its length in milliseconds."""
    total: dict[str, float] = {}
    through: dict[str, str | None] = {}
    for name in order:
        longest = max(
            (other for other in before[name] if other in total), key=total.__getitem__, default=None
        )
        through[name] = longest
        total[name] = _work_ms(by_id[name], mean_ms) + (total[longest] if longest is not None else 0.0)
    if not total:
        return [], 0.0
    last: str | None = max(total, key=total.__getitem__)
    length = total[last] if last is not None else 0.0
    chain: list[str] = []
    while last is not None:
        chain.append(last)
        last = through[last]
    return chain[::-1], length


def _work_ms(job: Mapping[str, Any], mean_ms: Mapping[str, float]) -> float:
    expected = mean_ms.get(job["type"], UNKNOWN_MS)
    known = job["processing_time_ms"]
    if job["status"] == "completed" and known is not None:
        return float(known)
    if job["status"] == "processing" and known is not None:
        return max(float(known), expected)
    return 0.0 if job["status"] in ("failed", "cancelled") else expected


def _place(
    order: Sequence[str], before: Mapping[str, list[str]], layer: Mapping[str, int]
) -> dict[str, tuple[int, int]]:
    columns: list[list[str]] = [[] for _ in range(max(layer.values(), default=-1) + 1)]
    for name in order:
        columns[layer[name]].append(name)
    after: dict[str, list[str]] = {name: [] for name in before}
    for name, others in before.items():
        for other in others:
            after[other].append(name)
    for sweep in range(SWEEPS):
        rank = {name: i / max(len(column), 1) for column in columns for i, name in enumerate(column)}
        neighbours = before if sweep % 2 == 0 else after
        for column in columns:
            middle = {
                name: sum(rank[other] for other in neighbours[name]) / len(neighbours[name])
                if neighbours[name]
                else rank[name]
                for name in column
            }
            column.sort(key=middle.__getitem__)
            rank.update({name: i / max(len(column), 1) for i, name in enumerate(column)})
    tallest = max((len(column) for column in columns), default=0)
    step = NODE_HEIGHT + GAP_Y
    return {
        name: (
            MARGIN + number * (NODE_WIDTH + GAP_X),
            MARGIN + int((tallest - len(column)) * step / 2) + i * step,
        )
        for number, column in enumerate(columns)
        for i, name in enumerate(column)
    }


def _line(start: tuple[int, int], end: tuple[int, int]) -> str:
    x1, y1 = start[0] + NODE_WIDTH, start[1] + NODE_HEIGHT // 2
    x2, y2 = end[0], end[1] + NODE_HEIGHT // 2
    bend = max(GAP_X // 2, (x2 - x1) // 2)
    return f"M{x1} {y1}C{x1 + bend} {y1} {x2 - bend} {y2} {x2} {y2}"
