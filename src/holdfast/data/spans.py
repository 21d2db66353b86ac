"""Which characters of a rendered conversation the loss reads.

Not taken from generation markers, which most templates lack, but measured on the template:
a turn begins where the prompt that the model would be asked with ends, and stops behind the
end-of-turn token that the template writes after the turn's content. Both are found by
rendering the conversation again with a marker in the place of the content, or behind it, and
comparing character by character. Where the comparison does not come out, the record is
refused: a mask is never guessed.

Models without a chat template read plain text: the turns one after another exactly as they
are (``prompt + completion``), with the end-of-sequence token behind each assistant turn; a
system turn is separated by an empty line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from holdfast.data.problems import shown
from holdfast.data.records import Message, Part, Record
from holdfast.data.render import Refused, Renderer
from holdfast.errors import DataError

Span = tuple[int, int]
Turns = Literal["all", "last"]

MARK = "HoldfastMark7f3"
_TAIL = 12
"""Characters of a prompt's end that tell whether a text ends as the prompt does."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as text, its images not yet expanded."""

    text: str
    answers: tuple[Span, ...] = ()
    """Characters of each supervised turn: its content and its end-of-turn token."""
    segments: tuple[Span, ...] = ()
    """Characters of each supervised turn, from its header to where the next turn starts."""


class Conversation:
    """Renders records and tells their supervised characters.

    Args:
        renderer: the model's chat template.
    """

    def __init__(self, renderer: Renderer) -> None:
        self.render = renderer
        self.eos = str(renderer.tokenizer.eos_token or "")
        self._special = _special_pattern(renderer)

    def prompt(self, record: Record) -> str:
        """The text that asks for the record's final answer, up to where the answer begins.

        Raises:
            DataError: there is no question, or the template refuses the conversation.
        """
        messages = record.prompt().messages
        if record.raw or not messages:
            raise DataError(f"record {shown(record.id)} is plain text: it has no question to ask")
        if not self.render.has_template:
            return self._plain(messages, ()).text
        try:
            return self._asked(messages, _tools(record))
        except Refused as error:
            raise _refusal(record, error) from error

    def whole(self, record: Record, turns: Turns = "all", *, segments: bool = False) -> Rendered:
        """The whole conversation, and the characters that are supervised.

        Args:
            turns: supervise every assistant turn with ``train=True``, or only the last turn.
            segments: tell where whole turns begin and end, too.

        Raises:
            DataError: the template refuses the conversation, or rewrites it so that the
                supervised characters cannot be told.
        """
        if record.raw:
            text = "".join(self.render.plain(m) for m in record.messages)
            text = text.removesuffix(self.eos) + self.eos
            return Rendered(text, ((0, len(text)),), ((0, len(text)),))
        trained = _trained(record.messages, turns)
        if not self.render.has_template:
            return self._plain(record.messages, trained)
        try:
            messages, text = self.render.accepted(record.messages, tools=_tools(record))
            view = _View(self.render, messages, text, _tools(record), self._special)
            return view.rendered(_trained(messages, turns), self.eos, segments)
        except Refused as error:
            raise _refusal(record, error) from error

    def _asked(self, messages: Sequence[Message], tools: list[Any] | None) -> str:
        accepted, asked = self.render.accepted(messages, ask=True, tools=tools)
        bare = self.render(accepted, tools=tools)
        if asked != bare:
            return asked
        # The template ignores add_generation_prompt: take the header from an answered turn.
        answer = Message("assistant", (Part("text", MARK),))
        head, found, _ = self.render([*accepted, answer], tools=tools).partition(MARK)
        if not found or not head.startswith(bare) or not head[len(bare) :].strip():
            return bare
        return head.rstrip(" ")

    def _plain(self, messages: Sequence[Message], trained: Sequence[int]) -> Rendered:
        text, spans = "", []
        for k, message in enumerate(messages):
            start = len(text)
            text += self.render.plain(message)
            if message.role == "assistant" and not text.endswith(self.eos or "\0"):
                text += self.eos
            elif message.role == "system":
                text += "\n\n"
            if k in trained:
                spans.append((start, len(text)))
        return Rendered(text, tuple(spans), tuple(spans))


@dataclass
class _View:
    """One rendered conversation, and renderings of its variants to compare it with."""

    render: Renderer
    messages: list[Message]
    text: str
    tools: list[Any] | None
    special: re.Pattern[str]

    def rendered(self, trained: Sequence[int], eos: str, segments: bool) -> Rendered:
        answers, text = [], self.text
        for k in trained:
            start, end, closed = self.answer(k)
            if not closed and k == len(self.messages) - 1 and eos:
                # The template never says where an answer stops, so the model is told here.
                text = self.text[:end] + eos
                end = len(text)
            answers.append((start, end))
        whole = [(self.header(k), self.header(k + 1)) for k in trained] if segments else []
        if text is not self.text and whole:
            whole[-1] = (whole[-1][0], len(text))
        return Rendered(text, tuple(answers), tuple(whole))

    def answer(self, k: int) -> tuple[int, int, bool]:
        """Start and end of turn k's answer, and whether an end-of-turn token closes it."""
        end, tail = self.content_end(k)
        start = self.start(k, end)
        closing = self.closing(k, tail)
        token = closing.strip()
        if token and token in self.messages[k].text:
            raise Refused(
                f"assistant turn {k + 1} contains {shown(token)}, the end-of-turn token that the "
                "template adds; it would be learned twice"
            )
        return start, end + len(closing), bool(closing.strip())

    def content_end(self, k: int) -> tuple[int, str]:
        """Where turn k's content ends, and what the template wrote after it."""
        marked = self.variant(self.messages, k, _append(self.messages[k], MARK))
        head, tail = _around(marked, k)
        gap = len(self.text) - len(head) - len(tail)
        white = self.text[len(head) : len(head) + gap] if gap >= 0 else "-"
        if white.strip() or self.text != head + white + tail:
            raise Refused(f"it rewrites assistant turn {k + 1} in a way that hides where it ends")
        return len(head) + gap, tail

    def start(self, k: int, end: int) -> int:
        """Where the model would begin to write turn k."""
        before = self.messages[:k]
        asked = self.variant(before, ask=True) if before else ""
        bare = self.variant(before) if before else ""
        if asked != bare and self.text.startswith(asked) and len(asked) <= end:
            return len(asked)
        content = self.content_start(k)
        shared = _shared(asked, self.text)
        if content is None and self.text.startswith(bare) and len(bare) < shared <= end:
            return shared
        if content is None:
            raise Refused(f"it rewrites assistant turn {k + 1} in a way that hides where it begins")
        if asked == bare:
            # No header to add: white space that sets the answer apart is the model's to write.
            lead = self.text[:content].rstrip()
            return len(lead) if bare and lead.endswith(bare.rstrip()[-_TAIL:]) else content
        if not self.text.startswith(bare):
            return content  # the turns before are rendered otherwise once this one is there
        return min(shared, content)

    def content_start(self, k: int) -> int | None:
        """Where turn k's content begins, or None if the template treats a plain word otherwise."""
        other = replace(self.messages[k], parts=(Part("text", MARK),))
        head, _ = _around(self.variant(self.messages, k, other), k)
        return len(head) if self.text.startswith(head) else None

    def closing(self, k: int, tail: str) -> str:
        """The end-of-turn token that belongs to turn k, with white space before it; or ''."""
        if k < len(self.messages) - 1:
            # Rendered as the last turn, so that the next turn's header is not taken for it.
            upto = self.messages[: k + 1]
            _, own = _around(self.variant(upto, k, _append(upto[k], MARK)), k)
        else:
            own = tail
        match = self.special.match(own)
        closing = match.group() if match else own.rstrip()
        if tail.startswith(closing):
            return closing
        # Some templates close the last turn with a token of its own (gpt-oss). The token that
        # closes this one is then the one that closes the question before it, too.
        here, there = self.special.match(tail), self.special.match(self.content_tail(k - 1))
        if here and there and here.group().strip() == there.group().strip():
            return here.group()
        return ""

    def content_tail(self, k: int) -> str:
        """What the template writes after the content of turn k, whatever its role."""
        if k < 0:
            return ""
        return _around(self.variant(self.messages, k, _append(self.messages[k], MARK)), k)[1]

    def header(self, k: int) -> int:
        """Where message k begins, its header included."""
        if k == len(self.messages):
            return len(self.text)
        bare = self.variant(self.messages[:k]) if k else ""
        return _shared(bare, self.text)

    def variant(
        self,
        messages: Sequence[Message],
        k: int = 0,
        instead: Message | None = None,
        *,
        ask: bool = False,
    ) -> str:
        if instead is not None:
            messages = [*messages[:k], instead, *messages[k + 1 :]]
        return self.render(messages, ask=ask, tools=self.tools)


def _trained(messages: Sequence[Message], turns: Turns) -> list[int]:
    answers = [k for k, m in enumerate(messages) if m.role == "assistant"]
    if turns == "last":
        answers = answers[-1:]
    return [k for k in answers if messages[k].train]


def _append(message: Message, mark: str) -> Message:
    """The message with ``mark`` behind its last word."""
    parts = list(message.parts)
    while parts and parts[-1].kind == "text" and not parts[-1].text.strip():
        parts.pop()
    if parts and parts[-1].kind == "text":
        parts[-1] = Part("text", parts[-1].text.rstrip() + mark)
    else:
        parts.append(Part("text", mark))
    return replace(message, parts=tuple(parts))


def _around(marked: str, k: int) -> tuple[str, str]:
    head, found, tail = marked.partition(MARK)
    if not found or MARK in tail:
        raise Refused(f"it does not show the content of assistant turn {k + 1} exactly once")
    return head, tail


def _shared(a: str, b: str) -> int:
    """How many characters two texts have in common at their start."""
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


def _special_pattern(renderer: Renderer) -> re.Pattern[str]:
    """White space and then the tokens of the tokenizer's own that may end a turn."""
    tokenizer = renderer.tokenizer
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    names = {str(token) for token in added} | set(tokenizer.all_special_tokens)
    names -= {str(tokenizer.bos_token or ""), str(renderer.image_token or "")}
    names = {name for name in names if name.strip()} | {str(tokenizer.eos_token or "\0")}
    longest = sorted(names, key=lambda name: (-len(name), name))
    one = "(?:" + "|".join(map(re.escape, longest)) + ")"
    if not tokenizer.eos_token:
        return re.compile(rf"\s*{one}")
    # Command R closes with two tokens, of which the second is the EOS.
    return re.compile(rf"\s*(?:{one}*?{re.escape(str(tokenizer.eos_token))}|{one})")


def _tools(record: Record) -> list[Any] | None:
    tools = record.meta.get("tools")
    return list(tools) if isinstance(tools, list | tuple) and tools else None


def _refusal(record: Record, error: Refused) -> DataError:
    return DataError(
        f"record {shown(record.id)} cannot be put through the model's chat template: {error}; "
        "correct the record, or give the processor a chat_template that keeps its turns"
    )
