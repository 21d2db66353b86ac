"""Orthogonal subspace fine-tuning, by PEFT: the small singular directions train, the large stay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from holdfast.errors import ConfigError, need
from holdfast.pieces.lora import LINEAR_OF_LANGUAGE
from holdfast.pieces.projected import without

if TYPE_CHECKING:
    from torch import Tensor, nn

    from holdfast.anatomy import Anatomy
    from holdfast.pieces.lora_scope import Scope


@dataclass(kw_only=True)
class OSF:
    """W = U_h S_h V_h + U_l S_l V_l: all three factors of the second part train.

    PEFT makes the parts, projects the gradients of U_l and V_l off U_h and V_h, and merges. An
    optimizer that scales each entry by itself (AdamW) leaves the subspace all the same; with
    ``project="weights"`` the weights are put back into it after every step, and the preserved
    directions stay exact singular directions.
    """

    preserve: float | int = 0.5
    """How many singular directions are preserved, or which share of a matrix's."""
    scope: str = LINEAR_OF_LANGUAGE
    project: Literal["gradient", "weights"] = "gradient"
    name: str = "osf"
    _model: Any = field(default=None, init=False, repr=False, compare=False)

    def touches(self, model: nn.Module, anatomy: Anatomy) -> Iterable[str]:
        return [f"{module}.weight" for module in self._scope(model, anatomy).modules]

    def attach(self, model: nn.Module, anatomy: Anatomy) -> nn.Module:
        """Wrap ``model`` in PEFT.

        Raises:
            MissingExtra: PEFT is not installed.
            SelectorError: the scope has no linear layer, or a part of a fused one.
            ConfigError: the scope has packed experts or GPT-2's Conv1D, or nothing would train.
        """
        peft = need("peft", "lora")
        from holdfast.pieces.lora_scope import exact

        found = self._scope(model, anatomy)
        for path in found.modules:
            self._check(path, model.get_submodule(path))
        config = peft.OSFConfig(
            effective_rank=self.preserve, target_modules=exact(found.modules, model)
        )
        wrapped: nn.Module = peft.get_peft_model(model, config)
        self._model = wrapped
        names = set(self.trainable(wrapped))
        for name, parameter in wrapped.named_parameters():
            parameter.requires_grad_(name in names)
        return wrapped

    def trainable(self, model: nn.Module) -> Iterable[str]:
        return (name for name, _ in model.named_parameters() if ".osf_svd_params." in name)

    def detach(self, model: nn.Module, folder: Path | None) -> nn.Module:
        """Save the parts in PEFT's format, and merge them."""
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            model.save_pretrained(str(folder), save_embedding_layers=False)  # type: ignore[operator]
        self._model = None
        merged: nn.Module = model.merge_and_unload()  # type: ignore[operator]
        return merged.requires_grad_(False)

    def structure(self) -> Mapping[str, object] | None:
        return None

    def before_step(self, parameters: Mapping[str, Tensor]) -> None:
        """Nothing: PEFT projects the gradients as they come."""

    def after_step(self, parameters: Mapping[str, Tensor]) -> None:
        import torch

        if self.project == "gradient" or self._model is None:
            return
        with torch.no_grad():
            for layer in self._model.modules():
                if hasattr(layer, "osf_svd_params"):
                    put_back(layer)

    def _scope(self, model: nn.Module, anatomy: Anatomy) -> Scope:
        from holdfast.pieces.lora_scope import scope

        found = scope(model, anatomy, self.scope)
        if found.parameters:
            raise ConfigError(
                f"'{self.name}' was given the packed experts '{found.parameters[0]}', which are "
                "no single matrix; leave them out of the scope."
            )
        return found

    def _check(self, path: str, layer: Any) -> None:
        if type(layer).__name__ == "Conv1D":
            raise ConfigError(
                f"'{path}' is a Conv1D, which PEFT's OSF passes over; use oplora, which preserves "
                "the same directions, or a scope without it."
            )
        smaller = min(layer.weight.shape)
        kept = int(smaller * self.preserve) if isinstance(self.preserve, float) else self.preserve
        if not 0 < kept < smaller:
            raise ConfigError(
                f"preserve={self.preserve} keeps {kept} of the {smaller} singular directions of "
                f"'{path}'; some must stay and some must train: give a share between 0 and 1."
            )


def put_back(layer: Any) -> None:
    """Take off U_l [out, k] and V_l [k, in] of a layer what lies in the preserved directions."""
    parts = layer.osf_svd_params["default"]
    u, v = parts["U_low"], parts["V_low"]
    if "default" in layer._osf_U_high:
        u.copy_(without(u.T, layer._osf_U_high["default"]).T)
    else:  # square: the first U_l spans all that is not preserved
        own = layer._osf_U_low_init["default"]
        u.copy_(own @ (own.T @ u))
    if "default" in layer._osf_V_high:
        v.copy_(without(v, layer._osf_V_high["default"].T))
    else:
        own = layer._osf_V_low_init["default"]
        v.copy_((v @ own.T) @ own)
