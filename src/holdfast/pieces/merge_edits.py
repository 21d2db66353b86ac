"""Merges at the end of a stage: what earlier stages taught with what this one taught."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from holdfast.carried import Ended, State
from holdfast.pieces.edits import Anchor, same_weights
from holdfast.pieces.merging import Rescale, TaskVectors, Trim, slerp

if TYPE_CHECKING:
    from torch import Tensor

_STAGES = "stages"
_BETWEEN = " / "
"""Between a stage's number and a weight's name, in what is carried."""


@dataclass(kw_only=True)
class Arithmetic:
    """theta = anchor + scale * sparsified(tuned - anchor) (Ilharco et al. 2023; Yu et al. 2024).

    With the start of the stage as the anchor and the base's weights below it, K stages add up to
    base + scale * sum_t tau_t. Draws differ from stage to stage and follow from ``seed``.
    ``scale=1`` without ``drop`` returns the tuned weights and ``scale=0`` the anchor, to the bit.
    """

    scale: float = 1.0
    drop: float = 0.0
    rescale: Rescale = "density"
    seed: int = 0
    anchor: Anchor = "previous"
    name: str = "task-arithmetic"
    stages: int = field(default=0, repr=False)
    """Stages that are done; kept by :meth:`recall`."""

    def __call__(
        self, tuned: Mapping[str, Tensor], start: Mapping[str, Tensor], base: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        same_weights(tuned, {"start of the stage": start, "start of the run": base})
        merge = TaskVectors(scale=self.scale, drop=self.drop, rescale=self.rescale, seed=self.seed)
        return {
            name: merge(
                f"{self.stages} {name}", _anchor(self.anchor, name, weight, start, base), [weight]
            ).to(weight.dtype)
            for name, weight in tuned.items()
        }

    def keep(self, ended: Ended) -> State:
        import torch

        return {_STAGES: torch.tensor(self.stages + 1)}

    def recall(self, state: State) -> Arithmetic:
        return replace(self, stages=int(state[_STAGES]) if state else 0)


@dataclass(kw_only=True)
class Spherical:
    """:func:`holdfast.pieces.merging.slerp` between the anchor (t=0) and the tuned weights."""

    t: float = 0.5
    anchor: Anchor = "previous"
    name: str = "slerp"

    def __call__(
        self, tuned: Mapping[str, Tensor], start: Mapping[str, Tensor], base: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        same_weights(tuned, {"start of the stage": start, "start of the run": base})
        return {
            name: slerp(_anchor(self.anchor, name, weight, start, base), weight, self.t).to(
                weight.dtype
            )
            for name, weight in tuned.items()
        }


@dataclass(kw_only=True)
class Ties:
    """theta = base + scale * TIES(tau_1, ..., tau_t), tau_k what stage k changed while it trained.

    Yadav et al. 2023 merge models that were all tuned from the base; here stage k begins at the
    merge of those before it. Every stage's task vector is carried on, in float32: a copy of what
    trains for each.
    """

    density: float = 0.2
    scale: float = 1.0
    trim: Trim = "model"
    name: str = "ties"
    earlier: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    """``K / NAME``: tau_K of a weight, for earlier stages that changed it."""
    _own: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __call__(
        self, tuned: Mapping[str, Tensor], start: Mapping[str, Tensor], base: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        import torch

        from holdfast.pieces.merging import precise

        same_weights(tuned, {"start of the stage": start, "start of the run": base})
        moved = {name: precise(weight, start[name]) for name, weight in tuned.items()}
        self._own = {name: now - before for name, (now, before) in moved.items()}
        stages = range(self._stages)

        def read(name: str) -> tuple[Tensor, list[Tensor]]:
            # task vectors over 0: the base is added once, at the end
            own = self._own[name]
            zero = torch.zeros_like(own)
            known = (self.earlier.get(f"{k}{_BETWEEN}{name}") for k in stages)
            before = [zero if tau is None else tau.to(own.device) for tau in known]
            return zero, [*before, own]

        merge = TaskVectors(density=self.density, trim=self.trim, elect=True)
        merge = merge.survey(list(tuned), read)
        found = {}
        for name, weight in tuned.items():
            first = precise(base[name].to(weight.device))[0]
            change = self.scale * merge(name, *read(name))
            merged = torch.where(change == 0, first, first + change)
            found[name] = merged.to(weight.dtype)
        return found

    def keep(self, ended: Ended) -> State:
        own = {f"{self._stages}{_BETWEEN}{name}": tau for name, tau in self._own.items()}
        return {**self.earlier, **own}

    def recall(self, state: State) -> Ties:
        return replace(self, earlier=dict(state))

    @property
    def _stages(self) -> int:
        return 1 + max((int(key.split(_BETWEEN)[0]) for key in self.earlier), default=-1)


def _anchor(
    anchor: Anchor,
    name: str,
    weight: Tensor,
    start: Mapping[str, Tensor],
    base: Mapping[str, Tensor],
) -> Tensor:
    """The weight that a merge goes back to, on the device of ``weight``."""
    previous, first = start[name].to(weight.device), base[name].to(weight.device)
    if anchor == "both":
        return (previous + first) / 2
    return previous if anchor == "previous" else first
