"""Phases in which a few parts of the model are finetuned on a memory of all stages.

Zhao et al. 2023 (arXiv 2304.04158). No torch until a step is taken.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from holdfast.carried import AGAIN, MEMORY, Ahead
from holdfast.errors import ConfigError, UsageError
from holdfast.pieces.rehearse import Rehearse
from holdfast.plan import NEW, Draw, source_id

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.anatomy import Anatomy, RowMask

CONSTANT = "constant_with_warmup"


@dataclass(frozen=True, kw_only=True)
class Phases(Rehearse):
    """The stage's own steps in ``count`` equal pieces, a phase on the memory after each.

    A phase reads ``iterations`` steps, each drawn from the memory and from a part of the
    stage's own examples as large as an earlier stage's part of the memory, in proportion. Draws
    from the memory are from :data:`holdfast.carried.AGAIN`, which marks a step as one of a
    phase. The first stage remembers nothing and has no phases.

    Args:
        count: k; 0: no phases. 1: one at the end.
        iterations: steps of a phase.
        replay: remembered examples per new one in the stage's own steps, as ``Rehearse`` adds
            them with ``extra=True``; 0: none.
    """

    count: int = 1
    iterations: int = 100
    replay: float = 0.0
    name: str = "phases"
    total: int = field(default=0, repr=False)
    """Steps of the stage, phases included; known once :meth:`fit` was called."""

    def steps(self, sizes: Mapping[str, int], batch: int, epochs: float) -> int:
        own = max(1, math.floor(epochs * sizes[NEW] / batch))
        return own + self._in_phases(sizes)

    def fit(self, steps: int, schedule: str) -> Phases:
        """Raises ConfigError unless the learning rate is constant: a phase at the end of any
        other schedule would have next to none."""
        if self.count and schedule != CONSTANT:
            raise ConfigError(
                f"'{self.name}' finetunes late in the stage at the learning rate of its start, "
                f"and train.schedule is '{schedule}'; set train.schedule={CONSTANT}."
            )
        return replace(self, total=steps)

    def __call__(self, sizes: Mapping[str, int], step: int, batch: int, seed: int) -> list[Draw]:
        phases = self._in_phases(sizes)
        if phases and self.total <= phases:
            raise ConfigError(
                f"{self.count} phases of {self.iterations} steps leave none of the stage's "
                f"{self.total} for what it learns; give fewer iterations or more steps."
            )
        own, within = self._place(step, self.total - phases if phases else 0)
        if phases and within:
            return self._refit(sizes, step, batch, seed)
        feed = replace(self._plain(), places=self.places, met=self.met)
        known = sizes if self.replay else {NEW: sizes[NEW]}
        return feed(known, own if phases else step, batch, seed)

    def _plain(self) -> Rehearse:
        return Rehearse(capacity=self.capacity, share=self.replay, policy=self.policy)

    def _in_phases(self, sizes: Mapping[str, int]) -> int:
        return self.count * self.iterations if sizes.get(MEMORY) else 0

    def _place(self, step: int, own: int) -> tuple[int, bool]:
        """How many own steps come before ``step``, and whether it lies in a phase."""
        for phase in range(self.count):
            border = round(own * (phase + 1) / self.count)
            start = border + phase * self.iterations
            if step < start:
                return step - phase * self.iterations, False
            if step < start + self.iterations:
                return border, True
        return step - self.count * self.iterations, False

    def _refit(self, sizes: Mapping[str, int], step: int, batch: int, seed: int) -> list[Draw]:
        memory = sizes[MEMORY]
        stages = len({stage for stage, _ in self.places}) or 1
        mine = min(sizes[NEW], max(1, memory // stages))
        held = random.Random(f"{seed}-refit").sample(range(sizes[NEW]), mine)
        drawn = random.Random(f"{seed}-{step}-refit")
        new = min(mine, round(batch / (stages + 1)), batch - 1)
        old = drawn.sample(range(memory), min(memory, batch - new))
        return [(NEW, i) for i in drawn.sample(held, new)] + [(AGAIN, i) for i in old]


@dataclass(kw_only=True)
class OnlyInPhases:
    """In a phase, all but the selected parts stay as they are, to the bit."""

    select: str
    name: str = "only-in-phases"
    _chosen: dict[str, RowMask | None] = field(default_factory=dict, init=False, repr=False)
    _phase: bool = field(default=False, init=False, repr=False)
    _kept: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    def place(self, anatomy: Anatomy) -> None:
        """Raises SelectorError if this model has no such parts."""
        self._chosen = dict(anatomy.select(self.select).parameters)
        self._phase = False

    def look_ahead(self, step: Ahead) -> None:
        """A step that reads the memory under its second name is one of a phase."""
        self._phase = any(_again(batch) for batch in step.batches)

    def before_step(self, parameters: Mapping[str, Tensor]) -> None:
        if not self._phase:
            return
        if not self._chosen.keys() & parameters.keys():
            raise UsageError(
                f"a phase finetunes '{self.select}', and the plan trains none of it; combine it "
                "with a recipe that does (full), or select something else."
            )
        self._kept = {}
        for name, parameter in parameters.items():
            rows = self._chosen.get(name)
            if name not in self._chosen:
                parameter.grad = None  # the optimizer passes over it: no decay, no momentum
            elif rows is not None:
                self._kept[name] = parameter.detach().clone()

    def after_step(self, parameters: Mapping[str, Tensor]) -> None:
        import torch

        for name, before in self._kept.items():
            rows = self._chosen[name]
            assert rows is not None
            mask = rows.mask(tuple(before.shape), before.device)
            with torch.no_grad():
                parameters[name].copy_(torch.where(mask, parameters[name], before))
        self._kept = {}


def _again(batch: Mapping[str, Any]) -> bool:
    return "source" in batch and bool((batch["source"] == source_id(AGAIN)).any())
