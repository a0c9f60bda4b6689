"""Charts as jobs: what is asked for is what stands in the picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dreamcuts_charts.job import ChartJob
from dreamcuts_charts.provider import ChartsProvider
from PIL import Image

from dreamcuts.testing import JobRun

RED, GREEN, BLUE = (255, 0, 0), (0, 128, 0), (0, 0, 255)


@pytest.fixture
def chart(run_dreamcuts_job: Callable[..., JobRun], tmp_path: Path) -> Callable[..., JobRun]:
    """`chart({...payload...}, ...)` runs one job."""

    def run(payload: dict[str, Any], **options: Any) -> JobRun:
        settings = {"CHARTS_DIR": tmp_path / "charts"}
        return run_dreamcuts_job(
            ChartJob(), payload, providers=[ChartsProvider], settings=settings, **options
        )

    return run


def points(*values: Any) -> list[dict[str, Any]]:
    return [{"label": f"Number {number}", "value": value} for number, value in enumerate(values)]


def pixels(run: JobRun) -> Counter[tuple[int, ...]]:
    assert run.file is not None, run.error_message
    with Image.open(run.file) as picture:
        assert picture.format == "PNG"
        image = picture.convert("RGB")
        return Counter(zip(*[iter(image.tobytes())] * 3, strict=True))


def test_bars_are_as_high_as_their_values(chart: Callable[..., JobRun]) -> None:
    data = [{"label": "Mon", "value": 1, "color": "red"}, {"label": "Tue", "value": 3, "color": "#008000"}]
    run = chart({"title": "Visitors", "data": data, "width": 801, "height": 450})

    found = pixels(run)
    assert found.total() == 801 * 450
    assert found[GREEN] / found[RED] == pytest.approx(3, rel=0.05)
    assert found[255, 255, 255] > found.total() / 3
    assert (run.result["width"], run.result["height"]) == (801, 450)
    assert (run.result["provider"], run.result["endpoint"], run.result["costUsd"]) == ("charts", "bar", 0)
    (call,) = run.calls
    assert (call["provider"], call["endpoint"], call["status"]) == ("charts", "bar", "succeeded")


def test_slices_are_as_large_as_their_shares(chart: Callable[..., JobRun]) -> None:
    payload = {"chartType": "pie", "data": points(1, 4, 0), "colors": ["#f00", "#00f"]}
    found = pixels(chart({**payload, "width": 600, "height": 600}))
    assert found[BLUE] / found[RED] == pytest.approx(4, rel=0.05)


def test_lines_have_their_colours_on_their_background(chart: Callable[..., JobRun]) -> None:
    series = [{"name": "a", "values": [1, 2, 3], "color": "red"}, {"name": "_b", "values": [3, 2, 1]}]
    payload = {"chartType": "line", "labels": [1, 2, 3], "series": series, "colors": ["#000", "#00f"]}
    found = pixels(chart({**payload, "background": "#102030", "textColor": "white", "showValues": True}))
    assert found[RED] > 500 and found[BLUE] > 500
    assert found.most_common(1)[0][0] == (0x10, 0x20, 0x30)
    assert found[255, 255, 255] > 200


def test_grouped_bars_and_negative_values(chart: Callable[..., JobRun]) -> None:
    series = [{"name": "before", "values": [2, 1]}, {"name": "after", "values": [-2, -1]}]
    found = pixels(chart({"labels": ["x", "y"], "series": series, "colors": ["red", "blue"]}))
    assert found[RED] == pytest.approx(found[BLUE], rel=0.1)


def test_a_title_is_drawn_as_it_is_written(chart: Callable[..., JobRun]) -> None:
    """A dollar sign begins no formula, and what the typeface lacks is said."""
    plain = {"data": points(1), "width": 640, "height": 360, "colors": ["#fff"]}
    without = pixels(chart(plain))
    run = chart({**plain, "title": r"$5 to $10 \frac 你"})
    assert pixels(run)[255, 255, 255] < without[255, 255, 255] - 200
    assert run.result["notes"] == ["DejaVu Sans has no letters '你'; a box stands in their place."]


@pytest.mark.parametrize(
    ("aspect", "payload", "size"),
    [
        ("16:9", {}, (1280, 720)),
        ("9:16", {}, (720, 1280)),
        ("9:16", {"width": 360}, (360, 640)),
        ("16:9", {"height": 360}, (640, 360)),
        (None, {"width": 64, "height": 64}, (64, 64)),
    ],
)
def test_the_size_follows_the_film(
    chart: Callable[..., JobRun], aspect: str | None, payload: dict[str, int], size: tuple[int, int]
) -> None:
    run = chart({"data": points(1), **payload}, manifest={"metadata": {"aspectRatio": aspect}})
    assert run.file is not None
    with Image.open(run.file) as picture:
        assert picture.size == size


def test_the_same_chart_is_the_same_file(chart: Callable[..., JobRun]) -> None:
    first, second = (chart({"title": "Twice", "data": points(1, 2)}) for _ in range(2))
    assert first.result["sha256"] == second.result["sha256"]


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        ({}, 'data: is missing; give [{"label": "Mon"'),
        ({"data": {"Mon": 3}}, "data: an object has no order; give a list"),
        ({"data": []}, "data: has 0 values; give 1 to 200"),
        ({"chartType": "radar", "data": points(1)}, "chartType: Input should be 'bar', 'line' or 'pie'"),
        ({"data": points("many")}, "unable to parse string as a number (given: 'many')"),
        ({"data": points(1e300)}, "1e+300 cannot be drawn; give a number between -1e15 and 1e15"),
        ({"data": points(1), "background": "blurple"}, "background: 'blurple' is no colour"),
        (
            {"data": points(1), "width": 5000},
            "width: Input should be less than or equal to 4096 (given: 5000)",
        ),
        ({"labels": ["a"], "series": [{"values": [1, 2]}]}, "series.0.values: has 2 values for 1 labels"),
        ({"labels": ["a"], "data": points(1)}, "give either data, or labels and series, not both"),
        ({"chartType": "pie", "data": points(-1, 2)}, "a slice of a pie cannot be negative (-1)"),
        ({"chartType": "pie", "data": points(0)}, "a pie needs a value above zero"),
    ],
)
def test_what_does_not_fit_is_named(
    chart: Callable[..., JobRun], payload: dict[str, Any], problem: str
) -> None:
    run = chart(payload)
    assert (run.status, run.error_class, run.calls) == ("failed", "invalid_request", [])
    assert run.error_message is not None and problem in run.error_message


def test_an_interrupted_chart_is_drawn_once(chart: Callable[..., JobRun], tmp_path: Path) -> None:
    run = chart({"data": points(1)}, interrupt=True)
    assert run.status == "completed"
    assert len(run.calls) == 1
    assert [path.stem for path in (tmp_path / "charts").glob("*.json")] == [run.result["requestId"]]


def test_a_folder_that_cannot_be_used_is_named(
    run_dreamcuts_job: Callable[..., JobRun], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    settings = {"CHARTS_DIR": tmp_path / "file"}
    run = run_dreamcuts_job(ChartJob(), {"data": points(1)}, providers=[ChartsProvider], settings=settings)
    assert run.error_class == "transient"
    assert run.error_message == f"CHARTS_DIR {tmp_path / 'file'} cannot be written to: File exists."
