"""Half-reset: a random half of the matrices goes back to the base."""

from __future__ import annotations

import random
from collections.abc import Sequence

from holdfast.anatomy.parts import Part
from holdfast.changes.repair.attempts import Attempts
from holdfast.changes.repair.blend import Blend, part_key
from holdfast.changes.repair.candidates import Candidate

DRAWS = 4


def try_half(attempts: Attempts, *, seed: int = 0, draws: int = DRAWS) -> list[Candidate]:
    """``draws`` half-resets (Hui et al. 2025, arXiv 2404.18466, the pilot of section 2)."""
    parts = [p for name in attempts.live.ends.pair.parts for p in attempts.live.ends.parts(name)]
    changed = {part_key(p) for p in attempts.live.ends.changed_parts}
    found = []
    with attempts.progress.bar("half-reset") as advance:
        for draw in range(seed, seed + draws):
            back = sorted(reset(parts, draw) & changed)
            if back:
                blend = Blend(1.0, dict.fromkeys(back, 0.0))
                found.append(attempts.try_(f"half {draw}", "half", blend, {"seed": draw}))
            advance(draw - seed + 1, draws)
    return found


def reset(parts: Sequence[Part], seed: int) -> frozenset[str]:
    """The parts that go back, half of the matrices of each category of each block.

    Categories are attention, feed-forward and the norms (Hui et al. 2025, category level: of
    {Q, K, V, O} two, of {up, down, gate} two in a random half of the blocks and one in the
    other, of the two norms one). A bias goes with its matrix, rows of a fused weight count as
    the matrices that they are, and an odd number is rounded up in a random half of the blocks.
    Embeddings, head and whatever else is outside of blocks or of these categories stays tuned.

    Returns:
        :func:`part_key` of each.
    """
    rng = random.Random(seed)
    homes: dict[tuple[str, str], dict[int, dict[str, list[str]]]] = {}
    for p in parts:
        kind = p.unit.split(".")[0]
        if p.block is None or kind not in ("attn", "mlp", "norm"):
            continue
        matrix = p.parameter.rpartition(".")[0] if kind == "norm" else p.unit
        matrices = homes.setdefault((p.tower, kind), {}).setdefault(p.block, {})
        matrices.setdefault(matrix, []).append(part_key(p))
    back: set[str] = set()
    for blocks in homes.values():
        up = set(rng.sample(sorted(blocks), len(blocks) // 2))
        for block in sorted(blocks):
            names = sorted(blocks[block])
            count = (len(names) + (block in up)) // 2
            back.update(key for n in rng.sample(names, count) for key in blocks[block][n])
    return frozenset(back)
