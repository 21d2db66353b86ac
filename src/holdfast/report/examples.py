"""Which examples a page shows, what they asked, and small copies of their images."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from holdfast.errors import HoldfastError
from holdfast.measures.answers import Became, became
from holdfast.report.blocks import Examples, Shown
from holdfast.tasks.base import Answer, Example

if TYPE_CHECKING:
    from PIL.Image import Image

    from holdfast.config import RunConfig
    from holdfast.data.records import ImageRef, Record

MOST: Mapping[Became, int] = {"lost": 160, "gained": 80, "kept": 24, "missed": 24}
"""Examples of each kind that a page shows, over all tasks."""
SIDE, PICTURES, BYTES = 192, 4, 1_500_000
"""Pixels of a copy's longer side; copies per example; characters of all copies together."""

Pairs = Mapping[str, Sequence[tuple[Answer, Answer]]]
Asked = Mapping[str, Mapping[str, Example]]
"""By task and id."""


def gallery(
    pairs: Pairs,
    asked: Asked | None = None,
    *,
    causes: Mapping[str, Mapping[str, str]] | None = None,
    notes: Sequence[str] = (),
) -> Examples:
    """The examples of a page: what changed first, then some of what did not.

    Args:
        pairs: for each task, answers before and after.
        asked: the questions, as far as they are at hand.
        causes: for each task and id, what a diagnosis says of a lost example.
        notes: said above the examples.
    """
    of: dict[Became, dict[str, list[Shown]]] = {kind: {} for kind in MOST}
    for task, both in pairs.items():
        for before, after in both:
            kind = became(before, after)
            cause = (causes or {}).get(task, {}).get(before.id, "") if kind == "lost" else ""
            of[kind].setdefault(task, []).append(_shown(task, kind, before, after, cause))
    counts = {kind: sum(map(len, found.values())) for kind, found in of.items()}
    shown = [one for kind in MOST for one in _in_turn(of[kind].values(), MOST[kind])]
    order = {task: k for k, task in enumerate(pairs)}
    shown.sort(key=lambda one: (list(MOST).index(one.became), order[one.task]))
    if asked:
        shown = _with_questions(shown, asked)
    said = [*notes, _counted(counts, shown)] if any(counts.values()) else list(notes)
    return Examples(shown, {k: n for k, n in counts.items() if n}, said)


def questions_of(
    config: RunConfig, wanted: Iterable[str]
) -> tuple[dict[str, dict[str, Example]], str]:
    """A run's questions by task and id, as far as its data is still there, and what is missing.

    Args:
        wanted: names of tasks; lm-eval's keep their questions to themselves.
    """
    from holdfast.engine.scoring import load_tasks
    from holdfast.engine.skills import open_task
    from holdfast.trust import trusting

    missing: list[str] = []
    found: dict[str, dict[str, Example]] = {}
    names = set(wanted)
    with trusting(config.trust):
        for stage in config.data:
            if stage.label in names:
                try:
                    found[stage.label] = _by_id(open_task(stage, config).examples)
                except (HoldfastError, OSError) as error:
                    missing.append(f"{stage.label} ({error})")
        for name in config.tasks:
            if name.startswith("lm_eval:"):
                continue
            try:
                for task in load_tasks([name], model=config.model, limit=config.evaluate.limit):
                    found.setdefault(task.name, _by_id(task.examples))
            except (HoldfastError, OSError) as error:
                missing.append(f"{name} ({error})")
    said = f"Questions that are not at hand: {'; '.join(missing)[:400]}" if missing else ""
    return found, said


def _by_id(examples: Iterable[Example]) -> dict[str, Example]:
    return {e.id: e for e in examples}


def _shown(task: str, kind: Became, before: Answer, after: Answer, cause: str) -> Shown:
    return Shown(
        task=task,
        id=before.id,
        became=kind,
        question="",
        references=before.references,
        before=before.reply,
        after=after.reply,
        read_before=before.parsed,
        read_after=after.parsed,
        score_before=before.score,
        score_after=after.score,
        cause=cause,
    )


def _in_turn(groups: Iterable[Sequence[Shown]], most: int) -> list[Shown]:
    """From each group in turn, so that a large task leaves room for the others."""
    queues = [list(reversed(group)) for group in groups if group]
    chosen: list[Shown] = []
    while queues and len(chosen) < most:
        for queue in queues:
            if len(chosen) < most:
                chosen.append(queue.pop())
        queues = [queue for queue in queues if queue]
    return chosen


def _counted(counts: Mapping[Became, int], shown: Sequence[Shown]) -> str:
    parts = []
    for kind, count in counts.items():
        here = sum(one.became == kind for one in shown)
        parts.append(f"{count:,} {kind}" + (f" ({here} shown)" if here < count else ""))
    return (
        f"{', '.join(parts)}. Lost: right before, wrong after. Gained: the reverse. Kept: right "
        "both times. Missed: wrong both times."
    )


# Questions and images


def _with_questions(shown: Sequence[Shown], asked: Asked) -> list[Shown]:
    album = _Album()
    full = []
    for one in shown:
        example = asked.get(one.task, {}).get(one.id)
        if example is None:
            full.append(one)
            continue
        record = example.prompt
        full.append(replace(one, question=_question(record), images=album.copies(record.images)))
    return full


def _question(record: Record) -> str:
    """The conversation up to the answer; turns are named where there are several."""
    turns = [(m.role, m.text.strip()) for m in record.messages]
    said = [(role, text) for role, text in turns if text]
    if len(said) == 1:
        return said[0][1]
    return "\n".join(f"{role}: {text}" for role, text in said)


@dataclass
class _Album:
    """Copies of images, as many as a page can hold; the same image is copied once."""

    left: int = BYTES
    known: dict[ImageRef, str] = field(default_factory=dict)

    def copies(self, images: Sequence[ImageRef]) -> list[str]:
        found = (self._copy(image) for image in images[:PICTURES])
        return [copy for copy in found if copy]

    def _copy(self, image: ImageRef) -> str:
        if image not in self.known:
            self.known[image] = _address(image)
        copy = self.known[image]
        if len(copy) > self.left:
            return ""
        self.left -= len(copy)
        return copy


def _address(image: ImageRef) -> str:
    """A ``data:`` address of a small copy, or '' where the image cannot be read."""
    from holdfast.data.images import load_image

    try:
        opened = load_image(image)
    except (HoldfastError, OSError):
        return ""
    kind, data = _encoded(opened)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _encoded(image: Image) -> tuple[str, bytes]:
    """PNG or JPEG, whichever is smaller; the bytes carry nothing but the pixels."""
    image = image.copy()
    image.thumbnail((SIDE, SIDE))
    best: tuple[str, bytes] | None = None
    for kind, settings in (("png", {"optimize": True}), ("jpeg", {"quality": 72})):
        buffer = io.BytesIO()
        image.save(buffer, format=kind, **settings)
        if best is None or len(buffer.getvalue()) < len(best[1]):
            best = kind, buffer.getvalue()
    assert best is not None
    return best
