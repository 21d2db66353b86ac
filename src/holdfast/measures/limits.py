"""What a held-out task may lose while training goes on, and what happens when it has."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from holdfast.errors import UsageError

Action = Literal["warn", "lower", "stop"]

_FORM = re.compile(r"(?:(?P<task>.+):)?(?P<drop>[\d.]+)(?:=(?P<action>\w+))?")
CHANCE = 0.05
"""A drop that chance gives at least this often is not acted on."""


@dataclass(frozen=True)
class Limit:
    """A drop in points, below the score before training, at which something is done.

    The same examples are asked each time, so that the drop is a paired one: it must reach
    ``drop``, and the examples that turned wrong must outnumber those that turned right by more
    than chance allows (one-sided sign test, McNemar 1947, at :data:`CHANCE`).
    """

    drop: float
    action: Action = "warn"
    task: str | None = None
    """Its name; None: any task."""
    factor: float = 0.5
    """What ``lower`` multiplies the learning rate with."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.drop) and self.drop >= 0):
            raise UsageError(f"a limit of {self.drop} points is not possible; give 0 or more")
        if self.action not in get_args(Action):
            raise UsageError(
                f"a limit cannot do {self.action!r}; there is: {', '.join(get_args(Action))}"
            )
        if not 0 < self.factor < 1:
            raise UsageError(f"factor={self.factor} does not lower a learning rate; 0 to 1 does")

    @classmethod
    def read(cls, text: str) -> Limit:
        """``[TASK:]POINTS[=warn|lower|stop]``, such as ``5=stop`` or ``lab:colour:10=lower``.

        Raises :class:`UsageError` for anything else.
        """
        match = _FORM.fullmatch(text.strip())
        try:
            drop = float(match["drop"]) if match else math.nan
        except ValueError:
            match = None
        if match is None:
            raise UsageError(
                f"the limit {text!r} is not of the form [TASK:]POINTS[=warn|lower|stop], "
                "for example 5=stop"
            )
        return cls(drop, match["action"] or "warn", match["task"])  # type: ignore[arg-type]

    def reached(self, task: str, before: Sequence[float], now: Sequence[float]) -> bool:
        """Whether a task's scores, example by example in [0, 1], have dropped too far."""
        if self.task not in (None, task) or not before:
            return False
        change = 100 * (sum(now) - sum(before)) / len(before)
        pairs = list(zip(before, now, strict=True))
        worse, better = sum(n < b for b, n in pairs), sum(n > b for b, n in pairs)
        return -change >= self.drop and sign_test(worse, better) < CHANCE


def sign_test(worse: int, better: int) -> float:
    """P(at least ``worse`` of ``worse + better`` fair coins); 1 if there are none."""
    count = worse + better
    ways: int = sum(math.comb(count, k) for k in range(worse, count + 1))
    return ways / (1 << count)
