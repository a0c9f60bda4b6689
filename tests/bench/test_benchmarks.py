"""`make bench` in small: the harness runs, and the report says what was measured. No figure is judged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.report import write_report
from benchmarks.results import Line, Results, percentile
from benchmarks.svg import Group, bar_chart, figure

REPOSITORY = Path(__file__).resolve().parents[2]
ABOUT = {"date": "2026-01-02 10:00 UTC", "machine": "2 cores", "postgres": "17.1; fsync on", "python": "3.12"}


def line(key: str, title: str, **runs: list[float]) -> Line:
    return Line(key, title, key.split("_")[0], "1.0", "as they come", 100, dict(runs))


def test_the_harness_measures_a_queue_and_writes_the_report(tmp_path: Path) -> None:
    arguments = ["--rounds", "1", "--scale", "0.002", "--only", "bare,dreamcuts", "--shared-buffers", "16MB"]
    depth = ["--depth", "--depth-jobs", "2000", "--depth-seconds", "0.4"]
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
