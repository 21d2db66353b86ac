"""Pages in Markdown, each with a JSON twin that holds the same numbers, and pictures beside them.

A page is written whole after its pictures and numbers, so a page that is there is complete.
Names and notes come from data and users: they are escaped wherever they are shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from holdfast.errors import UsageError
from holdfast.measures import pareto
from holdfast.measures.interval import finite
from holdfast.measures.pareto import Point
from holdfast.measures.summary import Summary
from holdfast.report import plots, tables
from holdfast.report.html import write_html
from holdfast.report.rows import RecipeRow, labels, row_of_run, rows_of_settings
from holdfast.report.runs_page import runs_document
from holdfast.report.tables import Grid
from holdfast.report.text import markdown, paragraph
from holdfast.runs.files import write_json, write_text

NO_PICTURES = "Pictures need matplotlib; run: pip install 'holdfast[plots]' and write this again."
SIGNS = (
    "*Learned* is the mean gain on the skills that were taught, each right after it was taught. "
    "*Lost* is the mean drop on the held-out tasks at the end. Both are in percentage points, "
    "with {level} intervals over {units}."
)


@dataclass
class _Page:
    """A page as it grows: blocks of Markdown and the pictures that they show."""

    folder: Path
    pictures: bool
    blocks: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    def text(self, *paragraphs: str) -> None:
        self.blocks.extend(p.rstrip() for p in paragraphs if p)

    def table(self, grid: Grid) -> None:
        if grid.rows:
            self.text(f"## {markdown(grid.title)}", grid.markdown())

    def picture(self, figure: Any, name: str, alt: str) -> None:
        self.files += [p.name for p in plots.save(figure, self.folder, name)]
        self.text(f"![{markdown(alt)}]({name}.png)")

    def write(self, name: str, twin: Mapping[str, Any]) -> Path:
        write_json(self.folder / f"{name}.json", {**twin, "pictures": self.files})
        write_text(self.folder / f"{name}.md", "\n\n".join(self.blocks) + "\n")
        return self.folder / f"{name}.md"


def write_run_report(
    folder: Path,
    summary: Summary,
    *,
    recipe: str,
    facts: Mapping[str, object] | None = None,
    notes: Sequence[str] = (),
    row: RecipeRow | None = None,
    pictures: bool | None = None,
) -> Path:
    """Write ``report.md``, ``report.json`` and pictures of one run; returns the page's path.

    Args:
        folder: made if it is not there; files of these names in it are replaced.
        recipe: the method's name as a user writes it.
        facts: what a reader must know about the run (model, data, seed ...), in order.
        notes: paragraphs, shown literally.
        row: cost columns (trained weights, seconds), if known: see ``row_of_run``.
        pictures: None draws them if matplotlib is installed and says so if not; True insists.

    Raises:
        RunError: the folder cannot be written.
        MissingExtra: ``pictures=True`` without matplotlib.
    """
    row = row or row_of_run(recipe, summary)
    matrix = summary.matrix()
    page = _Page(folder, _drawing(pictures))
    page.text(
        f"# {markdown(recipe)}", f"**{markdown(tables.verdict(row))}**", *map(paragraph, notes)
    )
    if facts:
        page.text(_facts(facts))
    if page.pictures:
        page.picture(plots.heat_map(matrix), "accuracy", "Score of every task after every stage")
        _comparison_pictures(page, [row], recipe)
    else:
        page.text(NO_PICTURES)
    page.table(tables.accuracy(summary))
    page.text("A star marks the stage in which the task itself was taught.")
    page.table(tables.measures(summary))
    page.text(_signs(summary.settings["level"], summary.settings["resampled"]))
    page.table(tables.churn(summary))
    page.table(tables.unparsed(summary))
    twin = {"recipe": recipe, "facts": _plain(facts), "row": row.to_json(), **summary.to_json()}
    return page.write("report", {**twin, "notes": list(notes), "rows": _finite(summary.rows())})


def write_comparison(
    folder: Path,
    rows: Sequence[RecipeRow],
    title: str,
    notes: Sequence[str] = (),
    *,
    points: Sequence[Point] = (),
    facts: Mapping[str, object] | None = None,
    units: str = "examples",
    sections: Mapping[str, Sequence[str | Grid]] | None = None,
    summaries: Sequence[Summary] = (),
    commands: Sequence[tuple[str, str]] = (),
    pictures: bool | None = None,
) -> Path:
    """Write ``comparison.md``, ``.json``, ``.html`` and pictures of several runs.

    Args:
        rows: one per recipe, in the order in which they are shown.
        notes: paragraphs, shown literally.
        points: the runs of a sweep, for the learning-forgetting plane, its Pareto front and the
            comparison at equal learning.
        units: what the intervals of ``rows`` are over, in words.
        sections: headings with their paragraphs, shown literally, and tables, at the end of the
            page.
        summaries: of the rows, for what became of each task.
        commands: labels and command lines that repeat the runs.

    Returns:
        The path of the page in Markdown. Pictures stand beside it: ``learned-and-lost``,
        ``figure1`` (where rows have totals and curves) and ``plane`` (where there are points).

    Raises:
        UsageError: there is no row.
        RunError: the folder cannot be written.
        MissingExtra: ``pictures=True`` without matplotlib.
    """
    if not rows:
        raise UsageError("there is nothing to compare: not one recipe has a result.")
    page = _Page(folder, _drawing(pictures))
    page.text(f"# {markdown(title)}", *map(paragraph, notes))
    if facts:
        page.text(_facts(facts))
    page.text("\n".join(f"- {paragraph(s)}" for s in map(tables.verdict, _named(rows))))
    if page.pictures:
        _comparison_pictures(page, rows, title)
    else:
        page.text(NO_PICTURES)
    page.table(tables.comparison(rows))
    page.text(_signs(rows[0].learned.level, units))
    swept = _sweep(page, points) if points else {}
    for heading, blocks in (sections or {}).items():
        page.text(f"## {markdown(heading)}", *map(_block, blocks))
    twin = {"title": title, "facts": _plain(facts), "notes": list(notes), "units": units}
    twin["sections"] = {
        heading: [b.to_json() if isinstance(b, Grid) else b for b in blocks]
        for heading, blocks in (sections or {}).items()
    }
    written = page.write("comparison", {**twin, "rows": [r.to_json() for r in rows], **swept})
    document = runs_document(
        rows, title, notes=notes, points=points, facts=facts, units=units, sections=sections,
        summaries=summaries, commands=commands,
    )  # fmt: skip
    write_html(folder / "comparison.html", document)
    return written


def _block(block: str | Grid) -> str:
    return block.markdown() if isinstance(block, Grid) else paragraph(block)


def _comparison_pictures(page: _Page, rows: Sequence[RecipeRow], title: str) -> None:
    if any(_known(r.learned.value) for r in rows):
        picture = plots.learned_and_lost(rows, title)
        page.picture(picture, "learned-and-lost", "What each recipe learned and lost")
    if any(_known(r.learned_total.value) and len(r.curve) > 2 for r in rows):
        picture = plots.figure_one(rows)
        page.picture(picture, "figure1", "Total learning and forgetting; held-out mean per stage")


def _sweep(page: _Page, points: Sequence[Point]) -> dict[str, Any]:
    """The plane, its front and the comparison at equal learning; what they say as JSON."""
    settings = pareto.over_seeds(points)
    front = pareto.pareto_front(settings)
    levels = pareto.learning_levels(points)
    rows = pareto.matched_learning(points, levels)
    areas = {
        recipe: finite(pareto.dominated_area([s for s in settings if s.recipe == recipe]))
        for recipe in dict.fromkeys(s.recipe for s in settings)
    }
    if page.pictures and settings:
        page.picture(plots.plane(settings), "plane", "Learning against forgetting")
    every = rows_of_settings(settings)
    page.table(tables.comparison(every, "Every recipe at every learning rate"))
    page.table(tables.front(front))
    if levels:
        page.table(tables.matched(rows))
        page.text(
            "Every recipe's sweep over learning rates, read off where it has learned the same. "
            "A dash: not every seed of the recipe reaches that; nothing is extrapolated."
        )
    else:
        page.text("No two recipes reach the same learning, so they cannot be compared at it.")
    return {
        "points": [p.to_json() for p in points],
        "settings": [s.to_json() for s in settings],
        "front": [s.name for s in front],
        "matched": [
            {"recipe": m.recipe, "level": m.level, "forgetting": m.forgetting.to_json()}
            for m in rows
        ],
        "dominated_area": areas,
    }


def _drawing(pictures: bool | None) -> bool:
    return plots.available() if pictures is None else pictures


def _named(rows: Sequence[RecipeRow]) -> list[RecipeRow]:
    return [replace(r, recipe=name) for r, name in zip(rows, labels(rows), strict=True)]


def _facts(facts: Mapping[str, object]) -> str:
    rows = tuple((str(k), str(v)) for k, v in facts.items())
    return Grid("", ("setting", "value"), rows, words=(0, 1)).markdown()


def _plain(facts: Mapping[str, object] | None) -> dict[str, object]:
    """Facts as JSON can hold them."""
    simple = (str, int, float, bool, type(None))
    return {k: finite(v) if isinstance(v, simple) else str(v) for k, v in (facts or {}).items()}


def _signs(level: float, units: str) -> str:
    return SIGNS.format(level=f"{100 * level:.0f}%", units=markdown(units))


def _finite(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{k: finite(v) for k, v in row.items()} for row in rows]


def _known(value: float) -> bool:
    return value == value
