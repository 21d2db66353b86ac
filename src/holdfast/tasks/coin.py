"""Scorers of CoIN's tasks (Chen et al. 2024; "Truth Alignment" of Chen et al. 2025, SEFE).

Facts from the released scripts. Where they have a flaw, the scorer without it is the default and
the one with it has a name that ends in ``_coin_compat``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from holdfast.tasks.base import Score
from holdfast.tasks.documents import vqa
from holdfast.tasks.scorers import SCORERS, plain

_PAPER = "Chen et al. 2024, arXiv 2403.08350; Chen et al. 2025, arXiv 2505.02486"
_SAYS = re.compile(r"The answer is ([A-Z])\.")
_SAYS_COMPAT = re.compile(r"The answer is ([A-Z]).")


@SCORERS.register("science_qa", summary="a letter, 'X. ...' or 'The answer is X.'", paper=_PAPER)
def science_qa(reply: str, references: Sequence[str]) -> Score:
    """The option's letter in one of the three forms that the official script reads."""
    said = _letter(reply)
    wanted = {_letter(r) for r in references}
    return Score(0.0, None) if said is None else Score(float(said in wanted), said)


@SCORERS.register(
    "science_qa_coin_compat", summary="compatibility: any character ends the answer", paper=_PAPER
)
def science_qa_coin_compat(reply: str, references: Sequence[str]) -> Score:
    """The official pattern's full stop is any character: 'The answer is Bob' answers B."""
    said = _letter(reply, _SAYS_COMPAT)
    wanted = {_letter(r) for r in references}
    return Score(0.0, None) if said is None else Score(float(said in wanted), said)


def _letter(text: str, says: re.Pattern[str] = _SAYS) -> str | None:
    text = text.strip()
    if re.fullmatch(r"[A-Z]", text):
        return text
    if re.match(r"[A-Z]\. ", text):
        return text[0]
    found = says.findall(text)
    return found[0] if len(found) == 1 else None


@SCORERS.register(
    "textvqa_m4c",
    summary="soft accuracy over the annotators' answers, M4C's normalisation",
    paper="Singh et al. 2019, arXiv 1904.08920; Hu et al. 2020 (M4C)",
)
def textvqa_m4c(reply: str, references: Sequence[str]) -> Score:
    """:func:`holdfast.tasks.documents.vqa` on words split as M4C does: ',' and '?' are dropped
    wherever they stand, and "'s" is a word.

    References are all annotators' answers, repeated as often as they were given (10 in TextVQA).
    """
    return vqa(_split(reply), [_split(r) for r in references])


def _split(text: str) -> str:
    """What M4C does before the VQA evaluation's own normalisation."""
    return text.lower().replace(",", "").replace("?", "").replace("'s", " 's")


@SCORERS.register(
    "imagenet_coin", summary="label in the reply, or reply in the label", paper=_PAPER
)
def imagenet_coin(reply: str, references: Sequence[str]) -> Score:
    """One holds the other, without case; an empty reply, held by every label, is unread.

    The official script counts an empty prediction as right, and case (``imagenet_coin_compat``).
    """
    said = plain(reply).lower()
    return Score(0.0, None) if not said else Score(_holds(said, map(str.lower, references)), said)


@SCORERS.register(
    "imagenet_coin_compat", summary="compatibility: empty is right, case counts", paper=_PAPER
)
def imagenet_coin_compat(reply: str, references: Sequence[str]) -> Score:
    """The official script: one holds the other, letter by letter."""
    said = reply.strip()
    return Score(_holds(said, references), said)


def _holds(said: str, references: Iterable[str]) -> float:
    labels = [plain(r) for r in references]
    return float(any(said in label or label in said for label in labels))


@SCORERS.register(
    "ocrvqa_coin", summary="equal but for case; 'Unanswerable' is wrong", paper=_PAPER
)
def ocrvqa_coin(reply: str, references: Sequence[str]) -> Score:
    """Equality without case; a reply that holds 'Unanswerable' is wrong, whatever else it says."""
    said = plain(reply).lower()
    if not said:
        return Score(0.0, None)
    refused = "Unanswerable" in reply
    return Score(float(not refused and said in {plain(r).lower() for r in references}), said)


@SCORERS.register("gqa_coin", summary="equal but for case and full stops at the end", paper=_PAPER)
def gqa_coin(reply: str, references: Sequence[str]) -> Score:
    """Equality without case; the official conversion takes full stops off the reply's end."""
    said = plain(reply).rstrip(".").lower()
    if not said:
        return Score(0.0, None)
    return Score(float(said in {plain(r).lower() for r in references}), said)


@SCORERS.register("vqa_coin", summary="equal but for case (VQAv2, VizWiz)", paper=_PAPER)
def vqa_coin(reply: str, references: Sequence[str]) -> Score:
    """Equality without case and outer white space."""
    said = plain(reply).lower()
    if not said:
        return Score(0.0, None)
    return Score(float(said in {plain(r).lower() for r in references}), said)


_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_BOX = re.compile(rf"[\[(]\s*({_NUMBER}(?:\s*,\s*|\s+){_NUMBER}(?:\s*,\s*|\s+){_NUMBER}"
                  rf"(?:\s*,\s*|\s+){_NUMBER})\s*[\])]")  # fmt: skip
_BARE = re.compile(rf"^\s*({_NUMBER}(?:\s*,\s*{_NUMBER}){{3}})\s*\.?\s*$")


@SCORERS.register("grounding_iou", summary="intersection over union above one half", paper=_PAPER)
def grounding_iou(reply: str, references: Sequence[str]) -> Score:
    """1 if the reply's first box and a reference overlap with IoU > 0.5.

    Boxes are [x1, y1, x2, y2] in any one unit: on the square that CoIN pads images to, sides
    have one scale and IoU does not depend on it.
    """
    said = box(reply)
    if said is None:
        return Score(0.0, None)
    wanted = [b for r in references if (b := box(r)) is not None]
    best = max((iou(said, b) for b in wanted), default=0.0)
    return Score(float(best > 0.5), "[" + ", ".join(f"{v:g}" for v in said) + "]")


@SCORERS.register("grounding_coin_compat", summary="compatibility: clipped digits", paper=_PAPER)
def grounding_coin_compat(reply: str, references: Sequence[str]) -> Score:
    """The official parser takes all brackets out and then a character more at either end."""
    said = _clipped(reply)
    if said is None:
        return Score(0.0, None)
    wanted = [b for r in references if (b := box(r)) is not None]
    best = max((iou(said, b) for b in wanted), default=0.0)
    return Score(float(best > 0.5), "[" + ", ".join(f"{v:g}" for v in said) + "]")


Box = tuple[float, float, float, float]


def box(text: str) -> Box | None:
    """The first [x1, y1, x2, y2] in a text, or a text of four numbers; None if there is none.

    A box whose corners are out of order is None: nothing lies inside it.
    """
    found = _BOX.search(text) or _BARE.match(text)
    return None if found is None else _corners(re.split(r"\s*,\s*|\s+", found.group(1)))


def _clipped(text: str) -> Box | None:
    bare = text.strip().replace("[", "").replace("]", "")[1:-1]
    return _corners(bare.split(","))


def _corners(parts: Sequence[str]) -> Box | None:
    try:
        x1, y1, x2, y2 = (float(p) for p in parts)
    except ValueError:
        return None
    return (x1, y1, x2, y2) if x1 <= x2 and y1 <= y2 else None


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes; 0 if both have no area."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    whole = areas[0] + areas[1] - shared
    return shared / whole if whole > 0 else 0.0
