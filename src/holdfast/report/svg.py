"""Small drawings that live in a page: text keeps its size whatever the width, and colours are
those of the page, in light and dark.

Places are in percent of the drawing; only lines lie in an inner drawing that is stretched. Every
drawing has a title and a description, every series a marker and a dash pattern of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from holdfast.measures.interval import Estimate
from holdfast.text import safe_text

MARKERS = 8
"""Kinds of marks that the page's template defines, ``m0`` to ``m7``."""


@dataclass(frozen=True)
class Axis:
    """A range of values."""

    low: float
    high: float
    ticks: tuple[float, ...] = ()

    def at(self, value: float) -> float:
        """Percent from the low end."""
        return 100 * (value - self.low) / ((self.high - self.low) or 1.0)


def axis(values: Sequence[float], *, zero: bool = False, count: int = 5) -> Axis:
    """An axis with round ticks around the finite values; with 0 on it, if asked."""
    known = [v for v in values if math.isfinite(v)] + ([0.0] if zero else [])
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if high - low < 1e-9:
        low, high = low - 1, high + 1
    step = _step((high - low) / count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(k * step, 10) for k in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks)


def _step(rough: float) -> float:
    size = 10.0 ** math.floor(math.log10(rough))
    return next(m * size for m in (1, 2, 5, 10) if m * size >= rough * 0.999)


def number(value: float, digits: int = 1) -> str:
    """A number with a minus sign that is one; a dash if it is none."""
    if not math.isfinite(value):
        return "–"
    text = f"{value:.{digits}f}"
    if text.lstrip("-").strip("0.") == "":
        text = text.lstrip("-")
    return text.replace("-", "−")


def _tick(value: float) -> str:
    return f"{value:g}".replace("-", "−")


@dataclass(frozen=True)
class Line:
    """A series of points."""

    x: Sequence[float]
    y: Sequence[float]
    name: str = ""
    number: int = 0
    """Its colour, mark and dashes."""
    x_bounds: Sequence[tuple[float, float]] = ()
    y_bounds: Sequence[tuple[float, float]] = ()
    joined: bool = True
    marked: bool = True

    def points(self) -> list[tuple[float, float]]:
        pairs = zip(self.x, self.y, strict=True)
        return [(x, y) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]


def plot(
    lines: Sequence[Line],
    *,
    title: str,
    description: str,
    x: Axis,
    y: Axis,
    x_names: Sequence[tuple[float, str]] | None = None,
    height: int = 280,
    zero: bool = False,
    rules: Sequence[float] = (),
    bare: bool = False,
) -> str:
    """Lines and points over two axes.

    Args:
        x_names: words at places of the x axis, instead of its ticks.
        zero: stronger lines through the origin.
        rules: x values at which a dashed upright line stands (ends of stages).
        bare: no words at the axes (for small charts, whose text is beside them).
    """
    parts = [] if bare else _grid(x, y, x_names, zero)
    parts += [_upright(x.at(v), "rule") for v in rules]
    for line in lines:
        parts += _series(line, x, y)
    return _drawing(parts, title, description, height, "plot bare" if bare else "plot")


def _grid(x: Axis, y: Axis, x_names: Sequence[tuple[float, str]] | None, zero: bool) -> list[str]:
    parts = []
    for value in y.ticks:
        at = 100 - y.at(value)
        kind = "zero" if zero and value == 0 else "grid"
        parts.append(f'<line class="{kind}" x1="0" x2="100%" y1="{at:.2f}%" y2="{at:.2f}%"/>')
        parts.append(
            f'<text class="tick end" x="-8" y="{at:.2f}%" dy="4">{escape(_tick(value))}</text>'
        )
    if zero and x.low < 0 < x.high:
        parts.append(_upright(x.at(0), "zero"))
    named = x_names if x_names is not None else [(v, _tick(v)) for v in x.ticks]
    for value, name in named:
        at = x.at(value)
        anchor = "start" if at < 4 else "end" if at > 96 else "middle"
        parts.append(
            f'<text class="tick {anchor}" x="{at:.2f}%" y="100%" dy="20">'
            f"{escape(safe_text(name))}</text>"
        )
    return parts


def _upright(at: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{at:.2f}%" x2="{at:.2f}%" y1="0" y2="100%"/>'


def _series(line: Line, x: Axis, y: Axis) -> list[str]:
    points = [(x.at(a), 100 - y.at(b)) for a, b in line.points()]
    style = line.number % MARKERS
    parts = []
    if line.joined and len(points) > 1:
        path = "M" + "L".join(f"{a:.2f} {b:.2f}" for a, b in points)
        parts.append(
            '<svg viewBox="0 0 100 100" preserveAspectRatio="none" width="100%" height="100%">'
            f'<path class="line s{style}" d="{path}"/></svg>'
        )
    parts += _bounds(line, x, y, style)
    if line.marked:
        parts += [f'<use class="mark s{style}" href="#m{style}" x="{a:.2f}%" y="{b:.2f}%"/>'
                  for a, b in points]  # fmt: skip
    return parts


def _bounds(line: Line, x: Axis, y: Axis, style: int) -> list[str]:
    parts = []
    for (a, b), (low, high) in zip(line.points(), line.x_bounds, strict=False):
        if math.isfinite(low + high):
            at = 100 - y.at(b)
            parts.append(
                f'<line class="bound s{style}" x1="{x.at(low):.2f}%" x2="{x.at(high):.2f}%" '
                f'y1="{at:.2f}%" y2="{at:.2f}%"/>'
            )
        del a
    for (a, _), (low, high) in zip(line.points(), line.y_bounds, strict=False):
        if math.isfinite(low + high):
            parts.append(
                f'<line class="bound s{style}" x1="{x.at(a):.2f}%" x2="{x.at(a):.2f}%" '
                f'y1="{100 - y.at(low):.2f}%" y2="{100 - y.at(high):.2f}%"/>'
            )
    return parts


def interval(estimate: Estimate, on: Axis, series: str) -> Markup:
    """One row of a chart of intervals: the zero line, the interval, the value. Decoration: the
    number stands beside it."""
    parts = [_upright(on.at(0), "zero")] if on.low <= 0 <= on.high else []
    if math.isfinite(estimate.value):
        low, high = estimate.low, estimate.high
        if math.isfinite(low + high):
            parts.append(
                f'<line class="span {series}" x1="{on.at(low):.2f}%" x2="{on.at(high):.2f}%" '
                'y1="50%" y2="50%"/>'
            )
        shape = (
            f'<rect class="dot {series}" x="{on.at(estimate.value):.2f}%" y="50%" width="9" '
            'height="9" transform="translate(-4.5 -4.5)"/>'
            if series == "lost"
            else f'<circle class="dot {series}" cx="{on.at(estimate.value):.2f}%" cy="50%" r="5"/>'
        )
        parts.append(shape)
    return Markup(
        f'<svg class="row" width="100%" height="20" aria-hidden="true">{"".join(parts)}</svg>'
    )


def shares(parts: Sequence[float]) -> Markup:
    """A bar of 100%, cut into parts. Decoration: the numbers stand beside it."""
    known = [p if math.isfinite(p) else 0.0 for p in parts]
    pieces, start = [], 0.0
    for number_, width in enumerate(known):
        pieces.append(
            f'<rect class="part p{number_}" x="{start:.2f}%" width="{width:.2f}%" height="100%"/>'
        )
        start += width
    return Markup(
        f'<svg class="stack" width="100%" height="22" aria-hidden="true">{"".join(pieces)}</svg>'
    )


def _drawing(parts: Sequence[str], title: str, description: str, height: int, kind: str) -> str:
    return Markup(
        f'<svg class="{kind}" width="100%" height="{height}" role="img">'
        f"<title>{escape(safe_text(title))}</title>"
        f"<desc>{escape(safe_text(description))}</desc>"
        f"{''.join(parts)}</svg>"
    )
