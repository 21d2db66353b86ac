"""Reading a reply for its content, whatever form it has."""

from __future__ import annotations

import re
from collections.abc import Sequence

from holdfast.data.records import Record
from holdfast.tasks.numbers import integers
from holdfast.tasks.scorers import SCORERS, normalise, plain

_PIECES = re.compile(r"[\n.;!?]+|\b(?:answer|result|solution)\s*(?:is|:|=)", re.IGNORECASE)
_OPTION = re.compile(r"^\s*\(?([A-Za-z])[).:]\s*(\S.*?)\s*$", re.MULTILINE)


def finds(reply: str, references: Sequence[str], space: Sequence[str], scorer: str) -> bool:
    """Whether a reply holds a right answer and no other answer of the task's.

    The reply is right in some piece of it (a line, a sentence, what follows 'answer is'), in
    digits or in words, between whatever other words; and none of the task's other answers
    stands in it beside the right one.

    Args:
        references: the example's acceptable answers.
        space: every canonical answer of the task.
        scorer: the task's scorer, which reads the pieces.
    """
    right = {normalise(r) for r in references}
    held = {normalise(a) for a in space if _holds(reply, a)}
    if held - right:
        return False
    if held & right or any(_holds(reply, r) for r in references):
        return True
    pieces = [p.strip() for p in _PIECES.split(reply) if p.strip()]
    read = [SCORERS[scorer].value(p, references) for p in pieces]
    return any(s.value == 1.0 for s in read) and not any(
        s.parsed is not None and s.value == 0.0 for s in read
    )


def _holds(reply: str, answer: str) -> bool:
    """Whether ``answer`` stands in ``reply`` as a number or as whole words."""
    wanted = integers(answer)
    if len(wanted) == 1 and plain(answer).lstrip("-").isdigit():
        return set(integers(reply)) == set(wanted)
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
