"""Adapters that are held small where the adapters of earlier stages were large."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from holdfast.carried import Ended, State
from holdfast.errors import ConfigError
from holdfast.pieces.lora import LoRA

if TYPE_CHECKING:
    from torch import Tensor, nn

    from holdfast.anatomy import Anatomy

_A, _B = ".lora_A.default.weight", ".lora_B.default.weight"


def largest(b: Tensor, a: Tensor, share: float) -> Tensor:
    """The ``int(share * out * in)`` positions of largest |b a|, as [k] int64: row * in + column.

    Args:
        b: [out, r].
        a: [r, in].
    """
    product = (b.float() @ a.float()).abs().flatten()
    return product.topk(int(share * product.numel()), sorted=False).indices


def entries(b: Tensor, a: Tensor, positions: Tensor) -> Tensor:
    """(b a) at ``positions`` [k], in float32.

    Rows of b and columns of a are gathered, k * r numbers each, where those are fewer than the
    out * in of the whole product; otherwise that is formed and read.

    Args:
        b: [out, r].
        a: [r, in].
        positions: row * in + column.
    """
    (out, rank), width = b.shape, a.shape[1]
    if len(positions) * rank > out * width:
        return (b.float() @ a.float()).flatten()[positions]
    return (b.float()[positions // width] * a.float().T[positions % width]).sum(1)


@dataclass(kw_only=True)
class RegLoRA(LoRA):
    """A :class:`LoRA` per stage, merged, that is a loss term too.

    The term: the mean over the L adapted matrices of the mean of |(B A)[i, j]| over the
    positions that earlier stages left (Chen et al. 2025, SEFE). 0 in the first stage.
    """

    top: float = 0.02
    weight: float = 2.5e3
    name: str = "reg-lora"
    earlier: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    """By layer, the positions of all earlier stages, the latest first; repeated ones count."""
    _found: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stages != "merge":
            raise ConfigError("RegLoRA merges each stage's adapter before the next one.")

    def __call__(self, parameters: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> Tensor:
        """The term's value without its weight; a scalar."""
        import torch

        total = torch.zeros((), device=next(iter(parameters.values())).device)
        if not self.earlier:
            return total
        layers = list(_pairs(parameters))
        for layer, a, b in layers:
            at = self.earlier.get(layer)
            if at is not None and len(at):
                total = total + entries(b, a, at.to(b.device)).abs().mean()
        return total / len(layers)

    def attach(self, model: nn.Module, anatomy: Anatomy) -> nn.Module:
        """As :meth:`LoRA.attach`.

        Raises:
            ConfigError: the scope has packed experts, whose adapters are no single product.
        """
        attached = super().attach(model, anatomy)
        config = attached.peft_config["default"]  # type: ignore[index]
        packed = getattr(config, "target_parameters", None)
        if packed:
            raise ConfigError(
                f"'{self.name}' was given the packed experts '{packed[0]}', whose adapters are not "
                "one product of two matrices; leave them out of the scope."
            )
        return attached

    def detach(self, model: nn.Module, folder: Path | None) -> nn.Module:
        """As :meth:`LoRA.detach`; notes first which positions this stage used most."""
        now = dict(model.named_parameters())
        self._found = {n: largest(b.detach(), a.detach(), self.top) for n, a, b in _pairs(now)}
        return super().detach(model, folder)

    def keep(self, ended: Ended) -> State:
        """The positions of this stage and of those before it."""
        import torch

        kept = dict(self.earlier)
        for layer, found in self._found.items():
            before = kept.get(layer)
            new = found.cpu()
            kept[layer] = new if before is None else torch.cat([new, before.cpu()])
        return kept

    def recall(self, state: State) -> Self:
        """The same with the positions of all stages before."""
        return replace(self, earlier=dict(state), adapters=0)


def _pairs(parameters: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(layer, A [r, in], B [out, r]) of each adapted matrix."""
    for name, a in parameters.items():
        layer = name.removesuffix(_A)
        if layer != name:
            yield layer, a, parameters[layer + _B]
