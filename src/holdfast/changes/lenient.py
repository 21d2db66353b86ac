"""Reading a reply for its content, whatever form it has."""

from __future__ import annotations

import re
from collections.abc import Sequence

from holdfast.data.records import Record
from holdfast.tasks.numbers import integers
from holdfast.tasks.scorers import SCORERS, normalise, plain

_SENTENCE = re.compile(r"[\n;!?]+|\.(?!\d)")
_CUE = re.compile(r"\b(?:answer|result|solution)\s*(?:is|:|=)", re.IGNORECASE)
_OPTION = re.compile(r"^\s*\(?([A-Za-z])[).:]\s*(\S.*?)\s*$", re.MULTILINE)


def finds(reply: str, references: Sequence[str], space: Sequence[str], scorer: str) -> bool:
    """Whether a reply holds a right answer and no other answer of the task's.

    What follows 'answer is' counts alone; else every sentence does, and none of the task's other
    answers may stand in the reply beside the right one. Numbers may be in digits or in words.

    Args:
        references: the example's acceptable answers.
        space: every canonical answer of the task.
        scorer: the task's scorer, which reads the pieces.
    """
    *_, reply = _CUE.split(reply)
    right = {normalise(r) for r in references}
    held = {normalise(a) for a in (*space, *references) if _holds(reply, a)}
    if held:
        return held <= right
    pieces = [piece.strip() for piece in _SENTENCE.split(reply) if piece.strip()]
    read = [SCORERS[scorer].value(piece, references) for piece in pieces if not _mixed(piece)]
    said = [score for score in read if score.parsed is not None]
    return bool(said) and all(score.value == 1.0 for score in said)


def _mixed(piece: str) -> bool:
    """Whether a piece holds several numbers, of which nobody can say which is meant."""
    return len(set(integers(piece))) > 1


def _holds(reply: str, answer: str) -> bool:
    """Whether ``answer`` stands in ``reply`` as its only number, or as whole words."""
    if plain(answer).lstrip("-").isdigit():
        return set(integers(reply)) == set(integers(answer))
    text = normalise(answer)
    if len(text) == 1 and text.isalpha():
        return False  # a letter is a word of the language as often as an option
    return re.search(rf"(?<!\w){re.escape(text)}(?!\w)", normalise(reply)) is not None


def options(prompt: Record) -> dict[str, str]:
    """The options that a question lists, 'A. sparrow', by letter."""
    text = "\n".join(m.text for m in prompt.messages)
    return {letter.upper(): words for letter, words in _OPTION.findall(text)}


def with_options(references: Sequence[str], listed: dict[str, str]) -> tuple[str, ...]:
    """The references, and the words of an option where a reference is its letter."""
    words = [listed[r.upper()] for r in references if r.upper() in listed]
    return (*references, *words)
