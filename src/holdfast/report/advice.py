"""Advice as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.report.tables import ABSENT, Grid

if TYPE_CHECKING:
    from holdfast.budget.advise import Advice, Option


def advice_table(found: Advice) -> Grid:
    """What each recipe needs, and what it learned for what it lost."""
    header = ("recipe", "trains", "memory", "FLOPs", "rate", "learned", "lost", "")
    rows = tuple(_row(o, o is found.recommended) for o in found.options)
    title = f"Recipes for {found.model} (memory without activations; budget {found.budget:g})"
    return Grid(title, header, rows, (0, 7))


def ruled_out(found: Advice) -> list[str]:
    """A line for each recipe that is ruled out, with the reason."""
    return [f"{o.recipe} is ruled out: {o.reason}." for o in found.options if o.reason]


def _row(o: Option, best: bool) -> tuple[str, ...]:
    said = "best" if best else ("ruled out" if o.reason else "")
    costs = (f"{o.trained:,}", f"{o.memory / 1e9:.3g} GB", f"{100 * o.flops:.0f}%")
    rate = ABSENT if o.learning_rate is None else f"{o.learning_rate:g}"
    learned = ABSENT if o.learned is None else f"{o.learned:+.1f}"
    lost = ABSENT if o.lost is None else f"{o.lost:.1f}"
    return (o.recipe, *(costs if o.trained else (ABSENT,) * 3), rate, learned, lost, said)
