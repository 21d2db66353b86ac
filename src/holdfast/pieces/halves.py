"""A share of the matrices, drawn anew for each stage. No torch until it is used.

Hui et al. 2025, "HFT: Half Fine-Tuning for Large Language Models", arXiv 2404.18466.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from holdfast.anatomy import Anatomy, Part, Selection

Level = Literal["category", "layer", "model"]
Matrix = tuple["Part", ...]
"""The parts that are drawn as one: a matrix (or the rows of a fused one) with its bias."""


@dataclass(frozen=True, kw_only=True)
class Halves:
    """Which matrices of the blocks train in a stage: a :class:`holdfast.plan.Choice`.

    With ``level="category"``, a block's matrices are sorted into attention, MLP, norms and so
    on, and of the n of a category in L blocks alike, ``share * n * L`` train, spread over the
    blocks as evenly as it goes: with half of them 2 of q, k, v, o in each block, 1 of 2 norms,
    and of gate, up, down 2 in a random half of the blocks and 1 in the others. ``layer`` draws
    whole blocks, ``model`` draws from all matrices alike (both ablations of the paper).
    """

    scope: str = "language"
    level: Level = "category"
    share: float = 0.5
    outside: bool = True
    """Train what the scope has outside of the blocks: embeddings, last norm, head."""
    round: int = 0
    """Another draw for the same seed."""

    def __str__(self) -> str:
        return f"{self.share:.0%} of the matrices of {self.scope}"

    def __call__(self, anatomy: Anatomy, seed: int) -> Selection:
        """Raises SelectorError if the scope, or what was drawn of it, is empty."""
        from holdfast.anatomy.selection import of_parts

        within = anatomy.select(self.scope).parts
        draw = random.Random(f"halves {seed} {self.round}")
        taken = [p for p in within if p.block is None] if self.outside else []
        for pool in self._pools(within):
            taken += [part for matrix in _some(pool, self.share, draw) for part in matrix]
        return of_parts(anatomy.parts, taken, f"{self}, drawn with seed {seed}")

    def _pools(self, parts: Sequence[Part]) -> Iterable[list[list[Matrix]]]:
        """What is drawn from: pools of blocks alike, each a list of things to draw."""
        blocks = [block for block in _blocks(parts) if block]
        if self.level == "category":
            yield from _alike(blocks)
        elif self.level == "layer":
            yield [[tuple(p for matrix in block.values() for p in matrix) for block in blocks]]
        else:
            yield [[matrix for block in blocks for matrix in block.values()]]


_Key = tuple[str, str, str]
"""A matrix of a block: its category, its unit, and the path of its module."""


def _blocks(parts: Iterable[Part]) -> list[dict[_Key, Matrix]]:
    """The matrices of each block."""
    blocks: dict[tuple[str, int], dict[_Key, Matrix]] = {}
    for part in parts:
        if part.block is not None:
            path = re.sub(r"(\.weight|\.bias|_bias)$", "", part.parameter)
            key = (part.unit.split(".")[0], part.unit, path)
            block = blocks.setdefault((part.tower, part.block), {})
            block[key] = (*block.get(key, ()), part)
    return list(blocks.values())


def _alike(blocks: Sequence[dict[_Key, Matrix]]) -> Iterable[list[list[Matrix]]]:
    """For each category, the blocks that have the same number of matrices in it."""
    pools: dict[tuple[str, int], list[list[Matrix]]] = {}
    for block in blocks:
        for category in dict.fromkeys(key[0] for key in block):
            own = [matrix for key, matrix in block.items() if key[0] == category]
            pools.setdefault((category, len(own)), []).append(own)
    return pools.values()


def _some(pool: Sequence[list[Matrix]], share: float, draw: random.Random) -> list[Matrix]:
    """``share`` of all matrices of a pool, from each of its groups the same number or one more.

    A total that is not whole is rounded up as often as its fraction says.
    """
    wanted = share * sum(len(group) for group in pool)
    total = math.floor(round(wanted, 9) + draw.random())
    each, more = divmod(total, len(pool))
    richer = set(draw.sample(range(len(pool)), more))
    return [
        matrix
        for i, group in enumerate(pool)
        for matrix in draw.sample(group, each + (i in richer))
    ]
