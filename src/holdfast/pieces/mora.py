"""Self-activated rank-one experts on any choice of linear layers. No torch until it is used.

Lu et al. 2025 (arXiv 2506.21035).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import nn

    from holdfast.anatomy import Anatomy
    from holdfast.pieces.atoms import Gate


@dataclass(kw_only=True)
class RankOneExperts:
    """Each stage adds ``rank`` atoms to every chosen layer; those of earlier stages stay active.

    Only the newest train. In the first stage the model computes at attachment what it computed
    before. Later it changes a little there, as the method has it: the new keys take part in
    the norm and in the softmax that weigh the old atoms.
    """

    rank: int
    budget: int
    temperature: float
    threshold: float | None
    softmax: Literal["all", "kept"]
    scope: str
    name: str = "mora"
    stages: int = field(default=0, repr=False)
    """How many stages have atoms in the model; kept by ``attach``."""

    def touches(self, model: nn.Module, anatomy: Anatomy) -> Iterable[str]:
        """None: the model's own weights stay as they are."""
        return ()

    def attach(self, model: nn.Module, anatomy: Anatomy) -> nn.Module:
        """Add a stage's atoms, and freeze all else.

        Raises:
            SelectorError: the scope has no linear layer, a part of a fused one, or packed
                experts.
        """
        from holdfast.pieces.atoms import insert, layers

        if not any(layers(model)):
            insert(model, anatomy, self.scope, self._gate())
        for _, layer in layers(model):
            layer.grow(self.rank)
            self.stages = len(layer.keys)
        names = set(self.trainable(model))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in names)
        return model

    def trainable(self, model: nn.Module) -> Iterable[str]:
        from holdfast.pieces.atoms import layers

        for path, layer in layers(model):
            newest = len(layer.keys) - 1
            yield f"{path}.keys.{newest}"
            yield f"{path}.values.{newest}"

    def detach(self, model: nn.Module, folder: Path | None) -> nn.Module:
        """The atoms stay in the model: what they write depends on the input, so that they
        cannot be added to a weight. They have no format of their own to save."""
        return model.requires_grad_(False)

    def structure(self) -> Mapping[str, object]:
        return {
            "kind": "mora",
            "rank": self.rank,
            "budget": self.budget,
            "temperature": self.temperature,
            "threshold": self.threshold,
            "softmax": self.softmax,
            "scope": self.scope,
            "stages": self.stages,
        }

    def _gate(self) -> Gate:
        from holdfast.pieces.atoms import Gate

        return Gate(self.budget, self.temperature, self.threshold, self.softmax)


def rebuild(model: nn.Module, structure: Mapping[str, Any], anatomy: Anatomy) -> nn.Module:
    """``model`` with the atoms of as many stages as ``structure`` says, before weights load."""
    settings = {k: v for k, v in structure.items() if k not in ("kind", "stages")}
    adapter = RankOneExperts(**settings)
    for _ in range(int(structure["stages"])):
        model = adapter.attach(model, anatomy)
    return model
