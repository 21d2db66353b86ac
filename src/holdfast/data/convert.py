"""One row of each format, as a record."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.data.problems import shown
from holdfast.data.records import ImageRef, Message, Part, Record, Role

PLACEHOLDER = "<image>"
IMAGE_KEYS = ("images", "image")

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "observation": "tool",
}


class BadField(Exception):
    """A field that is not what it should be."""

    def __init__(self, name: str, found: str, expected: str) -> None:
        super().__init__(name, found, expected)
        self.name, self.found, self.expected = name, found, expected


Resolve = Callable[[Any, str], ImageRef]
"""``resolve(value, field) -> ImageRef``; raises :class:`BadField`."""


@dataclass
class Draft:
    """A record in the making: turns with their images, and what was wrong with them."""

    row: Mapping[str, Any]
    resolve: Resolve
    messages: list[Message] = field(default_factory=list)
    inline: list[ImageRef | None] = field(default_factory=list)
    """The image of each image part so far; None for one that comes from the image column."""
    used: set[str] = field(default_factory=set)
    problems: list[BadField] = field(default_factory=list)
    notice: str = ""

    def take(self, *names: str) -> Any:
        """The first of these fields that has a value; the others are used up with it."""
        self.used.update(names)
        return next((self.row[n] for n in names if self.row.get(n) is not None), None)

    def add(self, role: Role, content: Any, name: str, *, train: bool = True) -> None:
        """Add a turn; a problem with it is noted and reading goes on."""
        try:
            parts = tuple(self._parts(content, name))
            if not parts or not any(p.kind == "image" or p.text.strip() for p in parts):
                # An empty system turn or history cell says nothing; an empty answer teaches it.
                if role == "system":
                    return
                what = "answer" if role == "assistant" else f"{role} turn"
                raise BadField(name, f"an empty {what} ({shown(content)})", "some text")
            self.messages.append(Message(role, parts, train or role != "assistant"))
        except BadField as error:
            self.problems.append(error)

    def _parts(self, content: Any, name: str) -> Iterator[Part]:
        if isinstance(content, str):
            _whole(content, name)
            yield from self._placeholders(content)
        elif isinstance(content, list | tuple) and content:
            for i, block in enumerate(content):
                yield from self._block(block, f"{name}[{i}]")
        else:
            raise BadField(name, _what(content), "a string or a list of content blocks")

    def _placeholders(self, text: str) -> Iterator[Part]:
        """Text around ``<image>``; the line break that sets a placeholder apart goes with it."""
        pieces = text.split(PLACEHOLDER)
        for i, piece in enumerate(pieces):
            if i > 0:
                self.inline.append(None)
                yield Part("image")
                piece = piece.removeprefix("\n")
            if i < len(pieces) - 1:
                piece = piece.removesuffix("\n")
            if piece:
                yield Part("text", piece)

    def _block(self, block: Any, name: str) -> Iterator[Part]:
        if not isinstance(block, Mapping):
            raise BadField(name, _what(block), "an object with a type (text, image, image_url)")
        kind = block.get("type") or ("text" if block.get("text") is not None else None)
        if kind == "text":
            text = block.get("text")
            if not isinstance(text, str):
                raise BadField(f"{name}.text", _what(text), "a string")
            _whole(text, f"{name}.text")
            if text:
                yield Part("text", text)
        elif kind in ("image", "image_url"):
            self.inline.append(self._inline_image(block, name))
            yield Part("image")
        else:
            raise BadField(f"{name}.type", shown(kind), "text, image or image_url")

    def _inline_image(self, block: Mapping[str, Any], name: str) -> ImageRef | None:
        for key in ("image", "image_url", "url", "path", "bytes"):
            value = block.get(key)
            if value is not None:
                if key == "image_url" and isinstance(value, Mapping):
                    value = value.get("url")
                return self.resolve(value, f"{name}.{key}")
        return None

    def finish(self, record_id: str, *, raw: bool = False) -> Record | None:
        """The record, or None if it has problems."""
        images = self._images()
        if not self.messages and not self.problems:
            self.problems.append(BadField("the record", "no turns", "at least one turn"))
        if self.problems:
            return None
        meta = {k: v for k, v in self.row.items() if k not in self.used and v is not None}
        return Record(tuple(self.messages), images, record_id, raw, meta)

    def _images(self) -> tuple[ImageRef, ...]:
        """Images in the order of their places: from blocks, and from the image column."""
        column = self._column()
        open_places = self.inline.count(None)
        if column and not self.inline:
            self._put_in_front(len(column))
        elif open_places != len(column) and not self.problems:
            self.problems.append(
                BadField(
                    "images",
                    f"{open_places} image place(s) in the text and {len(column)} image(s)",
                    f"as many images as places ({PLACEHOLDER} or image blocks)",
                )
            )
        if self.problems:
            return ()
        rest = iter(column)
        return tuple(image or next(rest) for image in self.inline)

    def _column(self) -> list[ImageRef]:
        found: list[ImageRef] = []
        for key in IMAGE_KEYS:
            value = self.take(key)
            if value is None or value == "":
                continue
            many = isinstance(value, list | tuple)
            for i, item in enumerate(value if many else [value]):
                try:
                    found.append(self.resolve(item, f"{key}[{i}]" if many else key))
                except BadField as error:
                    self.problems.append(error)
        return found

    def _put_in_front(self, count: int) -> None:
        for i, message in enumerate(self.messages):
            if message.role == "user":
                parts = (Part("image"),) * count + message.parts
                self.messages[i] = Message(message.role, parts, message.train)
                self.inline = [None] * count
                self.notice = (
                    "have images but no place for them in the text; "
                    "the images were put in front of the first user turn"
                )
                return
        self.problems.append(
            BadField("images", f"{count} image(s) and no user turn", "a user turn")
        )


def from_messages(draft: Draft) -> None:
    turns = draft.take("messages", "conversations", "conversation")
    name = next((n for n in ("messages", "conversations", "conversation") if n in draft.row), "")
    _turns(draft, turns, name, ("role", "from"), ("content", "value"))


def from_sharegpt(draft: Draft) -> None:
    _system(draft)
    _turns(
        draft, draft.take("conversations"), "conversations", ("from", "role"), ("value", "content")
    )


def from_prompt_completion(draft: Draft) -> None:
    for key, role in (("prompt", "user"), ("completion", "assistant")):
        value = draft.take(key)
        if isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
            _turns(draft, value, key, ("role",), ("content",), train=key == "completion")
        else:
            draft.add(ROLES[role], value, key)


def from_text(draft: Draft) -> None:
    text = draft.take("text")
    if isinstance(text, str) and text.strip() and is_text(text):
        draft.messages.append(Message("assistant", (Part("text", text),)))
    else:
        draft.problems.append(BadField("text", _what(text), "a string that is not empty"))


def from_alpaca(draft: Draft) -> None:
    _system(draft)
    history = draft.take("history") or []
    if not isinstance(history, list | tuple):
        draft.problems.append(BadField("history", _what(history), "a list of pairs"))
        history = []
    for i, pair in enumerate(history):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            draft.problems.append(
                BadField(f"history[{i}]", _what(pair), "a pair [instruction, output]")
            )
            continue
        draft.add("user", pair[0], f"history[{i}][0]")
        draft.add("assistant", pair[1], f"history[{i}][1]")
    instruction, extra = draft.take("instruction"), draft.take("input")
    if extra is not None and not isinstance(extra, str):
        draft.problems.append(BadField("input", _what(extra), "a string"))
    elif extra and isinstance(instruction, str):
        instruction = f"{instruction}\n{extra}" if instruction else extra
    draft.add("user", instruction, "instruction")
    draft.add("assistant", draft.take("output"), "output")


def from_question_answer(draft: Draft) -> None:
    """``answers`` (several accepted answers) stay in meta; the first one is taught.

    A whole number beside ``choices`` is the index of the right one, from 0, as in MMLU.
    """
    _system(draft)
    draft.add("user", draft.take("question"), "question")
    answer = draft.take("answer")
    name = "answer"
    if answer is None:
        name, answers = "answers", draft.row.get("answers")
        if isinstance(answers, list | tuple) and answers:
            answer = answers[0]
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        try:
            answer = _option(answer, draft.row.get("choices"))
        except BadField as error:
            draft.problems.append(error)
            return
    draft.add("assistant", answer, name)


def _option(answer: int | float, choices: Any) -> Any:
    if isinstance(answer, float) and not math.isfinite(answer):
        raise BadField("answer", str(answer), "a finite number or text")
    if not isinstance(choices, list | tuple) or not isinstance(answer, int):
        return written(answer)
    if not 0 <= answer < len(choices):
        raise BadField("answer", str(answer), f"the index of a choice, 0 to {len(choices) - 1}")
    return choices[answer]


def written(number: int | float) -> str:
    """A number as text.

    Raises:
        BadField: it has more digits than a number that means something.
    """
    if isinstance(number, int) and number.bit_length() > 3000:
        raise BadField("answer", shown(number), "a number that can be written")
    return str(number)


def _system(draft: Draft) -> None:
    system = draft.take("system")
    if system:
        draft.add("system", system, "system")


def _turns(
    draft: Draft,
    turns: Any,
    name: str,
    roles: tuple[str, ...],
    contents: tuple[str, ...],
    *,
    train: bool = True,
) -> None:
    if not isinstance(turns, list | tuple) or not turns:
        draft.problems.append(BadField(name, _what(turns), "a list of turns that is not empty"))
        return
    for i, turn in enumerate(turns):
        at = f"{name}[{i}]"
        if not isinstance(turn, Mapping):
            wanted = f"an object with {roles[0]} and {contents[0]}"
            draft.problems.append(BadField(at, _what(turn), wanted))
            continue
        given = next((turn[r] for r in roles if turn.get(r) is not None), None)
        role = ROLES.get(given) if isinstance(given, str) else None
        if role is None:
            wanted = f"one of {', '.join(ROLES)}"
            draft.problems.append(BadField(f"{at}.{roles[0]}", f"the role {shown(given)}", wanted))
            continue
        for key in _UNREAD:
            if turn.get(key):
                wanted = "it written out in the content, as the model is to write it"
                draft.problems.append(BadField(f"{at}.{key}", shown(turn[key]), wanted))
        key = next((c for c in contents if turn.get(c) is not None), contents[0])
        draft.add(role, turn.get(key), f"{at}.{key}", train=train and _trains(turn))


_UNREAD = ("tool_calls", "reasoning_content", "reasoning", "thinking")
"""Parts of an answer that stand beside its content; dropping them would teach another answer."""


def _trains(turn: Mapping[str, Any]) -> bool:
    """A turn may say itself that nothing is to be learned from it, as several trainers allow."""
    return all(turn.get(key) not in (False, 0) for key in ("train", "loss", "weight"))


def is_text(value: str) -> bool:
    """Whether a string is text: half a surrogate pair cannot be written or tokenized."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _whole(text: str, name: str) -> None:
    if not is_text(text):
        raise BadField(name, f"half a surrogate pair in {shown(text)}", "text")


def _what(value: object) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {shown(value)}"
