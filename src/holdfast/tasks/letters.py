"""Which option a reply chose, when the options are letters."""

from __future__ import annotations

import re
from collections.abc import Sequence

from holdfast.tasks.base import Score
from holdfast.tasks.scorers import SCORERS, normalise, plain

_OPEN = r"[(\[{<*_\"'`]*"
_CLOSE = r"[)\]}>*_\"'`]*"
_ONLY = re.compile(r"^[\W_]*([A-Za-z])[\W_]*$")
_CUE = re.compile(
    r"\b(?:answer|option|choice|choose|pick|select|letter)(?:'s)?\b"
    r"(?:\s+(?:is|was|be|would be|should be|must be|letter|option|choice))*"
    rf"\s*[:=]*\s*(?:\\boxed)?({_OPEN})([A-Za-z])({_CLOSE})(?![\w'])",
    re.IGNORECASE,
)
_LABEL = re.compile(r"^[\W_]*([A-Za-z])\s*[.):\]](?=\s|$)")
_LONE = re.compile(r"(?<![\w'.-])([A-Za-z])(?![\w'-])(?!\.\w)")
_NEGATED = re.compile(
    r"\b(?:not|isn't|never|than|except)\s+(?:option\s+)?[(\[\"'*]*$", re.IGNORECASE
)
_AFTER_A = r"because|since|as|is|was|and|or|but|not|for|which|seems|looks|would|must"
_AFTER_I = r"because|since|is|and|or|not"
_WORD_FOLLOWS = {
    "A": re.compile(rf"\s+(?!(?:{_AFTER_A})\b)\w", re.IGNORECASE),
    "I": re.compile(rf"\s+(?!(?:{_AFTER_I})\b)\w", re.IGNORECASE),
}


@SCORERS.register("letter", summary="the option's letter, wherever the reply names it")
def letter(reply: str, references: Sequence[str]) -> Score:
    """Compare the option letter of the reply with the references'.

    References are letters ('B', '(b)'); others among them are the option's text, and a reply
    that is exactly that text counts as the letter. See :func:`option` for how a reply is read.
    """
    wanted = [m.group(1).upper() for r in references if (m := _ONLY.match(plain(r)))]
    said = option(reply)
    if said is None and wanted:
        texts = {normalise(r) for r in references if not _ONLY.match(plain(r))}
        said = wanted[0] if normalise(reply) in texts else None
    if said is None:
        return Score(0.0, None)
    return Score(float(said in wanted), said)


def option(reply: str) -> str | None:
    """The upper-case letter that a reply chose, or None if it names none or several.

    Tried from the most to the least explicit form, so that a letter in the explanation does
    not overrule the answer:

    1. the reply is a letter: 'B', '(c)', '**D**.'
    2. after a cue: 'The answer is B, not C', 'Option: (b)'
    3. a label in front: 'B. Indigo Bunting', 'c) sparrow'
    4. the only letter that stands alone: 'I think B', 'It must be \\boxed{C}'

    'A' and 'I' in front of a word are the article and the pronoun ('A bird', 'I think'), in
    every form but the third. A letter after 'not' is not the choice.
    """
    text = plain(reply).replace("’", "'")
    if m := _ONLY.match(text):
        return m.group(1).upper()
    cued = [
        (m.group(2), m.start(2), m.end(2), bool(m.group(1) and m.group(3)))
        for m in _CUE.finditer(text)
    ]
    chosen = {c.upper() for c, _, end, wrapped in cued if wrapped or not _is_word(text, c, end)}
    if chosen:
        return chosen.pop() if len(chosen) == 1 else None
    if m := _LABEL.match(text):
        return m.group(1).upper()
    return _only_lone_letter(text)


def _is_word(text: str, char: str, end: int) -> bool:
    """Whether the 'A' or 'I' that ends at ``end`` is an article or a pronoun."""
    following = _WORD_FOLLOWS.get(char.upper())
    return following is not None and following.match(text, end) is not None


def _only_lone_letter(text: str) -> str | None:
    lone = [
        (m.group(1), m.end())
        for m in _LONE.finditer(text)
        if not _NEGATED.search(text[: m.start()]) and not _is_word(text, m.group(1), m.end())
    ]
    upper = {c for c, _ in lone if c.isupper()}
    found = upper or {c.upper() for c, _ in lone if c not in "ai"}
    return found.pop() if len(found) == 1 else None
