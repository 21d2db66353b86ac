"""When to consolidate in a stream without boundaries: at the plateaus of its loss. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, pstdev


@dataclass
class Plateaus:
    """Tells the plateaus of a loss, once each.

    Aljundi, Kelchtermans and Tuytelaars 2019, "Task-free continual learning", section 3.1: the
    last ``window`` losses are flat and low where their mean is below ``mean`` and their standard
    deviation below ``deviation``. After a plateau the next one counts once a peak lay between:
    the window's mean was above that plateau's mean plus its standard deviation.

    Args:
        window: losses that are looked at.
        mean, deviation: what a plateau stays below.

    Raises:
        ValueError: the window holds fewer than two losses.
    """

    window: int = 5
    mean: float = 0.2
    deviation: float = 0.1
    losses: list[float] = field(default_factory=list)
    armed: bool = True
    last: float = 0.0
    """The latest plateau's mean plus its standard deviation."""

    def __post_init__(self) -> None:
        if self.window < 2:
            raise ValueError(f"a window of {self.window} losses has no spread; give 2 or more")

    def meet(self, loss: float) -> bool:
        """Whether a plateau is reached with this loss."""
        self.losses = [*self.losses[-self.window + 1 :], loss]
        if len(self.losses) < self.window:
            return False
        mean, deviation = fmean(self.losses), pstdev(self.losses)
        if not self.armed and mean > self.last:
            self.armed = True
        if not (self.armed and mean < self.mean and deviation < self.deviation):
            return False
        self.armed, self.last = False, mean + deviation
        return True

    def numbers(self) -> list[float]:
        """All that it knows, as numbers; read back by :meth:`read`."""
        return [float(self.armed), self.last, *self.losses]

    def read(self, numbers: Sequence[float]) -> None:
        """Go on from what :meth:`numbers` returned."""
        self.armed, self.last = bool(numbers[0]), float(numbers[1])
        self.losses = [float(x) for x in numbers[2:]]
