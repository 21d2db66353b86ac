"""The one form that every data set is brought to: a conversation with images.

No torch here: records are plain values that can be read, checked and printed without
loading a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True)
class ImageRef:
    """An image that has not been decoded yet: exactly one of ``path`` and ``data`` is set."""

    path: str | None = None
    """Absolute path, already checked to lie inside its data set's folder."""
    data: bytes | None = None
    """Encoded bytes (PNG, JPEG, ...)."""


@dataclass(frozen=True)
class Part:
    """A piece of a message: text, or the place of the next image."""

    kind: Literal["text", "image"]
    text: str = ""


@dataclass(frozen=True)
class Message:
    """One turn. Images stand where an image part stands; their pixels are in the record."""

    role: Role
    parts: tuple[Part, ...]
    train: bool = True
    """Whether the loss may read this turn; only assistant turns are ever trained on."""

    @property
    def text(self) -> str:
        return "".join(p.text for p in self.parts if p.kind == "text")


@dataclass(frozen=True)
class Record:
    """One training or evaluation example.

    Invariant: the number of image parts over all messages equals ``len(images)``.
    A plain-text record (language modelling) is a single assistant message with ``raw=True``:
    it is not put through the chat template and every token is supervised.
    """

    messages: tuple[Message, ...]
    images: tuple[ImageRef, ...] = ()
    id: str = ""
    """Stable name: the data set's own id, or ``<file>:<line>``."""
    raw: bool = False
    meta: Mapping[str, object] = field(default_factory=dict)
    """Other columns of the source, kept as they were (choices, scorer, source, ...)."""

    def prompt(self) -> Record:
        """The record without its final assistant turn: what a model is asked."""
        if self.messages and self.messages[-1].role == "assistant":
            return Record(self.messages[:-1], self.images, self.id, self.raw, self.meta)
        return self

    def answer(self) -> str:
        """The text of the final assistant turn, or '' if there is none."""
        if self.messages and self.messages[-1].role == "assistant":
            return self.messages[-1].text
        return ""


def say(role: Role, *content: str | None) -> Message:
    """Shorthand: ``say("user", None, "What is it?")`` is an image followed by a question."""
    return Message(role, tuple(Part("image") if c is None else Part("text", c) for c in content))
