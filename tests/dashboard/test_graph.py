"""The layout of a manifest's jobs."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dreamcuts.server.dashboard.graph import NODE_HEIGHT, NODE_WIDTH, draw


def job(name: str, *depends_on: str, ms: int | None = 1000, status: str = "completed") -> dict[str, Any]:
    return {
        "job_id": name,
        "type": "t",
        "status": status,
        "depends_on": list(depends_on),
        "processing_time_ms": ms,
    }


def test_dependencies_stand_to_the_left_and_the_longest_chain_is_critical() -> None:
    graph = draw(
        [
            job("render", "lips", "music"),
            job("lips", "tts", ms=4000),
            job("tts", ms=2000),
            job("music", ms=5000),
        ],
        {},
    )
    at = {node.job["job_id"]: node for node in graph.nodes}
    assert at["tts"].x == at["music"].x < at["lips"].x < at["render"].x
    assert graph.critical == ["tts", "lips", "render"]
    assert graph.critical_ms == 7000
    assert [edge.critical for edge in graph.edges] == [False, True, True]
    assert {name for name, node in at.items() if node.critical} == {"tts", "lips", "render"}


def test_jobs_to_come_count_with_their_history_and_dead_ones_with_nothing() -> None:
    graph = draw([job("a", ms=None, status="pending"), job("b", "a", ms=90, status="failed")], {"t": 300.0})
    assert graph.critical_ms == 300
    graph = draw([job("a", ms=500, status="processing")], {"t": 300.0})
    assert graph.critical_ms == 500


def test_a_missing_dependency_a_cycle_and_no_jobs_are_drawn_all_the_same() -> None:
    assert draw([], {}).nodes == []
    graph = draw([job("a", "b", "a"), job("b", "a"), job("c", "never_made")], {})
    assert {node.job["job_id"] for node in graph.nodes} == {"a", "b", "c"}
    assert len(graph.edges) == 2


@given(st.integers(1, 40), st.data())
def test_no_two_jobs_stand_on_each_other(number: int, data: st.DataObject) -> None:
    jobs = [
        job(f"j{i}", *data.draw(st.lists(st.sampled_from([f"j{k}" for k in range(i)]), max_size=3)))
        if i
        else job("j0")
        for i in range(number)
    ]
    graph = draw(jobs, {})
    boxes = sorted((node.x, node.y) for node in graph.nodes)
    assert len(boxes) == number
    for (x1, y1), (x2, y2) in pairwise(boxes):
        assert x2 - x1 >= NODE_WIDTH or (x1 == x2 and y2 - y1 >= NODE_HEIGHT)
    assert all(0 <= x <= graph.width - NODE_WIDTH and 0 <= y <= graph.height - NODE_HEIGHT for x, y in boxes)
