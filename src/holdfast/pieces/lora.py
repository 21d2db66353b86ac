"""Low-rank adapters (Hu et al. 2021), made, merged and saved by PEFT."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from holdfast.errors import ConfigError, ModelError, SelectorError, need

if TYPE_CHECKING:
    from torch import nn

    from holdfast.anatomy import Anatomy
    from holdfast.pieces.lora_scope import Scope

LINEAR_OF_LANGUAGE = "language.attn + language.mlp"
"""All linear layers of the language model except embeddings, router and head."""

Stages = Literal["merge", "keep", "stack"]


@dataclass(kw_only=True)
class LoRA:
    """W x becomes W x + (alpha / rank) B A x with W frozen (Hu et al. 2021, equation 3).

    A is [rank, in] and random, B is [out, rank] and zero, so the model computes at first
    what it computed before. Weights are counted as rank * (in + out) for each layer.
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    scope: str = LINEAR_OF_LANGUAGE
    stages: Stages = "merge"
    also_train: str | None = None
    name: str = "lora"
    adapters: int = field(default=0, repr=False)
    """How many adapters the model holds; kept by ``attach``."""

    def __post_init__(self) -> None:
        if self.stages == "stack" and self.also_train:
            raise ConfigError(
                "stages='stack' freezes what earlier stages trained, and also_train trains "
                "the same modules in every stage; use stages='merge' or 'keep' with it."
            )

    def touches(self, model: nn.Module, anatomy: Anatomy) -> Iterable[str]:
        """The weights that ``stages='merge'`` adds its adapter to, or trains in full."""
        if self.stages != "merge":
            return
        from holdfast.pieces.lora_scope import scope

        found = scope(model, anatomy, self.scope)
        yield from (f"{module}.weight" for module in found.modules)
        yield from found.parameters
        if self.also_train:
            yield from anatomy.select(self.also_train).parameters

    def attach(self, model: nn.Module, anatomy: Anatomy) -> nn.Module:
        """Wrap ``model`` in PEFT, or continue with the adapters that it carries.

        Raises:
            MissingExtra: PEFT is not installed.
            SelectorError: the scope has no linear layer, or a part of a fused one.
            ConfigError: the scope has packed experts and dropout is not 0.
            ModelError: the model carries adapters that this plan did not make.
        """
        peft = need("peft", "lora")
        if not isinstance(model, peft.PeftModel):
            model = self._wrap(peft, model, anatomy)
            self.adapters = 1
        elif self.stages == "keep":
            self.adapters = 1
        elif self.stages == "stack":
            self.adapters = len(model.peft_config) + 1
            config = _again(model.peft_config["default"])
            model.add_adapter(self._current(), config)
            model.base_model.set_adapter([_adapter(i) for i in range(self.adapters)])
        else:
            raise ModelError(
                "the model carries an adapter that is not merged; merge it first "
                "(model.merge_and_unload()), or continue it with lora:stages=keep."
            )
        self._freeze_all_else(model)
        return model

    def trainable(self, model: nn.Module) -> Iterable[str]:
        current = f".{self._current()}."
        for name, _ in model.named_parameters():
            if ("lora_" in name or ".modules_to_save." in name) and current in f"{name}.":
                yield name

    def detach(self, model: nn.Module, folder: Path | None) -> nn.Module:
        """Save this stage's adapter in PEFT's format, then merge it unless it stays.

        The saved adapter belongs on the weights that the stage began with. A whole history
        of merged stages becomes one adapter for the base by
        :func:`holdfast.pieces.lora_history.concatenate`.
        """
        assert hasattr(model, "merge_and_unload"), "attach comes before detach"
        if folder is not None:
            _save(model, self._current(), folder)
        if self.stages == "merge":
            merged: nn.Module = model.merge_and_unload()  # type: ignore[operator]
            return merged
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        return model

    def structure(self) -> Mapping[str, object] | None:
        if self.stages == "merge":
            return None
        return {
            "kind": "lora",
            "rank": self.rank,
            "alpha": self.alpha,
            "dropout": self.dropout,
            "scope": self.scope,
            "stages": self.stages,
            "also_train": self.also_train,
            "adapters": self.adapters,
        }

    def _current(self) -> str:
        return _adapter(self.adapters - 1)

    def _wrap(self, peft: Any, model: nn.Module, anatomy: Anatomy) -> nn.Module:
        from holdfast.pieces.lora_scope import scope

        found = scope(model, anatomy, self.scope)
        if found.parameters and self.dropout:
            raise ConfigError(
                f"the scope '{self.scope}' has packed experts ('{found.parameters[0]}'), whose "
                "adapters PEFT cannot run with dropout; use dropout=0 or a scope without them."
            )
        wrapped: nn.Module = peft.get_peft_model(model, self._config(peft, model, anatomy, found))
        _check_layers(wrapped, found)
        return wrapped

    def _config(self, peft: Any, model: nn.Module, anatomy: Anatomy, found: Scope) -> Any:
        from holdfast.pieces.lora_scope import caught, exact, whole_modules

        save = whole_modules(model, anatomy, self.also_train) if self.also_train else ()
        other = caught(save, (name for name, _ in model.named_modules()))
        if other is not None:
            raise SelectorError(
                f"also_train='{self.also_train}' would also catch '{other}': PEFT finds modules "
                "by the end of their name. Select modules whose names are not the end of others."
            )
        settings: dict[str, Any] = {}
        if found.parameters:
            settings["target_parameters"] = list(found.parameters)
        if _shared(model, save):
            settings["ensure_weight_tying"] = True  # else PEFT trains a copy beside the head
        return peft.LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            bias="none",
            target_modules=exact(found.modules, model),
            modules_to_save=list(save) or None,
            fan_in_fan_out=found.transposed,
            **settings,
        )

    def _freeze_all_else(self, model: nn.Module) -> None:
        names = set(self.trainable(model))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in names)


def rebuild(model: nn.Module, structure: Mapping[str, Any], anatomy: Anatomy) -> nn.Module:
    """``model`` with as many untrained adapters as ``structure`` says, before weights load."""
    settings = {k: v for k, v in structure.items() if k not in ("kind", "adapters")}
    adapter = LoRA(**settings)
    for _ in range(int(structure["adapters"])):
        model = adapter.attach(model, anatomy)
    return model


def _shared(model: nn.Module, paths: Sequence[str]) -> bool:
    """Whether a weight of these modules stands elsewhere in the model too (tied embeddings)."""
    places = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    return any(places[id(p)] > 1 for path in paths for p in model.get_submodule(path).parameters())


def _adapter(index: int) -> str:
    """PEFT's own name for a first adapter, so that its folder needs no extra level."""
    return "default" if index == 0 else f"stage{index + 1}"


def _again(config: Any) -> Any:
    """A fresh configuration of an adapter like one that exists."""
    import copy

    fresh = copy.deepcopy(config)
    fresh.inference_mode = False
    return fresh


def _check_layers(model: nn.Module, found: Scope) -> None:
    """PEFT's matching is by name; make sure that it found these layers and no others."""
    adapted = set()
    for name, _ in model.named_modules():
        path, marker, _ = name.removeprefix("base_model.model.").partition(".lora_A")
        if marker:
            adapted.add(path.replace(".base_layer", ""))
    wanted = {*found.modules, *(name.rpartition(".")[0] for name in found.parameters)}
    assert adapted == wanted, f"PEFT adapted {adapted ^ wanted} in place of what was asked for"


def _save(model: Any, adapter: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # 'auto' asks the model hub whether the vocabulary was resized.
    model.save_pretrained(str(folder), selected_adapters=[adapter], save_embedding_layers=False)
    inner = folder / adapter
    if adapter != "default":  # PEFT puts an adapter that is not its first into a folder below
        for file in inner.iterdir():
            shutil.move(str(file), folder / file.name)
        inner.rmdir()
