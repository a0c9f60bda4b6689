"""Draws a chart into a PNG file with matplotlib."""

from __future__ import annotations

import textwrap
import threading
from pathlib import Path
from typing import Any

# matplotlib is imported when the first chart is drawn: a worker that starts should not wait for it.

KINDS = ("bar", "line", "pie")

DPI = 128  # a power of two: width / DPI * DPI is then exact, and so is the size of the picture
TYPEFACE = "DejaVu Sans"  # comes with matplotlib
MISSING = "□"

_one_at_a_time = threading.Lock()  # matplotlib is not safe in several threads


def draw(kind: str, request: dict[str, Any], target: Path) -> list[str]:
    """Draw a chart into `target`; returns notes about what could not be shown as it was given.

    `request` is what ChartPayload.request gives. `target` appears whole or not at all.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    part = target.with_suffix(".part")
    with _one_at_a_time, matplotlib.rc_context(_style(request)):
        letters = _Letters()
        size = (request["width"] / DPI, request["height"] / DPI)
        margin = min(size) * 0.03
        layout = ConstrainedLayoutEngine(w_pad=margin, h_pad=margin)
        figure = Figure(figsize=size, dpi=DPI, layout=layout)
        axes = figure.add_subplot()
        painters = {"bar": _bar, "line": _line, "pie": _pie}
        painters[kind](axes, request, letters)
        if request["title"]:
            figure.suptitle(_wrapped(letters.shown(request["title"]), request), weight="bold")
        figure.savefig(part, format="png", metadata={"Software": None})
    part.replace(target)
    return letters.notes()


class _Letters:
    """Text as the typeface can show it: an unknown letter becomes a box, and is told about."""

    def __init__(self) -> None:
        from matplotlib.font_manager import findfont, get_font

        self._font = get_font(findfont(TYPEFACE))
        self._unknown: dict[str, None] = {}

    def shown(self, text: str) -> str:
        return "".join(self._letter(letter) for letter in " ".join(text.split()))

    def notes(self) -> list[str]:
        if not self._unknown:
            return []
        return [f"{TYPEFACE} has no letters {''.join(self._unknown)!r}; a box stands in their place."]

    def _letter(self, letter: str) -> str:
        if self._font.get_char_index(ord(letter)):
            return letter
        self._unknown[letter] = None
        return MISSING


def _style(request: dict[str, Any]) -> Any:
    base = min(request["width"], request["height"]) / 720
    color = request["textColor"]
    return {
        "font.family": TYPEFACE,
        "font.size": max(5.0, 11 * base),
        "figure.titlesize": max(6.0, 16 * base),
        "figure.facecolor": request["background"],
        "axes.facecolor": request["background"],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": color,
        "axes.unicode_minus": True,
        "text.parse_math": False,  # "$5 to $10" is money, not a formula
        **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), color),
    }


def _bar(axes: Any, request: dict[str, Any], letters: _Letters) -> None:
    series, colors = request["series"], request["colors"]
    width = 0.8 / len(series)
    handles = []
    for number, one in enumerate(series):
        offset = (number - (len(series) - 1) / 2) * width
        places = [place + offset for place in range(len(one["values"]))]
        by_point = len(series) == 1 and len(colors) == len(places)
        bars = axes.bar(places, one["values"], width * 0.94, color=colors if by_point else colors[number])
        if request["showValues"]:
            axes.bar_label(bars, labels=[f"{value:,.6g}" for value in one["values"]], padding=2)
        handles.append(bars)
    if any(value < 0 for one in series for value in one["values"]):
        axes.axhline(0, color=request["textColor"], linewidth=0.8)
    _label(axes, request, letters, handles)


def _line(axes: Any, request: dict[str, Any], letters: _Letters) -> None:
    handles = []
    for one, color in zip(request["series"], request["colors"], strict=True):
        places = list(range(len(one["values"])))
        handles += axes.plot(places, one["values"], color=color, marker="o", linewidth=2.5)
        if request["showValues"]:
            for place, value in zip(places, one["values"], strict=True):
                axes.annotate(
                    f"{value:,.6g}", (place, value), xytext=(0, 6), textcoords="offset points", ha="center"
                )
    axes.grid(axis="y", alpha=0.25)
    _label(axes, request, letters, handles)


def _pie(axes: Any, request: dict[str, Any], letters: _Letters) -> None:
    values = request["series"][0]["values"]
    share = [value / sum(values) for value in values]
    texts = axes.pie(
        values,
        colors=request["colors"],
        labels=["x"] * len(values),
        startangle=90,
        counterclock=False,
        wedgeprops={"edgecolor": request["background"], "linewidth": 1},
    )[1]
    for text, label, part in zip(texts, request["labels"], share, strict=True):
        percent = f" ({part:.0%})" if request["showValues"] else ""
        text.set_text(letters.shown(label) + percent if part else "")


def _label(axes: Any, request: dict[str, Any], letters: _Letters, handles: list[Any]) -> None:
    """Labels on both axes, and a legend if the series have names."""
    labels = [letters.shown(label) for label in request["labels"]]
    long = sum(map(len, labels)) > request["width"] / 12
    step = -(-len(labels) // 40)  # more than 40 labels cannot be told apart
    places = range(0, len(labels), step)
    axes.set_xticks(list(places), [labels[place] for place in places], rotation=45 if long else 0)
    if long:
        for text in axes.get_xticklabels():
            text.set_horizontalalignment("right")
    axes.set_xlabel(letters.shown(request["xLabel"]))
    axes.set_ylabel(letters.shown(request["yLabel"]))
    names = [letters.shown(one["name"]) for one in request["series"]]
    if any(names):
        # matplotlib leaves out a legend's entry whose label begins with "_", so names are set afterwards.
        legend = axes.legend(handles, [str(number) for number in range(len(handles))], frameon=False)
        for text, name in zip(legend.get_texts(), names, strict=True):
            text.set_text(name)


def _wrapped(title: str, request: dict[str, Any]) -> str:
    letters_in_a_line = max(12, int(40 * request["width"] / min(request["width"], request["height"])))
    return "\n".join(textwrap.wrap(title, letters_in_a_line))
