"""Which format a data set is in, told from the fields of many rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.data import convert
from holdfast.data.convert import PLACEHOLDER, Draft
from holdfast.data.problems import shown
from holdfast.errors import DataError, UnknownName

SEEN = 1000
"""How many rows are looked at before the format is settled."""


@dataclass(frozen=True)
class Format:
    """A format: how it is recognised, and how a row of it becomes a record."""

    name: str
    fields: str
    """The fields that make it, for messages."""
    matches: Callable[[Mapping[str, Any]], bool]
    convert: Callable[[Draft], None]
    raw: bool = False


def _has(*names: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda row: all(row.get(n) is not None for n in names)


def _turns(row: Mapping[str, Any], key: str, *fields: str) -> bool:
    turns = row.get(key)
    return (
        isinstance(turns, list | tuple)
        and bool(turns)
        and isinstance(turns[0], Mapping)
        and any(f in turns[0] for f in fields)
    )


def _messages(row: Mapping[str, Any]) -> bool:
    others = ("conversations", "conversation")
    return row.get("messages") is not None or any(_turns(row, k, "role") for k in others)


def _conversations(row: Mapping[str, Any]) -> bool:
    return row.get("conversations") is not None and not _turns(row, "conversations", "role")


def _with_images(row: Mapping[str, Any]) -> bool:
    if any(row.get(k) for k in convert.IMAGE_KEYS):
        return True
    turns = row.get("conversations")
    return isinstance(turns, list | tuple) and any(
        isinstance(t, Mapping) and PLACEHOLDER in str(t.get("value")) for t in turns
    )


def _question_answer(row: Mapping[str, Any]) -> bool:
    return _has("question")(row) and (_has("answer")(row) or _has("answers")(row))


FORMATS = {
    f.name: f
    for f in (
        Format("messages", "messages: [{role, content}]", _messages, convert.from_messages),
        Format("sharegpt", "conversations: [{from, value}]", _conversations, convert.from_sharegpt),
        Format(
            "llava",
            "conversations: [{from, value}] with <image>, and image",
            lambda row: _conversations(row) and _with_images(row),
            convert.from_sharegpt,
        ),
        Format(
            "prompt-completion",
            "prompt, completion",
            _has("prompt", "completion"),
            convert.from_prompt_completion,
        ),
        Format("alpaca", "instruction, output", _has("instruction", "output"), convert.from_alpaca),
        Format(
            "question-answer",
            "question, answer or answers",
            _question_answer,
            convert.from_question_answer,
        ),
        Format("text", "text", _has("text"), convert.from_text, raw=True),
    )
}


def named_format(name: str) -> Format:
    """Raises:
    UnknownName: with the nearest match and what exists.
    """
    if name not in FORMATS:
        raise UnknownName("data format", name, FORMATS)
    return FORMATS[name]


def detect(rows: Sequence[Mapping[str, Any]], source: str) -> Format:
    """The format that most rows are in.

    Rows that are not in it become problems when they are converted. ``text`` counts only
    where nothing else fits, since many sets keep a rendered copy of each record under it;
    conversations with images anywhere are ``llava``.

    Raises:
        DataError: no format fits, or two fit equally well; the message lists the fields that
            were found and says how to choose.
    """
    votes = {name: sum(f.matches(row) for row in rows) for name, f in FORMATS.items()}
    llava = votes.pop("llava")
    text = votes.pop("text")
    best = max(votes.values())
    if best == 0:
        if text:
            return FORMATS["text"]
        raise DataError(_unknown(rows, source))
    winners = [name for name, count in votes.items() if count == best]
    if len(winners) > 1:
        raise DataError(
            f"{source}: the fields fit {' and '.join(winners)} equally well; choose one, for "
            f"example format={winners[0]!r}"
        )
    if winners == ["sharegpt"] and llava:
        return FORMATS["llava"]
    return FORMATS[winners[0]]


def _unknown(rows: Sequence[Mapping[str, Any]], source: str) -> str:
    fields = sorted({str(k) for row in rows for k, v in row.items() if v is not None})
    known = "; ".join(f"{f.name} ({f.fields})" for f in FORMATS.values())
    found = shown(", ".join(fields), 200) if fields else "no fields"
    extra = ""
    if {"chosen", "rejected"} <= set(fields):
        extra = " Preference pairs are not used here: keep the chosen answer as the completion."
    return f"{source}: the fields {found} fit no known format.{extra} Known: {known}"
