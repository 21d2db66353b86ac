"""An alarm for answers of a model's own that become one answer, or run in circles."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from holdfast.carried import State

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)
Tokens = Sequence[int]


@dataclass(kw_only=True)
class CollapseAlarm:
    """Watches two numbers of the answers of each step, both 1 for answers like the data's:

        variety   exp(H) of the answers, over that of the data's answers to the same questions
        fresh     share of pairs of neighbouring tokens that are new in their answer, likewise

    H is the entropy of how often each answer occurs. A number that is above 1 counts as 1. The
    alarm is on while the mean of one over the last ``window`` steps is below ``share`` of its
    mean over the stage's first.
    """

    window: int = 16
    share: float = 0.5
    first: list[tuple[float, float]] = field(default_factory=list, init=False)
    last: list[tuple[float, float]] = field(default_factory=list, init=False)
    _said: bool = field(default=False, init=False)

    def meet(self, written: Sequence[Tokens], wanted: Sequence[Tokens]) -> dict[str, float]:
        """What the log gets of a step.

        Args:
            written: the model's answers in tokens, at least one.
            wanted: for each, the data's answer to its question.
        """
        now = (effective(written) / effective(wanted), fresh(written) / fresh(wanted))
        held = (min(now[0], 1.0), min(now[1], 1.0))
        if len(self.first) < self.window:
            self.first.append(held)
        self.last = [*self.last, held][-self.window :]
        if self.on and not self._said:
            self._said = True
            log.warning(
                "the model's own answers are collapsing: variety %.2f and fresh %.2f of the data's,"
                " %.2f and %.2f as the stage began; lower the learning rate, let the teacher stay "
                "or stop here", *self._means(self.last), *self._means(self.first)
            )  # fmt: skip
        return {"variety": now[0], "fresh": now[1], "collapse": float(self.on)}

    @property
    def on(self) -> bool:
        if len(self.last) < self.window:
            return False
        both = zip(self._means(self.last), self._means(self.first), strict=True)
        return any(now < self.share * before for now, before in both)

    @staticmethod
    def _means(values: Sequence[tuple[float, float]]) -> list[float]:
        return [sum(column) / len(values) for column in zip(*values, strict=True)]

    # A killed run

    def state(self) -> dict[str, Tensor]:
        import torch

        held = {"alarm-first": self.first, "alarm-last": self.last}
        return {k: torch.tensor(v, dtype=torch.float64) for k, v in held.items() if v}

    def load(self, state: State) -> None:
        self.first, self.last = (
            [(float(a), float(b)) for a, b in state[key].tolist()] if key in state else []
            for key in ("alarm-first", "alarm-last")
        )
        self._said = self.on


def effective(answers: Sequence[Tokens]) -> float:
    """exp(H): how many different answers there are, each counted by how often it occurs."""
    counts: Counter[Hashable] = Counter(tuple(answer) for answer in answers)
    shares = [n / len(answers) for n in counts.values()]
    return math.exp(-sum(p * math.log(p) for p in shares))


def fresh(answers: Sequence[Tokens]) -> float:
    """The share of an answer's pairs of neighbours that it has not had before; 1 without any."""
    pairs = [list(pairwise(answer)) for answer in answers]
    total = sum(map(len, pairs))
    return sum(len(set(own)) for own in pairs) / total if total else 1.0
