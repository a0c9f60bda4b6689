"""What a `generate_chart_gptimage` job says: the data, and how the chart looks.

Data comes in one of two forms, both of which end as `labels` and `series`:

    "data": [{"label": "Mon", "value": 3, "color": "#ff8800"}, ...]
    "labels": ["Mon", "Tue"], "series": [{"name": "visits", "values": [3, 5], "color": "#ff8800"}, ...]

An object of labels and values is refused: payloads are jsonb, which does not keep the order of an object's
keys, and Friday would come before Monday.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from dreamcuts.jobs.base import Payload

ChartType = Literal["bar", "line", "pie"]

MOST_POINTS = 200
MOST_SERIES = 12
LARGEST = 1e15


def _color(value: str) -> str:
    """`#rgb`, `#rrggbb` or a name of CSS, as `#rrggbb`."""
    text = value.strip().lower()
    if re.fullmatch(r"#[0-9a-f]{6}", text):
        return text
    if re.fullmatch(r"#[0-9a-f]{3}", text):
        return "#" + "".join(digit * 2 for digit in text[1:])
    from matplotlib.colors import CSS4_COLORS  # slow to import, and seldom needed

    if text in CSS4_COLORS:
        return str(CSS4_COLORS[text]).lower()
    raise ValueError(f"{value!r} is no colour; write #rrggbb or a CSS name such as steelblue")


def _value(value: float) -> float:
    if not math.isfinite(value) or abs(value) > LARGEST:
        raise ValueError(f"{value!r} cannot be drawn; give a number between -1e15 and 1e15")
    return value


Color = Annotated[str, AfterValidator(_color)]
Value = Annotated[float, AfterValidator(_value)]
Label = Annotated[str, Field(max_length=200)]


class Point(BaseModel):
    """One value with its label."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    label: Label
    value: Value
    color: Color | None = None


class Series(BaseModel):
    """Values in the order of the labels. Without a colour it takes one of the payload's `colors`."""

    name: Label = ""
    values: list[Value] = Field(min_length=1, max_length=MOST_POINTS)
    color: Color | None = None


class ChartPayload(Payload):
    """Payload of `generate_chart_gptimage`. Sizes are in pixels; the PNG has exactly that size."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    chart_type: ChartType = "bar"
    title: str = Field("", max_length=300)
    data: list[Point] | None = None
    labels: list[Label] = Field(default_factory=list, max_length=MOST_POINTS)
    series: list[Series] = Field(default_factory=list, max_length=MOST_SERIES)
    x_label: Label = ""
    y_label: Label = ""
    colors: list[Color] = Field(default_factory=list, max_length=MOST_POINTS)
    background: Color = "#ffffff"
    text_color: Color = "#222222"
    show_values: bool = False
    width: int | None = Field(None, ge=64, le=4096)
    height: int | None = Field(None, ge=64, le=4096)

    @field_validator("data", mode="before")
    @classmethod
    def _data_has_an_order(cls, value: Any) -> Any:
        if isinstance(value, dict):
            raise ValueError('an object has no order; give a list: [{"label": "Mon", "value": 3}, ...]')
        return value

    @model_validator(mode="after")
    def _data_becomes_labels_and_series(self) -> Self:
        if self.data is not None:
            if self.series or self.labels:
                raise ValueError("data: give either data, or labels and series, not both")
            if not 1 <= len(self.data) <= MOST_POINTS:
                raise ValueError(f"data: has {len(self.data)} values; give 1 to {MOST_POINTS}")
            self.labels = [point.label for point in self.data]
            self.series = [Series(values=[point.value for point in self.data])]
            self.colors = self._colors_of(self.data)
        if not self.series:
            raise ValueError(
                'data: is missing; give [{"label": "Mon", "value": 3}, ...], or labels and series'
            )
        for number, series in enumerate(self.series):
            if len(series.values) != len(self.labels):
                raise ValueError(
                    f"series.{number}.values: has {len(series.values)} values for {len(self.labels)} labels"
                )
        if self.chart_type == "pie":
            self._check_pie()
        return self

    def _colors_of(self, points: list[Point]) -> list[str]:
        if not any(point.color for point in points):
            return self.colors
        usual = colors_for(len(points), self.colors)
        return [point.color or color for point, color in zip(points, usual, strict=True)]

    def _check_pie(self) -> None:
        if len(self.series) > 1:
            raise ValueError(f"series: a pie shows one series, not {len(self.series)}; use chartType bar")
        values = self.series[0].values
        for number, value in enumerate(values):
            if value < 0:
                raise ValueError(f"series.0.values.{number}: a slice of a pie cannot be negative ({value:g})")
        if not sum(values) > 0:
            raise ValueError("series.0.values: a pie needs a value above zero")

    def request(self, width: int, height: int) -> dict[str, Any]:
        """What the provider `charts` gets: JSON, complete, with every colour decided."""
        count = len(self.labels) if self.colors_by_point else len(self.series)
        colors = colors_for(count, self.colors)
        if not self.colors_by_point:
            colors = [series.color or color for series, color in zip(self.series, colors, strict=True)]
        return {
            "title": self.title,
            "labels": self.labels,
            "series": [{"name": series.name, "values": series.values} for series in self.series],
            "xLabel": self.x_label,
            "yLabel": self.y_label,
            "colors": colors,
            "background": self.background,
            "textColor": self.text_color,
            "showValues": self.show_values,
            "width": width,
            "height": height,
        }

    @property
    def colors_by_point(self) -> bool:
        """Whether each label has a colour of its own: in a pie, and where single bars were given colours."""
        if self.chart_type == "pie":
            return True
        return self.chart_type == "bar" and len(self.series) == 1 and len(self.colors) > 1


# Okabe and Ito's palette, which can be told apart with any kind of colour vision.
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#f0e442", "#000000")


def colors_for(count: int, given: list[str]) -> list[str]:
    """`count` colours: the given ones first to last and over again, or those of the palette."""
    source = given or list(PALETTE)
    return [source[number % len(source)] for number in range(count)]
