"""Which examples share a forward pass and which an optimizer step, by how long they are.

Pure functions of lists. A pass reads its examples padded to the longest of them, so what it
costs beyond its real tokens is decided here.
"""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Sequence


def like_lengths(lengths: Sequence[int], groups: int) -> list[list[int]]:
    """Indices of ``lengths`` in groups of neighbours in length, the longest first.

    The groups' sizes differ by at most one. If an optimizer step averages over all of its
    examples, cutting it so changes no number and pads least among cuts of equal size.

    Raises:
        ValueError: more groups than examples.
    """
    _enough(lengths, groups)
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    bounds = [len(order) * k // groups for k in range(groups + 1)]
    return [order[a:b] for a, b in itertools.pairwise(bounds)]


def like_totals(lengths: Sequence[int], groups: int) -> list[list[int]]:
    """Indices of ``lengths`` in groups of nearly equal sums, for passes without padding.

    The longest example goes first and each to the group with the fewest tokens that is not
    full (Graham 1969, longest processing time first); sizes are those of :func:`like_lengths`
    at most.

    Raises:
        ValueError: more groups than examples.
    """
    _enough(lengths, groups)
    room = -(-len(lengths) // groups)
    made: list[list[int]] = [[] for _ in range(groups)]
    sums = [0] * groups
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        k = min((k for k in range(groups) if len(made[k]) < room), key=lambda k: (sums[k], k))
        made[k].append(i)
        sums[k] += lengths[i]
    return made


def even_cuts(weights: Sequence[int], pieces: int, target: float | None = None) -> list[int]:
    """Bounds ``0 = b_0 < ... < b_pieces`` of consecutive pieces of nearly equal weight.

    ``b_k`` is where the running sum is nearest to ``k * target``, so a piece's weight is off
    by at most the largest single weight, and errors do not add up. A piece is never empty.

    Args:
        weights: positive.
        target: the weight of a piece; None: an equal share of all, so that nothing is left.

    Raises:
        ValueError: fewer weights than pieces.
    """
    _enough(weights, pieces)
    total = list(itertools.accumulate(weights, initial=0))
    share = total[-1] / pieces if target is None else target
    bounds = [0]
    for k in range(1, pieces + 1):
        above = bisect.bisect_left(total, k * share)
        below = above - 1
        near = above if above < len(total) and total[above] - k * share <= k * share - total[
            below
        ] else below  # fmt: skip
        bounds.append(min(max(near, bounds[-1] + 1), len(weights) - (pieces - k)))
    return bounds


def regroup(
    steps: Sequence[Sequence[int]],
    lengths: Sequence[int],
    weights: Sequence[int] | None,
    seed: str,
) -> list[list[int]]:
    """The examples of some optimizer steps in as many steps, like lengths together.

    This changes which examples share a step. The steps come in a seeded random order, so that
    training does not go from long to short.

    Args:
        steps: the examples of each step, as indices of ``lengths``.
        weights: per index, what each step gets an equal share of; None: examples.
    """
    pool = sorted((i for step in steps for i in step), key=lambda i: -lengths[i])
    bounds = even_cuts([1 if weights is None else weights[i] for i in pool], len(steps))
    made = [pool[a:b] for a, b in itertools.pairwise(bounds)]
    random.Random(seed).shuffle(made)
    return made


def padded(lengths: Sequence[int], groups: Sequence[Sequence[int]]) -> int:
    """Tokens that are read when each group is padded to its longest."""
    return sum(len(group) * max(lengths[i] for i in group) for group in groups)


def _enough(items: Sequence[int], groups: int) -> None:
    if not 1 <= groups <= len(items):
        raise ValueError(f"{len(items)} examples cannot be put into {groups} groups")
