"""Pictures from typed rows: PNG and SVG, the same bytes for the same rows.

The palette is Okabe and Ito's, which colour-blind readers can tell apart; every series also has
a marker, line or hatch of its own, so that nothing is lost in black and white. Names are drawn
as they are: no mathematics is read into them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.errors import UsageError, need
from holdfast.measures.interval import Estimate
from holdfast.measures.matrix import AccuracyMatrix
from holdfast.measures.pareto import Setting, pareto_front
from holdfast.report.rows import RecipeRow, labels, stage_names
from holdfast.runs.files import writing
from holdfast.text import safe_text

Figure = Any
Axes = Any

LEARNED, LOST, INK, GRID = "#0072B2", "#E69F00", "#222222", "#DDDDDD"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h")
LINES = ("-", "--", "-.", ":")
HATCH = "////"
_WIDEST = 28
_STYLE = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "text.parse_math": False,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#888888",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "hatch.linewidth": 0.8,
    "legend.frameon": False,
    "svg.hashsalt": "holdfast",
    "svg.fonttype": "path",
}


def learned_and_lost(rows: Sequence[RecipeRow], title: str = "What each recipe taught") -> Figure:
    """Two bars per recipe: what it learned, and what it lost of what the model could do before."""
    rows = [r for r in rows if not math.isnan(r.learned.value)]
    _some(rows, "recipe with a measured result")
    names = [_short(n) for n in labels(rows)]
    with _canvas(8.0, 1.6 + 0.72 * len(rows)) as (figure, axes):
        for i, r in enumerate(rows):
            _bar(axes, i - 0.19, r.learned, LEARNED, "")
            _bar(axes, i + 0.19, r.forgetting, LOST, HATCH)
        _lines(axes, names, [e for r in rows for e in (r.learned, r.forgetting)])
        axes.set_xlabel("change since the base model, in percentage points")
        figure.suptitle(safe_text(title), x=0.01, ha="left", fontsize=13)
        axes.legend(handles=_key(), loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=9)
    return figure


def changes(named: Sequence[tuple[str, Estimate]], title: str = "What changed") -> Figure:
    """One bar for each task with its interval; losses are hatched."""
    known = [(name, e) for name, e in named if not math.isnan(e.value)]
    _some(known, "task that was asked")
    with _canvas(8.0, 1.4 + 0.46 * len(known)) as (figure, axes):
        for i, (_, e) in enumerate(known):
            _bar(axes, i, e, *((LOST, HATCH) if e.value < 0 else (LEARNED, "")))
        _lines(axes, [_short(name) for name, _ in known], [e for _, e in known])
        axes.set_xlabel(
            f"change in percentage points, with {100 * known[0][1].level:.0f}% intervals"
        )
        figure.suptitle(safe_text(title), x=0.01, ha="left", fontsize=13)
    return figure


def plane(settings: Sequence[Setting], title: str = "Learning against forgetting") -> Figure:
    """Each recipe at each learning rate, with bars over seeds and the Pareto front.

    Up is better (less lost), right is better (more learned). Lines follow a recipe's learning
    rates; a larger marker is a higher rate.
    """
    settings = [s for s in settings if not math.isnan(s.learning.value + s.forgetting.value)]
    _some(settings, "measured setting")
    with _canvas(8.0, 5.2) as (figure, axes):
        axes.axhline(0, color="#888888", linewidth=1)
        axes.axvline(0, color="#888888", linewidth=1)
        _draw_front(axes, settings)
        for i, recipe in enumerate(dict.fromkeys(s.recipe for s in settings)):
            _sweep(axes, [s for s in settings if s.recipe == recipe], i)
        axes.grid()
        axes.set_xlabel("learned: mean gain on the target skills, in points")
        axes.set_ylabel("mean change on held-out tasks, in points")
        axes.set_title(safe_text(title))
        figure.legend(loc="outside right upper", fontsize=9)
        seeds = [s.learning.n for s in settings]
        runs = f"{min(seeds)}" if min(seeds) == max(seeds) else f"{min(seeds)} to {max(seeds)}"
        note = (
            f"larger marker: higher learning rate; runs per point: {runs}; bars: {_level(settings)}"
        )
        figure.supxlabel(f"up and right is better; {note}", fontsize=8, color="#555555")
    return figure


def figure_one(rows: Sequence[RecipeRow], title: str = "") -> Figure:
    """The paper's figure 1: total learning and forgetting, and the held-out mean per stage.

    Left: summed over target and held-out tasks. Right: the mean held-out score after each stage.
    """
    rows = [r for r in rows if not math.isnan(r.learned_total.value)]
    _some(rows, "recipe with totals over its tasks")
    with _canvas(12.0, 4.8, columns=2) as (figure, (left, right)):
        _totals(left, rows)
        _curves(right, rows)
        if title:
            figure.suptitle(safe_text(title), x=0.01, ha="left", fontsize=13)
        for axes, side in ((left, "left"), (right, "right")):
            handles, names = axes.get_legend_handles_labels()
            where = f"outside lower {side}"
            figure.legend(handles, names, loc=where, ncols=3, fontsize=9)
    return figure


def heat_map(matrix: AccuracyMatrix, title: str = "Score in percent after each stage") -> Figure:
    """Every task's score after every stage; the outlined cell is a target's own stage."""
    tasks = [*matrix.targets, *matrix.held_out]
    _some(tasks, "task")
    values = np.array([[matrix.score(k, t) for k in range(matrix.stages + 1)] for t in tasks])
    with _canvas(3.2 + 1.05 * values.shape[1], 1.9 + 0.42 * len(tasks)) as (figure, axes):
        image = axes.imshow(values, cmap="Blues", vmin=0, vmax=100, aspect="auto")
        for (i, k), value in np.ndenumerate(values):
            text = "–" if math.isnan(value) else f"{value:.0f}"
            axes.text(k, i, text, ha="center", va="center", fontsize=9, color=_ink(value))
        for j, k in enumerate(matrix.scores.learned):
            if k <= matrix.stages:
                _outline(axes, k, j)
        if matrix.targets and matrix.held_out:
            axes.axhline(len(matrix.targets) - 0.5, color=INK, linewidth=1.5)
        columns = ["base", *(_short(n, 16) for n in stage_names(matrix))]
        axes.set_xticks(
            range(len(columns)), columns, rotation=30, ha="left", rotation_mode="anchor"
        )
        axes.set_yticks(range(len(tasks)), [_short(t) for t in tasks])
        axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("outlined: right after the skill was taught", fontsize=8, color="#555555")
        figure.suptitle(safe_text(title), x=0.01, ha="left", fontsize=12)
        figure.colorbar(image, ax=axes, shrink=0.8, aspect=30, label="percent")
    return figure


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write ``name.png`` and ``name.svg`` and close the figure. Bytes depend on nothing else.

    Raises :class:`holdfast.errors.RunError` if they cannot be written.
    """
    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    with _style() as pyplot:
        for path in paths:
            kind = path.suffix[1:]
            bare = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
            with writing(path) as temporary, warnings.catch_warnings():
                # A name in a script that the font lacks is drawn as boxes; the tables have it.
                warnings.filterwarnings("ignore", message="Glyph .* missing from")
                figure.savefig(temporary, format=kind, dpi=160, metadata=bare)
        pyplot.close(figure)
    return paths


def available() -> bool:
    """Whether pictures can be drawn: the extra ``plots`` is installed."""
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


@contextmanager
def _style() -> Iterator[Any]:
    need("matplotlib", "plots").use("Agg")
    pyplot = need("matplotlib.pyplot", "plots")
    with pyplot.rc_context(_STYLE):
        yield pyplot


@contextmanager
def _canvas(width: float, height: float, columns: int = 1) -> Iterator[tuple[Figure, Any]]:
    with _style() as pyplot:
        yield pyplot.subplots(1, columns, figsize=(width, height), layout="constrained")


def _lines(axes: Axes, names: Sequence[str], estimates: Sequence[Estimate]) -> None:
    """An axis with a name at each line, around 0 and everything that is drawn."""
    ends = [v for e in estimates for v in _ends(e)]
    low, high = min(*ends, 0), max(*ends, 0)
    width = high - low or 1.0
    axes.set_xlim(low - 0.12 * width if low < 0 else 0, high + 0.12 * width)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.axvline(0, color=INK, linewidth=1)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)


def _bar(axes: Axes, y: float, e: Estimate, colour: str, hatch: str) -> None:
    if math.isnan(e.value):
        axes.annotate("not measured", (0, y), (4, 0), textcoords="offset points", va="center")
        return
    axes.barh(y, e.value, height=0.34, color=colour, hatch=hatch, edgecolor=INK, linewidth=0.6)
    _whisker(axes, e, y)
    right = e.value >= 0
    end = max(_ends(e)) if right else min(_ends(e))
    axes.annotate(
        format(e.value, "+.1f").replace("-", "−"),
        (end, y), (5 if right else -5, 0), textcoords="offset points",
        va="center", ha="left" if right else "right", fontsize=10,
    )  # fmt: skip


def _whisker(axes: Axes, e: Estimate, y: float) -> None:
    if not math.isnan(e.low):
        axes.plot([e.low, e.high], [y, y], color=INK, linewidth=1.4, marker="|", markersize=6)


def _ends(e: Estimate) -> list[float]:
    return [v for v in (e.value, e.low, e.high) if not math.isnan(v)] or [0.0]


def _key() -> list[Any]:
    patch = need("matplotlib.patches", "plots").Patch
    edge = {"edgecolor": INK, "linewidth": 0.6}
    return [
        patch(facecolor=LEARNED, label="the new skill", **edge),
        patch(facecolor=LOST, hatch=HATCH, label="what it could do before", **edge),
    ]


def _draw_front(axes: Axes, settings: Sequence[Setting]) -> None:
    front = pareto_front(settings)
    if len(front) > 1:
        x, y = [s.learning.value for s in front], [s.forgetting.value for s in front]
        axes.plot(
            x, y, color="#BBBBBB", linewidth=7, solid_capstyle="round", zorder=1,
            label="Pareto front",
        )  # fmt: skip


def _sweep(axes: Axes, settings: Sequence[Setting], number: int) -> None:
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    line = LINES[number // len(COLOURS) % len(LINES)]
    x = [s.learning.value for s in settings]
    y = [s.forgetting.value for s in settings]
    sizes = np.linspace(30, 110, len(settings)) if len(settings) > 1 else [60.0]
    axes.plot(x, y, color=colour, linewidth=1.2, linestyle=line, zorder=2)
    axes.errorbar(
        x, y, xerr=_spread([s.learning for s in settings]),
        yerr=_spread([s.forgetting for s in settings]),
        fmt="none", ecolor=colour, elinewidth=0.9, alpha=0.6, zorder=2,
    )  # fmt: skip
    axes.scatter(
        x, y, s=sizes, color=colour, marker=marker, edgecolor="white", linewidth=0.7, zorder=3
    )
    axes.plot([], [], color=colour, marker=marker, linestyle=line, label=_short(settings[0].recipe))


def _spread(estimates: Sequence[Estimate]) -> Any:
    """[2, n]: how far the bounds lie below and above; NaN draws nothing."""
    below = [e.value - e.low for e in estimates]
    return np.array([below, [e.high - e.value for e in estimates]])


def _totals(axes: Axes, rows: Sequence[RecipeRow]) -> None:
    place = np.arange(len(rows))
    edge = {"edgecolor": INK, "linewidth": 0.6, "width": 0.36}
    series = (
        (-0.19, [r.learned_total for r in rows], LEARNED, "", "learned (targets, total)"),
        (0.19, [r.forgetting_total for r in rows], LOST, HATCH, "held-out change (total)"),
    )
    for shift, estimates, colour, hatch, label in series:
        values = [e.value for e in estimates]
        axes.bar(place + shift, values, color=colour, hatch=hatch, label=label, **edge)
        axes.errorbar(
            place + shift, values, yerr=_spread(estimates), fmt="none", ecolor=INK, elinewidth=1.2
        )
    axes.axhline(0, color=INK, linewidth=1)
    axes.grid(axis="y")
    names = [_short(n, 18) for n in labels(rows)]
    axes.set_xticks(place, names, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_ylabel("change in points, summed over tasks")
    axes.set_title("Learned and forgotten")
    axes.margins(y=0.15)


def _curves(axes: Axes, rows: Sequence[RecipeRow]) -> None:
    longest: tuple[str, ...] = max((r.stages for r in rows), key=len, default=())
    for i, (name, r) in enumerate(zip(labels(rows), rows, strict=True)):
        axes.plot(
            range(len(r.curve)), r.curve, color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[i % len(MARKERS)], linestyle=LINES[i // len(COLOURS) % len(LINES)],
            linewidth=1.6, label=_short(name),
        )  # fmt: skip
    ticks = ["base", *(_short(n, 16) for n in longest)]
    axes.set_xticks(range(len(ticks)), ticks, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_ylabel("mean held-out score in percent")
    axes.set_title("Held-out tasks after each stage")
    axes.grid()


def _outline(axes: Axes, k: int, j: int) -> None:
    rectangle = need("matplotlib.patches", "plots").Rectangle
    axes.add_patch(
        rectangle((k - 0.47, j - 0.45), 0.94, 0.9, fill=False, edgecolor="#D55E00", linewidth=2)
    )


def _ink(value: float) -> str:
    return "white" if value > 55 else INK


def _level(settings: Sequence[Setting]) -> str:
    return f"{100 * settings[0].learning.level:.0f}% interval of the mean"


def _short(name: str, widest: int = _WIDEST) -> str:
    text = safe_text(name)
    return text if len(text) <= widest else text[: widest - 1] + "…"


def _some(rows: Sequence[Any], what: str) -> None:
    if not rows:
        raise UsageError(f"there is nothing to draw: not one {what}.")
