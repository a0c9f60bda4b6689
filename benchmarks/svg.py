"""Bar charts as SVG: groups of horizontal bars, readable on a light and on a dark page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH = 860
LABELS = 210
NUMBERS = 90
BAR = 15
GAP = 14
TOP = 64
FLATTENS = 4
COLOURS = ("#2f6fde", "#8db4f2", "#c9d9f7")
LIMIT_COLOURS = ("#8a8f98", "#b3b7bd", "#d4d6da")
OWN_COLOURS = ("#d9541e", "#ee9a73", "#f7cdb8")
STYLE = (
    "text{font-family:system-ui,-apple-system,'Segoe UI',sans-serif;font-size:13px;fill:#1f2328}"
    ".title{font-size:16px;font-weight:600}.small{font-size:12px;fill:#59636e}.card{fill:#fff;stroke:#d1d9e0}"
    "@media (prefers-color-scheme:dark){text{fill:#f0f6fc}.small{fill:#9198a1}"
    ".card{fill:#151b23;stroke:#3d444d}}"
)


@dataclass(frozen=True)
class Group:
    """Bars under one label. `kind` chooses the colour: peer, own or limit; None is no bar."""

    label: str
    values: Sequence[float | None]
    kind: str = "peer"


def bar_chart(title: str, subtitle: str, series: Sequence[str], groups: Sequence[Group]) -> str:
    """An SVG document. `series` names the bars of each group, from top to bottom."""
    most = _longest(groups)
    scale = (WIDTH - LABELS - NUMBERS - 24) / most
    body: list[str] = []
    y = TOP
    for group in groups:
        colours = {"limit": LIMIT_COLOURS, "own": OWN_COLOURS}.get(group.kind, COLOURS)
        middle = y + len(group.values) * BAR / 2 + 4
        body.append(_text(LABELS - 10, middle, group.label, anchor="end"))
        for number, value in enumerate(group.values):
            if value is not None:
                width = max(1.0, min(value, most) * scale)
                body.append(
                    f'<rect x="{LABELS}" y="{y + 1}" width="{width:.1f}" height="{BAR - 2}" rx="2" '
                    f'fill="{colours[number % len(colours)]}"/>'
                )
                words = figure(value) + (" (cut)" if value > most else "")
                named = f"{words}  {series[number]}" if len(series) > 1 else words
                words = named if LABELS + width + 8 + len(named) * 7 < WIDTH else words
                body.append(_text(LABELS + width + 6, y + BAR - 3.5, words, css="small"))
            y += BAR
        y += GAP
    height = y + 6
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title, {chr(34): "&quot;"})}">',
        f"<style>{STYLE}</style>",
        f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>',
        _text(20, 28, title, css="title"),
        _text(20, 48, subtitle, css="small"),
    ]
    return "\n".join([*head, *body, "</svg>"]) + "\n"


def _longest(groups: Sequence[Group]) -> float:
    """The value that fills the width: the largest, or less where one group would flatten all the others."""
    tops = sorted(max((value for value in group.values if value), default=0.0) for group in groups)
    if len(tops) > 2 and 0 < tops[-2] * FLATTENS < tops[-1]:
        return tops[-2] * 1.25
    return tops[-1] if tops and tops[-1] > 0 else 1.0


def figure(value: float | None) -> str:
    """A figure as people read it: 56,012, 3.42, 0.004; a dash for none."""
    if value is None:
        return "–"
    if value >= 1000:
        return f"{value:,.0f}"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.2f}" if value >= 0.095 else f"{value:.4f}"


def _text(x: float, y: float, words: str, *, anchor: str = "start", css: str = "") -> str:
    kind = f' class="{css}"' if css else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}>{escape(words)}</text>'
