"""Train a part of a fused weight: the other rows stay as they were, to the bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from holdfast.anatomy import Selection


@dataclass(kw_only=True)
class KeepRows:
    """Keeps the rows of partly selected weights that were not selected.

    Zeroing their gradient is not enough: weight decay moves a weight whose gradient is zero,
    and so does momentum left from before. So the gradient is zeroed (which also keeps these
    rows out of the gradient norm), and after the step their values are put back. The values
    are copied once, before the first step.

    Where a process holds a shard of the weight (FSDP2, ZeRO-3), it does so with the same shard
    of the mask.
    """

    masks: Mapping[str, Tensor] = field(repr=False)
    """Parameter name to a bool tensor that broadcasts to it, True on the rows that may move
    (:meth:`holdfast.anatomy.Selection.masks`). Parameters that are not here are left alone."""
    name: str = "keep-rows"
    _kept: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    _frozen: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(cls, selection: Selection, model: nn.Module) -> KeepRows:
        """The rows that ``selection`` leaves out of the weights it takes in part."""
        return cls(masks=selection.masks(model))

    def before_step(self, parameters: Mapping[str, Tensor]) -> None:
        from holdfast.pieces import sharding

        for name, parameter in parameters.items():
            if name not in self.masks:
                continue
            if name not in self._kept:
                self._remember(name, parameter)
            sharding.clear_gradient(parameter, self._frozen[name])

    def after_step(self, parameters: Mapping[str, Tensor]) -> None:
        from holdfast.pieces import sharding

        for name, kept in self._kept.items():
            sharding.put_back(parameters[name], self._frozen[name], kept)

    def clear(self, gradients: Mapping[str, Tensor]) -> None:
        """Zero the rows that may not move, in gradients by weight."""
        for name, gradient in gradients.items():
            if name in self.masks:
                gradient.mul_(self.masks[name].to(gradient.device))

    def _remember(self, name: str, parameter: Tensor) -> None:
        from holdfast.pieces import sharding

        weight = sharding.part(parameter)
        frozen = sharding.cut(parameter, ~self.masks[name].to(weight.device))
        self._frozen[name] = frozen
        self._kept[name] = weight[frozen.expand_as(weight)]
