"""The page of a repair."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from holdfast.measures.interval import Estimate
from holdfast.report import svg
from holdfast.report.blocks import (
    Block,
    Chart,
    Command,
    Document,
    Facts,
    Figure,
    Section,
    Table,
)
from holdfast.report.svg import Line, number

if TYPE_CHECKING:
    from holdfast.changes.repair.candidates import Candidate
    from holdfast.changes.repair.result import Repair

UNSEEN = "On examples that the search did not see"
_INTERVAL = re.compile(r" \[-?[\d.]+, -?[\d.]+\]")
NAMES = {
    "ends": "base and tuned model",
    "path": "path between them",
    "rollback": "parts rolled back",
    "coefficients": "a share for each tensor",
    "half": "half of the matrices back",
}


def repair_document(found: Repair) -> Document:
    """Everything that a repair has to show."""
    sections = [_plane(found), _parts(found), _unseen(found), _provenance(found)]
    return Document(
        title=f"Between {found.base} and {found.tuned}",
        about=f"Holdfast repair. {found.tuned} was tuned from {found.base}.",
        verdict=_verdict(found),
        lead=_lead(found),
        figures=_figures(found),
        sections=[s for s in sections if s.blocks],
    )


def _verdict(found: Repair) -> str:
    """The first sentences without their intervals, which stand beneath them."""
    said = found.verdict.partition(f" {UNSEEN}")[0]
    return _INTERVAL.sub("", said)


def _lead(found: Repair) -> str:
    return "".join(found.verdict.partition(UNSEEN)[1:])


def _figures(found: Repair) -> list[Figure]:
    best = found.chosen or found.nearest
    figures = [Figure("Budget", f"{found.budget:g}", "points that may be lost, at most")]
    if best is None:
        return figures
    kept = f"of the change in '{best.name}'"
    return [
        Figure("Learned", number(best.learned.value), _bounds(best.learned), "learned"),
        Figure("Lost", number(best.lost.value), _bounds(best.lost), "lost"),
        *figures,
        Figure("Kept", f"{100 * best.share:.0f}%", kept),
        Figure("Tried", f"{len(found.candidates)}", "candidates, none of them trained"),
    ]


def _bounds(e: Estimate) -> str:
    inside = "" if math.isnan(e.low) else f" [{number(e.low)}, {number(e.high)}]"
    return f"points{inside} since the base"


def _plane(found: Repair) -> Section:
    from holdfast.report.repair import candidates_table, front_table

    title = "Learned against lost"
    lines, legend = [], []
    for k, method in enumerate(dict.fromkeys(c.method for c in found.candidates)):
        lines.append(_line([c for c in found.candidates if c.method == method], k))
        legend.append((k, NAMES.get(method, method)))
    known = [c for c in found.candidates if not math.isnan(c.learned.value + c.lost.value)]
    drawn = svg.plot(
        [*lines, *_chosen(found, len(lines))],
        title=title,
        description="; ".join(
            f"{c.name}: learned {number(c.learned.value)}, lost {number(c.lost.value)}"
            for c in known
        ),
        x=svg.axis([c.learned.value for c in known], zero=True),
        y=svg.axis([*(-c.lost.value for c in known), -found.budget], zero=True),
        zero=True,
        height=340,
    )
    if found.chosen or found.nearest:
        word = "chosen" if found.chosen else "nearest to the budget"
        legend.append((len(lines), word))
    chart = Chart(
        title,
        drawn,
        "learned, points (right is better)",
        "held-out change, points (up is better)",
        legend,
        f"Each mark is a model that was asked. The budget is a loss of {found.budget:g} points; a "
        "model is inside it if the upper end of its interval is.",
    )
    blocks: list[Block] = [chart, Table(front_table(found))]
    blocks.append(Table(candidates_table(found), folded=True))
    return Section("plane", title, blocks)


def _line(some: Sequence[Candidate], number_: int) -> Line:
    return Line(
        [c.learned.value for c in some],
        [-c.lost.value for c in some],
        number=number_,
        joined=False,
    )


def _chosen(found: Repair, number_: int) -> list[Line]:
    c = found.chosen or found.nearest
    if c is None:
        return []
    return [
        Line(
            [c.learned.value],
            [-c.lost.value],
            number=number_,
            x_bounds=[(c.learned.low, c.learned.high)],
            y_bounds=[(-c.lost.high, -c.lost.low)],
        )
    ]


def _parts(found: Repair) -> Section:
    from holdfast.report.repair import parts_table

    blocks: list[Block] = [Table(parts_table(found))] if found.parts else []
    lead = "Each part of the change taken back alone, the rest kept; in points."
    return Section("parts", "Which parts carry the harm, and which the skill", blocks, lead)


def _unseen(found: Repair) -> Section:
    from holdfast.report.repair import unseen_table

    blocks: list[Block] = [Table(unseen_table(found))] if found.chosen or found.nearest else []
    lead = (
        "Choosing the best of many flatters it. Half of each task's examples chose; the others "
        "were asked afterwards, of these models alone."
    )
    return Section("unseen", UNSEEN, blocks, lead)


def _provenance(found: Repair) -> Section:
    facts = {"before": found.base, "after": found.tuned, **found.facts}
    shown = {k: v for k, v in facts.items() if isinstance(v, str | int | float)}
    rows = [(k.replace("_", " "), str(v)) for k, v in shown.items()]
    for key in ("learned_tasks", "held_out_tasks"):
        rows.append((key.replace("_", " "), ", ".join(map(str, found.facts.get(key, ())))))
    blocks: list[Block] = [Facts(rows)]
    if line := _command(found):
        blocks.append(Command("The command that repeats the search", line))
    return Section("provenance", "Where the numbers come from", blocks)


def _command(found: Repair) -> str:
    """The search's command line; nothing for one whose facts were not noted."""
    facts = found.facts
    try:
        halves = [facts["examples"][half] for half in ("select", "test")]
        sizes = [
            halves[0][role][task] + halves[1][role][task] for role in halves[0]
            for task in halves[0][role]
        ]  # fmt: skip
        words = ["holdfast", "repair", found.base, found.tuned]
        for option, key in (("--learned", "learned_tasks"), ("--tasks", "held_out_tasks")):
            words += [w for task in facts[key] for w in (option, task)]
        words += [w for method in facts["methods"] for w in ("--method", method)]
        words += ["--budget", f"{found.budget:g}%", "--examples", f"{max(sizes)}"]
        return shlex.join([*words, "--seed", f"{facts['seed']}"])
    except (LookupError, TypeError, ValueError):
        return ""
