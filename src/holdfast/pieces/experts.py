"""The two-expert mixture: an MLP beside a tunable copy of itself, with a router.

Zhu et al. 2025 (arXiv 2510.08564), Mixture-of-Experts baseline. No torch until it is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import nn

    from holdfast.anatomy import Anatomy


@dataclass(kw_only=True)
class TwoExpertMixture:
    """Puts :class:`holdfast.pieces.mixture.TwoExperts` into every block of the language model."""

    evaluate: Literal["hard", "soft"] = "hard"
    bias: float = 0.0
    seed: int = 0
    stop_gradient: bool = False
    name: str = "two-experts"

    def touches(self, model: nn.Module, anatomy: Anatomy) -> Iterable[str]:
        """None: the model's own weights stay as they are."""
        return ()

    def attach(self, model: nn.Module, anatomy: Anatomy) -> nn.Module:
        """Replace each MLP and freeze all else; a model that has them already keeps them.

        Raises:
            ModelError: the language model has no MLP that is one module, or has experts.
        """
        from holdfast.pieces.mixture import insert, mixtures, normal_router

        if not any(mixtures(model)):
            insert(
                model,
                anatomy,
                normal_router(self.bias, self.seed),
                evaluate=self.evaluate,
                stop_gradient=self.stop_gradient,
            )
        names = set(self.trainable(model))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in names)
        return model

    def trainable(self, model: nn.Module) -> Iterable[str]:
        from holdfast.pieces.mixture import mixtures

        for path, mixture in mixtures(model):
            for name, _ in mixture.named_parameters():
                if not name.startswith("original."):
                    yield f"{path}.{name}"

    def detach(self, model: nn.Module, folder: Path | None) -> nn.Module:
        """The mixture stays in the model; it has no format of its own to save."""
        return model.requires_grad_(False)

    def structure(self) -> Mapping[str, object]:
        return {
            "kind": "two-experts",
            "evaluate": self.evaluate,
            "bias": self.bias,
            "seed": self.seed,
            "stop_gradient": self.stop_gradient,
        }


def rebuild(model: nn.Module, structure: Mapping[str, Any], anatomy: Anatomy) -> nn.Module:
    """The modules that ``structure`` describes, with first values, before weights load."""
    settings = {key: value for key, value in structure.items() if key != "kind"}
    return TwoExpertMixture(**settings).attach(model, anatomy)
