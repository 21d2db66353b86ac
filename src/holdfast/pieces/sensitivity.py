"""Which parts of a model change from task to task: the metric of forgetting-prioritised tuning.

Zhao et al. 2023, "Does Continual Learning Equally Forget All Parameters?", arXiv 2304.04158.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from holdfast.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.anatomy import Anatomy, Part

Weights = Mapping[str, "Tensor"]
"""A model's weights by name at one moment (``dict(model.named_parameters())``, copied)."""
By = Literal["part", "unit"]


@dataclass(frozen=True)
class Sensitivity:
    """How far a module moves, in the mean over its entries."""

    module: str
    """``language[3].attn.q``, or ``language.attn.q`` by unit."""
    between: float
    """mean_t c'_l(t): from the end of a task to the end of the next."""
    within: float
    """mean_{t,n} c_l(t, n): from one epoch to the next of the same task; nan if no task has
    two."""
    parts: tuple[Part, ...]

    @property
    def score(self) -> float:
        """between / within: large for what changes with the task rather than with training."""
        if self.within == 0:
            return float("inf") if self.between else 0.0
        return self.between / self.within


def change(before: Weights, after: Weights, parts: Sequence[Part]) -> float:
    """(1 / |theta_l|) * || theta_l' - theta_l ||_1, over all entries of some parts.

    Shifting every entry by c gives |c|, whatever the size. Of a fused weight the part's own
    rows are read.

    Raises:
        UsageError: a side lacks a weight.
    """
    total, count = 0.0, 0
    for part in parts:
        for side in (before, after):
            if part.parameter not in side:
                raise UsageError(f"there is no value of '{part.parameter}' at one of the moments.")
        moved = after[part.parameter].double() - before[part.parameter].double()
        if part.rows is not None:
            from holdfast.anatomy import RowMask

            moved = moved * RowMask((part.rows,)).mask(part.shape, moved.device)
        total += float(moved.abs().sum())
        count += part.count
    return total / count


def sensitivity(
    anatomy: Anatomy, tasks: Sequence[Sequence[Weights]], *, by: By = "part"
) -> list[Sensitivity]:
    """Every module's movement between tasks and within them, the most sensitive first.

    Args:
        tasks: for each task, the weights at the end of each of its epochs. Of a task that was
            trained for one epoch there is one; the base model may stand first as a task.
        by: each weight of each block, or all blocks' weights of one role together.

    Raises:
        UsageError: there are fewer than two tasks, or a weight is missing.
    """
    if len(tasks) < 2 or not all(tasks):
        raise UsageError("what changes between tasks needs the weights at the end of two tasks.")
    groups: dict[str, list[Part]] = {}
    for part in anatomy.parts:
        block = f"[{part.block}]" if part.block is not None and by == "part" else ""
        groups.setdefault(f"{part.tower}{block}.{part.unit}", []).append(part)
    found = []
    for module, parts in groups.items():
        between = [change(a[-1], b[-1], parts) for a, b in itertools.pairwise(tasks)]
        within = [change(a, b, parts) for task in tasks for a, b in itertools.pairwise(task)]
        found.append(Sensitivity(module, _mean(between), _mean(within), tuple(parts)))
    rank = {True: lambda s: s.between, False: lambda s: s.score}
    alone = any(s.within != s.within for s in found)  # no task has two epochs
    return sorted(found, key=rank[alone], reverse=True)


def selector(found: Sequence[Sensitivity], top: int) -> str:
    """The ``top`` most sensitive modules as a selector, for ``fpf:select=...``."""
    return " + ".join(s.module for s in found[:top])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
