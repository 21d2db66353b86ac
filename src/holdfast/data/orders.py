"""Selections and orders of scored examples: pure functions of a list of scores."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from holdfast.errors import UsageError, nearest

Keep = Literal["high", "low"]
KINDS = ("as-is", "shuffled", "ascending", "descending", "fold", "zigzag")
LAYERS = 3
"""The paper's best number of layers."""


@dataclass(frozen=True)
class Order:
    """An order of examples. Written ``fold:3``, ``zigzag:3``, ``ascending`` ...

    Args:
        kind: one of :data:`KINDS`.
        layers: of a fold.
    """

    kind: str
    layers: int = LAYERS

    def __str__(self) -> str:
        return f"{self.kind}:{self.layers}" if self.kind in ("fold", "zigzag") else self.kind

    def __call__(self, scores: Sequence[float], seed: int = 0) -> list[int]:
        """A permutation of the indices of ``scores``; equal scores keep their own order."""
        n = len(scores)
        if self.kind == "as-is":
            return list(range(n))
        if self.kind == "shuffled":
            return random.Random(seed).sample(range(n), n)
        ranked = sorted(range(n), key=lambda i: scores[i], reverse=self.kind == "descending")
        places = {"fold": fold, "zigzag": zigzag}.get(self.kind)
        return ranked if places is None else [ranked[p] for p in places(n, self.layers)]


def read_order(text: str) -> Order:
    """An order from text.

    Raises:
        UsageError: there is no such order, or its number of layers is none.
    """
    kind, colon, number = text.strip().partition(":")
    if kind not in KINDS:
        raise UsageError(f"there is no order {kind!r}{nearest(kind, KINDS)}")
    if not colon:
        return Order(kind)
    if kind not in ("fold", "zigzag"):
        raise UsageError(f"the order {text!r}: '{kind}' takes no number; write {kind}.")
    if not (number.isascii() and number.isdigit() and len(number) < 10 and int(number)):
        raise UsageError(
            f"the order {text!r} has {number!r} layers; give a whole number from 1, as in {kind}:3."
        )
    return Order(kind, int(number))


def fold(n: int, layers: int) -> list[int]:
    """Places 0 to n-1 of a sorted list, folded: those ≡ 0 (mod L), then those ≡ 1, ...

    Dai et al. 2025, section 4: each layer runs through the whole range of scores, so that a
    model meets the curriculum L times and what it met early is not forgotten. L = 1 is the
    sorted list itself; 10 places in 3 layers are 0 3 6 9, 1 4 7, 2 5 8.
    """
    return [place for layer in range(min(layers, n)) for place in range(layer, n, layers)]


def zigzag(n: int, layers: int) -> list[int]:
    """:func:`fold` with every second layer backwards, so that scores do not jump between layers."""
    each = (range(layer, n, layers) for layer in range(min(layers, n)))
    return [p for k, places in enumerate(each) for p in (reversed(places) if k % 2 else places)]


def selected(scores: Sequence[float], share: float, keep: Keep = "high") -> list[int]:
    """Indices of the floor(share * n) best scores (at least one), in their own order.

    Args:
        keep: which end is best; of equal scores the earlier example is kept.

    Raises:
        UsageError: a share that is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise UsageError(f"select={share!r}: give a share above 0 and at most 1, such as 0.5.")
    count = max(1, math.floor(share * len(scores) + 1e-9)) if len(scores) else 0
    sign = -1 if keep == "high" else 1
    ranked = sorted(range(len(scores)), key=lambda i: (sign * scores[i], i))
    return sorted(ranked[:count])


def arrange(
    scores: Sequence[float],
    order: Order,
    *,
    select: float = 1.0,
    keep: Keep = "high",
    seed: int = 0,
) -> list[int]:
    """Indices of the selected examples in their order."""
    kept = selected(scores, select, keep)
    return [kept[place] for place in order([scores[i] for i in kept], seed)]
