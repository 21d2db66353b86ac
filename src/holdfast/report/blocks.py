"""What a page is made of: typed blocks that templates turn into HTML.

Text in a block is plain: it is escaped where it is shown, never before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from holdfast.measures.answers import Became
from holdfast.measures.interval import Estimate
from holdfast.report.tables import Grid


@dataclass(frozen=True)
class Prose:
    """A paragraph."""

    kind: ClassVar[str] = "prose"
    text: str


@dataclass(frozen=True)
class Table:
    """A table of strings; ``folded`` keeps it out of the way until it is opened."""

    kind: ClassVar[str] = "table"
    grid: Grid
    folded: bool = False


@dataclass(frozen=True)
class HeatCell:
    """One score."""

    value: float
    """In ``[low, high]`` of its map; NaN: not measured."""
    text: str
    own: bool = False
    """The task was taught in this column's stage."""


@dataclass(frozen=True)
class HeatGroup:
    """Rows under one heading."""

    title: str
    rows: Sequence[tuple[str, Sequence[HeatCell]]]


@dataclass(frozen=True)
class Heat:
    """A matrix whose cells are shaded; every cell has its number too.

    A ``diverging`` map is shaded from ``low`` (loss) over 0 (nothing) to ``high`` (gain).
    """

    kind: ClassVar[str] = "heat"
    title: str
    corner: str
    columns: Sequence[str]
    groups: Sequence[HeatGroup]
    low: float = 0.0
    high: float = 100.0
    diverging: bool = False
    note: str = ""

    def shade(self, value: float) -> str:
        """The class of a cell: ``h0`` to ``h9``, ``l1`` to ``l5``, ``g1`` to ``g5``, or none."""
        if value != value:
            return "none"
        if not self.diverging:
            share = (value - self.low) / ((self.high - self.low) or 1.0)
            return f"h{min(9, max(0, int(10 * share)))}"
        reach = max(abs(self.low), abs(self.high)) or 1.0
        steps = min(5, round(5 * abs(value) / reach))
        return "none" if steps == 0 else f"{'l' if value < 0 else 'g'}{steps}"


@dataclass(frozen=True)
class IntervalRow:
    """A number with its interval, on the axis that its chart shares."""

    label: str
    estimate: Estimate
    series: Literal["learned", "lost", "other"] = "other"
    note: str = ""


@dataclass(frozen=True)
class Intervals:
    """Numbers with intervals under each other, drawn and written out. In points."""

    kind: ClassVar[str] = "intervals"
    title: str
    rows: Sequence[IntervalRow]
    header: str = "task"
    unit: str = "points"


@dataclass(frozen=True)
class Chart:
    """A drawing of ours: see :mod:`holdfast.report.svg`."""

    kind: ClassVar[str] = "chart"
    title: str
    svg: str
    """Markup that :mod:`holdfast.report.svg` made: safe."""
    x: str = ""
    y: str = ""
    legend: Sequence[tuple[int, str]] = ()
    """Series numbers and their names."""
    note: str = ""


@dataclass(frozen=True)
class Small:
    """One of many small charts."""

    title: str
    svg: str
    text: str


@dataclass(frozen=True)
class Multiples:
    """Small charts side by side, on the same axes."""

    kind: ClassVar[str] = "multiples"
    title: str
    charts: Sequence[Small]
    note: str = ""


@dataclass(frozen=True)
class Share:
    """A task's parts of a whole, in percent."""

    label: str
    parts: Sequence[tuple[str, Estimate]]
    note: str = ""


@dataclass(frozen=True)
class Shares:
    """Stacked bars, with the numbers."""

    kind: ClassVar[str] = "shares"
    title: str
    rows: Sequence[Share]
    meaning: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Facts:
    """Names and values, in order."""

    kind: ClassVar[str] = "facts"
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Command:
    """A line that can be copied."""

    kind: ClassVar[str] = "command"
    label: str
    text: str


@dataclass(frozen=True)
class Source:
    """A text of several lines, folded until it is opened."""

    kind: ClassVar[str] = "source"
    title: str
    text: str


@dataclass(frozen=True)
class Shown:
    """One example with both replies."""

    task: str
    id: str
    became: Became
    question: str
    references: Sequence[str]
    before: str
    after: str
    read_before: str | None
    read_after: str | None
    score_before: float
    score_after: float
    cause: str = ""
    images: Sequence[str] = ()
    """``data:`` addresses of small copies."""


@dataclass(frozen=True)
class Examples:
    """Examples that can be searched and filtered."""

    kind: ClassVar[str] = "examples"
    shown: Sequence[Shown]
    counts: dict[str, int]
    """By what became of them, of all examples, shown or not."""
    notes: Sequence[str] = ()

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(e.task for e in self.shown))


Block = (
    Prose
    | Table
    | Heat
    | Intervals
    | Chart
    | Multiples
    | Shares
    | Facts
    | Command
    | Source
    | Examples
)


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    id: str
    title: str
    blocks: Sequence[Block]
    lead: str = ""


@dataclass(frozen=True)
class Figure:
    """A number that the page begins with."""

    label: str
    value: str
    note: str = ""
    series: Literal["learned", "lost", ""] = ""


@dataclass(frozen=True)
class Document:
    """A page."""

    title: str
    about: str
    """What kind of page this is, in a few words."""
    verdict: str
    """One sentence."""
    lead: str = ""
    figures: Sequence[Figure] = ()
    sections: Sequence[Section] = field(default_factory=tuple)
