"""How a reply is compared with the acceptable answers.

``SCORERS[name].value(reply, references) -> Score``. A scorer is a pure function of text: it
reads the reply, reads the references in the same way, and compares the two readings. A reply
that cannot be read has ``parsed=None`` and value 0, and is reported in a column of its own,
so that a lost answer format is never mistaken for lost knowledge.

The scorers whose names end in ``_lmmcl`` repeat the official quirks of Zhu et al. (2025)
for comparison with published numbers; everything else is free of them.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from holdfast.registry import Registry
from holdfast.tasks.base import Answer, Score, Scorer

SCORERS: Registry[Scorer] = Registry(
    "scorer",
    "holdfast.tasks.scorers",
    "holdfast.tasks.letters",
    "holdfast.tasks.numbers",
    "holdfast.tasks.documents",
    "holdfast.tasks.clock",
    "holdfast.tasks.lmmcl",
    "holdfast.tasks.coin",
)

DETAILS: dict[str, Callable[[Sequence[Answer]], Mapping[str, float]]] = {}
"""Extra columns (in percent) that some scorers give about a whole task, by scorer name."""

_QUOTES = "\"'`“”‘’«»"
_TRAILING = ".,;:!?。！？"
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def unreadable(scorer: str, references: Sequence[str]) -> str | None:
    """Why ``scorer`` cannot be used with these references, or None: it must read them itself.

    Raises:
        UnknownName: there is no such scorer.
    """
    if SCORERS[scorer].value(references[0], references).parsed is not None:
        return None
    return f"the scorer '{scorer}' cannot read the answer {references[0]!r:.80}"


def plain(text: str) -> str:
    """One form of the same text: compatibility characters unified, white space collapsed."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


def normalise(text: str) -> str:
    """What ``exact`` compares: case, outer quotes and trailing punctuation do not count.

    Articles and inner punctuation do count: 'a cat' is not 'cat'. A text of nothing but
    punctuation stays as it is, so that '?' can be an answer.
    """
    folded = plain(text).casefold()
    bare = folded
    while bare and (bare[-1] in _TRAILING or bare[-1] in _QUOTES or bare[0] in _QUOTES):
        bare = bare.rstrip(_TRAILING + _QUOTES + " ").lstrip(_QUOTES + " ")
    return bare or folded


@SCORERS.register("exact", summary="same text, but for case, quotes and final punctuation")
def exact(reply: str, references: Sequence[str]) -> Score:
    """1 if the reply equals a reference after :func:`normalise`; an empty reply is unread."""
    said = normalise(reply)
    if not said:
        return Score(0.0, None)
    return Score(float(said in {normalise(r) for r in references}), said)


@SCORERS.register("contains", summary="the reply holds a reference as whole words")
def contains(reply: str, references: Sequence[str]) -> Score:
    """1 if a reference stands in the reply between word boundaries: 'cat' is not in 'concat'."""
    said = normalise(reply)
    if not said:
        return Score(0.0, None)
    wanted = (normalise(r) for r in references)
    held = any(w and re.search(rf"(?<!\w){re.escape(w)}(?!\w)", said) for w in wanted)
    return Score(float(held), said)


@SCORERS.register(
    "f1",
    summary="overlap of words, harmonic mean of precision and recall",
    paper="Rajpurkar et al. 2016, arXiv 1606.05250",
)
def f1(reply: str, references: Sequence[str]) -> Score:
    """Word-multiset F1, the best over the references, without case, punctuation, articles."""
    said = _squad_words(reply)
    if not said:
        return Score(0.0, None)
    return Score(max((_overlap(said, _squad_words(r)) for r in references), default=0.0), said)


def _squad_words(text: str) -> str:
    kept = "".join(c for c in plain(text).lower() if unicodedata.category(c)[0] != "P")
    return " ".join(_ARTICLES.sub(" ", kept).split())


def _overlap(said: str, wanted: str) -> float:
    a, b = Counter(said.split()), Counter(wanted.split())
    shared = (a & b).total()
    return 2 * shared / (a.total() + b.total()) if shared else 0.0


_AFFIRM = re.compile(r"(?<![\w'])(yes|no)(?![\w'])")
_CUE_YES = re.compile(r"\banswer\s*(?:is|was|:|=)+\s*[\W_]*(yes|no)\b")
_NO_ANSWER = re.compile(r"^\W*(?:no (?:idea|clue|answer|comment)\b|(?:yes|no)\s*(?:/|or|and)\s*)")


@SCORERS.register("yes_no", summary="yes or no, read from the start of the reply or its only yes")
def yes_no(reply: str, references: Sequence[str]) -> Score:
    """Compare what the reply affirms.

    Read, in this order: after 'answer is'; as the first word; as the only one of the two
    words in the reply, where 'no' must be its last word ('there is no sign of it' answers
    another question). 'Yes and no', 'no idea' and a reply with neither are unread.
    """
    said = affirmation(reply)
    if said is None:
        return Score(0.0, None)
    return Score(float(said in {affirmation(r) for r in references}), said)


def affirmation(text: str) -> str | None:
    """'yes', 'no' or None; see :func:`yes_no`."""
    low = plain(text).lower().replace("’", "'")
    if cue := _CUE_YES.search(low):
        return cue.group(1)
    if _NO_ANSWER.match(low):
        return None
    if lead := re.match(r"[\W_]*(yes|no)(?![\w'])", low):
        return lead.group(1)
    found = {m.group(1) for m in _AFFIRM.finditer(low)}
    if found == {"yes"}:
        return "yes"
    if found == {"no"} and re.search(r"(?<![\w'])no[\W_]*$", low):
        return "no"
    return None
