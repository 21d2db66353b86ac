"""Conversations as text, through the model's own chat template."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from holdfast.data.problems import shown
from holdfast.data.records import Message, Part
from holdfast.errors import UsageError

_PROBE = "HoldfastProbe7f3"


class Refused(Exception):
    """The template cannot render a conversation. The message says why."""


def image_token(processor: Any) -> str | None:
    """What stands for an image in a rendered text, or None for a model without images."""
    for owner in (processor, getattr(processor, "tokenizer", None)):
        token = getattr(owner, "image_token", None)
        if token:
            return str(token)
    return None


class Renderer:
    """Renders lists of messages with the chat template of a processor or tokenizer.

    Templates differ in what they accept. Some read a message's content as one string, some
    as a list of blocks; some refuse or ignore a system turn, some want user and assistant
    turns to alternate. :meth:`accepted` brings a conversation into a form that this template
    renders without losing any of its text.

    Args:
        processor: a transformers processor, or a tokenizer.

    Raises:
        UsageError: the chat template renders neither form of content.
    """

    def __init__(self, processor: Any) -> None:
        self.tokenizer: Any = getattr(processor, "tokenizer", None) or processor
        self.image_token = image_token(processor)
        owners = (processor, self.tokenizer)
        self._owner = next((o for o in owners if getattr(o, "chat_template", None)), None)
        self._tools: list[Any] | None = None
        self._blocks = False
        if self._owner is not None:
            self._blocks = self._takes_blocks(self._owner is not self.tokenizer)

    @property
    def has_template(self) -> bool:
        return self._owner is not None

    def __call__(
        self,
        messages: Sequence[Message],
        *,
        ask: bool = False,
        tools: list[Any] | None = None,
    ) -> str:
        """The text of ``messages``; with ``ask``, followed by the header of the answer.

        Raises:
            Refused: the template raised an error.
        """
        assert self._owner is not None
        chat = [{"role": m.role, "content": self._content(m)} for m in messages]
        extra = {"tools": tools} if tools else {}
        try:
            return str(
                self._owner.apply_chat_template(
                    chat, tokenize=False, add_generation_prompt=ask, **extra
                )
            )
        except Exception as error:  # a template may raise anything: jinja runs the model's code
            raise Refused(f"{type(error).__name__}: {shown(str(error), 160)}") from error

    def accepted(
        self, messages: Sequence[Message], *, ask: bool = False, tools: list[Any] | None = None
    ) -> tuple[list[Message], str]:
        """The conversation in the first form that renders whole, and its text.

        Tried in order: as it is; with system turns written into the next user turn; with
        neighbouring user turns joined.

        Raises:
            Refused: no form renders with all of its system and user text.
        """
        reasons: list[str] = []
        for form in _forms(messages):
            try:
                text = self(form, ask=ask, tools=tools)
            except Refused as error:
                reasons.append(str(error))
                continue
            lost = _lost(form, text)
            if lost is None:
                return form, text
            reasons.append(f"it leaves out the {lost.role} turn {shown(lost.text)}")
        raise Refused(reasons[0])

    def plain(self, message: Message) -> str:
        """A message as one string, for templates and models that read strings.

        The images stand as the model's image token, each on a line of its own as LLaVA's
        data has them.
        """
        pieces: list[str] = []
        for i, part in enumerate(message.parts):
            if part.kind == "text":
                pieces.append(part.text)
                continue
            pieces.append(self.image_token or "")
            after = message.parts[i + 1] if i + 1 < len(message.parts) else None
            if after is not None and after.kind == "text" and not after.text[:1].isspace():
                pieces.append("\n")
        return "".join(pieces)

    def _content(self, message: Message) -> Any:
        if not self._blocks:
            return self.plain(message)
        return [
            {"type": "image"} if p.kind == "image" else {"type": "text", "text": p.text}
            for p in message.parts
        ]

    def _takes_blocks(self, prefer: bool) -> bool:
        probe = [Message("user", (Part("text", _PROBE),))]
        reason = ""
        for self._blocks in (prefer, not prefer):
            try:
                text = self(probe)
            except Refused as error:
                reason = reason or str(error)
                continue
            if text.count(_PROBE) == 1 and not ("type" in text and "{" in text.split(_PROBE)[0]):
                return self._blocks
        raise UsageError(
            "the model's chat template renders a user turn neither from a string nor from "
            f"content blocks{': ' + reason if reason else ''}; give the processor another "
            "chat_template"
        )


def _forms(messages: Sequence[Message]) -> Iterator[list[Message]]:
    yield list(messages)
    folded = _fold_system(messages)
    if folded != list(messages):
        yield folded
    joined = _join_users(folded)
    if joined != folded:
        yield joined


def _fold_system(messages: Sequence[Message]) -> list[Message]:
    """Write each system turn in front of the next user turn, as Gemma 3's own template does."""
    out: list[Message] = []
    waiting: tuple[Part, ...] = ()
    for message in messages:
        if message.role == "system":
            waiting = (*waiting, *message.parts, Part("text", "\n\n"))
        elif message.role == "user" and waiting:
            out.append(replace(message, parts=waiting + message.parts))
            waiting = ()
        else:
            out.append(message)
    return list(messages) if waiting else out


def _join_users(messages: Sequence[Message]) -> list[Message]:
    out: list[Message] = []
    for message in messages:
        if out and message.role == "user" == out[-1].role:
            parts = (*out[-1].parts, Part("text", "\n\n"), *message.parts)
            out[-1] = replace(out[-1], parts=parts)
        else:
            out.append(message)
    return out


def _lost(messages: Sequence[Message], text: str) -> Message | None:
    """The first system or user turn of which a piece of text is not in the rendering."""
    for message in messages:
        if message.role in ("system", "user"):
            for part in message.parts:
                if part.kind == "text" and part.text.strip() not in text:
                    return message
    return None
