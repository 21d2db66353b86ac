"""One adapter for the base out of the adapters that were merged stage after stage."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from holdfast.errors import ModelError, UsageError
from holdfast.pieces.lora_scope import expression

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."


def concatenate(folders: Sequence[Path | str], out: Path | str) -> None:
    """Write the sum of several LoRA adapters of one base as one adapter, in PEFT's format.

    sum_k s_k B_k A_k = [s_1 B_1, ..., s_K B_K] [A_1; ...; A_K], so the rank is the sum of the
    ranks and the scale is 1. A layer that a stage did not adapt adds zeros. Modules that a
    stage trained in full are taken from the last stage that did.

    Args:
        folders: adapters in the order of the stages, as ``lora:stages=merge`` saves them.
        out: folder to write; made if it is not there.

    Raises:
        ModelError: a folder holds no LoRA adapter.
        UsageError: no folder is given, or an adapter of packed experts is among them.
    """
    if not folders:
        raise UsageError("give at least one adapter folder to concatenate.")
    stages = [_Stage(Path(folder)) for folder in folders]
    weights: dict[str, Tensor] = {}
    for stage in stages:
        weights |= {k: v for k, v in stage.weights.items() if ".lora_" not in k}
    layers = sorted({layer for stage in stages for layer in stage.layers})
    for layer in layers:
        for side in ("lora_A", "lora_B"):
            weights[f"{layer}.{side}.weight"] = _joined(stages, layer, side)
    target = Path(out)
    target.mkdir(parents=True, exist_ok=True)
    save_file(weights, target / _WEIGHTS, metadata={"format": "pt"})
    text = json.dumps(_config(stages, layers), indent=2, sort_keys=True)
    (target / _CONFIG).write_text(text + "\n", encoding="utf-8")


class _Stage:
    """One saved adapter."""

    def __init__(self, folder: Path) -> None:
        config, weights = folder / _CONFIG, folder / _WEIGHTS
        if not (config.is_file() and weights.is_file()):
            raise ModelError(f"'{folder}' holds no adapter: it needs {_CONFIG} and {_WEIGHTS}.")
        self.config: dict[str, Any] = json.loads(config.read_text(encoding="utf-8"))
        self.weights: dict[str, Tensor] = load_file(weights)
        if self.config.get("peft_type") != "LORA" or self.config.get("use_dora"):
            raise ModelError(f"the adapter in '{folder}' is not a plain LoRA adapter.")
        if self.config.get("target_parameters"):
            raise UsageError(
                f"the adapter in '{folder}' adapts packed experts, whose ranks PEFT interleaves; "
                "export the merged model in full instead."
            )
        if self.config.get("rank_pattern") or self.config.get("alpha_pattern"):
            raise UsageError(f"the adapter in '{folder}' has more than one rank or alpha.")
        self.rank = int(self.config["r"])
        root = self.rank**0.5 if self.config.get("use_rslora") else self.rank
        self.scale = float(self.config["lora_alpha"]) / root
        self.layers = {
            key.removesuffix(".lora_A.weight") for key in self.weights if "lora_A.weight" in key
        }


def _joined(stages: Sequence[_Stage], layer: str, side: str) -> Tensor:
    """``lora_A`` [sum of ranks, in], or ``lora_B`` [out, sum of ranks] with the scales in it."""
    key, dim = f"{layer}.{side}.weight", 0 if side == "lora_A" else 1
    like = next(stage.weights[key] for stage in stages if key in stage.weights)
    pieces = []
    for stage in stages:
        if key in stage.weights:
            piece = stage.weights[key]
            pieces.append(piece if dim == 0 else piece * stage.scale)
        else:
            shape = list(like.shape)
            shape[dim] = stage.rank
            pieces.append(like.new_zeros(shape))
    return torch.cat(pieces, dim=dim).contiguous()


def _config(stages: Sequence[_Stage], layers: Sequence[str]) -> dict[str, Any]:
    rank = sum(stage.rank for stage in stages)
    full = {name for stage in stages for name in stage.config.get("modules_to_save") or ()}
    names = [layer.removeprefix(_PREFIX) for layer in layers]
    # A stage whose names were the ends of other layers' names was saved with an expression.
    ambiguous = any(isinstance(stage.config["target_modules"], str) for stage in stages)
    return {
        **stages[-1].config,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "use_rslora": False,
        "target_modules": expression(names) if ambiguous else names,
        "modules_to_save": sorted(full) or None,
        "base_model_name_or_path": stages[0].config.get("base_model_name_or_path"),
    }
