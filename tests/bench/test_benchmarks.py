"""`make bench` in small: the harness runs, and the report says what was measured. No figure is judged."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.assets import LARGE_MB, WORKER, large_assets, mp4_head, pass_on, wav_head
from benchmarks.graphs import fairness
from benchmarks.harness import Arena, BenchError, Server, bench_server, log_folder
from benchmarks.means import ready_workers
from benchmarks.own import enqueues, more_workers
from benchmarks.report import write_report
from benchmarks.results import Line, Results, percentile
from benchmarks.svg import Group, bar_chart, figure
from benchmarks.systems import DREAMCUTS
from dreamcuts.media import probe

REPOSITORY = Path(__file__).resolve().parents[2]
ABOUT = {"date": "2026-01-02 10:00 UTC", "machine": "2 cores", "postgres": "17.1; fsync on", "python": "3.12"}


def line(key: str, title: str, **runs: list[float]) -> Line:
    return Line(key, title, key.split("_")[0], "1.0", "as they come", 100, dict(runs))


def test_the_harness_measures_a_queue_and_writes_the_report(tmp_path: Path) -> None:
    arguments = ["--rounds", "1", "--scale", "0.002", "--only", "bare,dreamcuts", "--shared-buffers", "16MB"]
    depth = ["--depth", "--depth-jobs", "2000", "--depth-seconds", "0.4", "--steady", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments, *depth, "--docs", str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = Results.load(tmp_path / "benchmarks" / "results.json")
    assert [found.key for found in results.lines] == ["bare", "dreamcuts", "dreamcuts_tuned"]
    for found in results.lines:
        assert found.failure is None
        for measure in ("drain_1", "drain_2", "wal", "bulk", "single", "p50", "p95", "p99"):
            assert all(value > 0 for value in found.runs[measure]) and found.runs[measure], measure
    assert results.depth is not None and set(results.depth["rates"]) == {"plain", "around", "held"}
    steady = results.depth["steady"]
    assert len(steady["rates"]) == 10 and sum(steady["rates"]) > 0
    assert steady["least"] <= steady["ready"] == 4000
    text = (tmp_path / "benchmarks.md").read_text("utf-8")
    assert "fsync on, synchronous_commit on" in text
    for chart in ("drain", "pickup", "bulk", "single", "wal"):
        ElementTree.parse(tmp_path / "benchmarks" / f"{chart}.svg")


def test_the_report_shows_medians_and_says_where_a_peer_leads(tmp_path: Path) -> None:
    results = Results(
        dict(ABOUT),
        [
            line("bare", "bare", drain_1=[90_000.0], p50=[1.0]),
            line("dreamcuts", "DreamCuts, default settings", drain_1=[10.0, 3000.0, 2000.0], p50=[2.0]),
            line("pgboss", "pg-boss", drain_1=[30_000.0], p50=[250.0]),
        ],
        ["Chancy (not installed)"],
    )
    results.lines[2].failure = "a worker ended"
    write_report(results, tmp_path)
    text = (tmp_path / "benchmarks.md").read_text("utf-8")
    assert "| DreamCuts, default settings | 2,000 |" in text
    assert "| pg-boss | **30,000** |" in text, "the best is bold"
    assert "| bare | 90,000 |" in text, "the limit never is"
    assert "| Drain, one worker | 2,000 | 30,000 (pg-boss) | 90,000 | pg-boss leads |" in text
    assert "| Pickup, p50 | 2.00 | 250 (pg-boss) | 1.00 | DreamCuts leads |" in text
    assert "Not measured: Chancy (not installed)." in text
    assert "pg-boss failed: a worker ended." in text


@pytest.mark.parametrize("busy", [False, True])
def test_the_report_says_when_the_machine_was_busy(tmp_path: Path, busy: bool) -> None:
    write_report(Results(dict(ABOUT), [line("bare", "bare", drain_1=[1.0])], busy=busy), tmp_path)
    assert ("compare nothing" in (tmp_path / "benchmarks.md").read_text("utf-8")) is busy


@pytest.mark.parametrize(
    ("depth", "told"),
    [
        (None, set()),
        ({"jobs": 1000, "window": 5.0, "rates": {"held": [3000.0, 2000.0]}}, {"held"}),
        ({"steady": {"seconds": 60.0, "ready": 90_000, "least": 88_000, "rates": [5000.0] * 10}}, {"steady"}),
    ],
)
def test_the_report_has_the_depth_that_was_measured(
    tmp_path: Path, depth: dict[str, Any] | None, told: set[str]
) -> None:
    write_report(Results(dict(ABOUT), depth=depth), tmp_path)
    text = (tmp_path / "benchmarks.md").read_text("utf-8")
    assert ("## Depth" in text) is bool(told)
    rows = {"held": "| held | 3,000 | 2,000 |", "steady": "| steady |" + " 5,000 |" * 10}
    assert {name for name, row in rows.items() if row in text} == told
    assert ("for 60 s a producer keeps about 90,000 ready jobs" in text) is ("steady" in told)
    assert ("the fewest ready jobs were 88,000" in text) is ("steady" in told)


@pytest.fixture(scope="module")
def arena() -> Iterator[tuple[Server, Arena]]:
    """A server of the benchmark with DreamCuts in it."""
    with bench_server("16MB") as server, log_folder() as folder:
        made = Arena(server, DREAMCUTS, folder)
        yield server, made
        made.close()


def test_enqueueing_is_measured_in_three_ways(arena: tuple[Server, Arena]) -> None:
    table = enqueues(*arena, 0.01)
    assert len(table.rows) == 3
    for _, rate, microseconds in table.rows:
        jobs_a_second = int(rate.replace(",", ""))
        assert jobs_a_second * int(microseconds.replace(",", "")) == pytest.approx(1e6, rel=0.1)
    assert arena[1].unfinished() == 100, "those of the last way, and they are there"


def test_more_workers_are_held_against_one(arena: tuple[Server, Arena]) -> None:
    table = more_workers(*arena, 0.001)
    assert [row[0] for row in table.rows] == ["1", "2", "4"]
    assert table.rows[0][2] == "1.00"
    assert arena[1].unfinished() == 0


def test_a_warm_worker_gets_through_films_not_faster_than_they_can_be(arena: tuple[Server, Arena]) -> None:
    for film in fairness(*arena, 0.01).rows:
        _, best, took, _ = film
        assert float(took) >= float(best)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is read from /proc")
def test_a_large_asset_does_not_pass_through_a_workers_memory(arena: tuple[Server, Arena]) -> None:
    for file, before, peak, after, _ in large_assets(*arena, 1.0).rows:
        assert 0 < float(before) <= float(peak), file
        assert max(float(peak), float(after)) < float(before) + LARGE_MB / 4, file


def test_an_asset_that_cannot_be_stored_is_an_error_of_the_benchmark(arena: tuple[Server, Arena]) -> None:
    _, made = arena
    with ready_workers(made, WORKER, 1), pytest.raises(BenchError, match="could not be fetched"):
        pass_on(made, "http://127.0.0.1:1/video/1", "video")


def test_the_files_served_are_what_they_claim(tmp_path: Path) -> None:
    size = 2_000_044
    for head, content_type, seconds in (
        (wav_head, "audio/wav", 2_000_000 / 192_000),
        (mp4_head, "video/mp4", 60),
    ):
        file = tmp_path / "file"
        file.write_bytes(head(size))
        os.truncate(file, size)
        info = probe(file)
        assert info.content_type == content_type and info.duration == pytest.approx(seconds)


def test_one_that_is_far_off_does_not_flatten_the_others() -> None:
    text = bar_chart("", "", [""], [Group("a", [2.0]), Group("b", [4.0]), Group("far", [500.0])])
    root = ElementTree.fromstring(text)
    bars = [float(bar.get("width", "")) for bar in root.iter("{http://www.w3.org/2000/svg}rect")][1:]
    assert bars[0] > 100 and bars[1] == pytest.approx(2 * bars[0], rel=0.01) and bars[2] > bars[1]
    words = [str(word.text) for word in root.iter("{http://www.w3.org/2000/svg}text")]
    assert any("500" in word and "cut" in word for word in words)


def test_results_come_back_as_they_were_saved(tmp_path: Path) -> None:
    results = Results(dict(ABOUT), [line("bare", "bare", drain_1=[1.5])], ["x"], {"jobs": 1})
    results.save(tmp_path / "results.json")
    assert Results.load(tmp_path / "results.json") == results


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1.0), (0.5, 3.0), (0.95, 4.8), (1.0, 5.0)])
def test_percentile(share: float, expected: float) -> None:
    assert percentile([5.0, 1.0, 3.0, 2.0, 4.0], share) == pytest.approx(expected)


def test_a_bar_is_as_long_as_its_value_and_text_is_escaped() -> None:
    text = bar_chart(
        "a < b & c", "", ["x"], [Group("half", [5.0]), Group("all", [10.0]), Group("no", [None])]
    )
    root = ElementTree.fromstring(text)
    bars = [float(bar.get("width", "")) for bar in root.iter("{http://www.w3.org/2000/svg}rect")][1:]
    assert bars[1] == pytest.approx(2 * bars[0], rel=0.01)
    assert len(bars) == 2
    words = [word.text for word in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "a < b & c" in words


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (56_012.4, "56,012"), (253.4, "253"), (3.416, "3.42"), (0.0041, "0.0041")],
)
def test_figures_are_short(value: float | None, shown: str) -> None:
    assert figure(value) == shown
