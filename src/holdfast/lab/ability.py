"""What the lab's abilities have in common: one draw, one split rule, one form of record."""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from holdfast.data.records import ImageRef, Record, say

if TYPE_CHECKING:
    from PIL.Image import Image

    from holdfast.lab.scene import Scene

Split = Literal["train", "test"]
Question = tuple[str, str]
"""A question and its answer."""

TEST_SHARE = 5
"""One in so many contents is kept for testing."""
PATIENCE = 2000
"""So many draws in a row without anything new mean that a small world has been seen whole."""


@dataclass(frozen=True)
class Draft:
    """One question with its answer, before it is put into a split."""

    question: str
    answer: str
    image: Image | None = None
    key: str = ""
    """What must not occur in both splits; '' for the image's pixels (or the question)."""

    @property
    def split(self) -> Split:
        """Decided by the content alone, so that the splits are disjoint whatever the seed."""
        digest = hashlib.blake2b(self.key.encode() or self._pixels() or self.question.encode())
        return "test" if int.from_bytes(digest.digest()[:4], "big") % TEST_SHARE == 0 else "train"

    @property
    def fingerprint(self) -> bytes:
        """Equal for two drafts that show the same pixels and ask the same."""
        return hashlib.blake2b(self._pixels() + self.question.encode(), digest_size=16).digest()

    def _pixels(self) -> bytes:
        return b"" if self.image is None else self.image.tobytes()


@dataclass(frozen=True)
class Ability:
    """Something a model can be asked to do, with a seeded source of questions.

    Args:
        name: without the ``lab:`` prefix.
        summary: one line for lists.
        draw: one question from a random generator.
        scorer: name in ``holdfast.tasks.scorers``.
        max_new_tokens: what the longest right answer needs, with a little to spare.
        chance: percent right that guessing with the right format gets.
        ask: for abilities about a scene, a question about a given one.
    """

    name: str
    summary: str
    draw: Callable[[np.random.Generator], Draft]
    scorer: str = "exact"
    max_new_tokens: int = 8
    chance: float = 0.0
    ask: Callable[[Scene, np.random.Generator], Question] | None = None


def drafts(ability: Ability, split: Split, seed: int) -> Iterator[Draft]:
    """Distinct questions of one split; ends when a small world has been seen whole."""
    rng = np.random.default_rng([seed, zlib.crc32(f"{ability.name}:{split}".encode())])
    seen: set[bytes] = set()
    idle = 0
    while idle < PATIENCE:
        draft = ability.draw(rng)
        idle += 1
        if draft.split != split or draft.fingerprint in seen:
            continue
        seen.add(draft.fingerprint)
        idle = 0
        yield draft


@lru_cache(maxsize=64)
def draw_records(ability: Ability, split: Split, n: int, seed: int) -> tuple[Record, ...]:
    """At most ``n`` records; fewer only if the world holds no more distinct questions."""
    source = drafts(ability, split, seed)
    return tuple(
        to_record(draft, f"lab:{ability.name}:{split}:{seed}:{i}")
        for i, draft in zip(range(n), source, strict=False)
    )


def to_record(draft: Draft, name: str) -> Record:
    """The draft as a conversation: the image (PNG bytes) first, then the question."""
    answer = say("assistant", draft.answer)
    if draft.image is None:
        return Record((say("user", draft.question), answer), id=name)
    return Record(
        (say("user", None, draft.question), answer), (ImageRef(data=_png(draft.image)),), id=name
    )


def _png(image: Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
