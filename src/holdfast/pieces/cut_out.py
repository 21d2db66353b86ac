"""Adapters that begin as a part of the weight itself, found on calibration data.

    W x  becomes  W x + s (B A - B0 A0) x,    s B0 A0 a part of W, A = A0 and B = B0 at first

which is the published (W - s B0 A0) x + s B A x with W left whole: the model computes at first
exactly what it computed before, in any dtype, and W stays there to be compared with.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.errors import ConfigError, UsageError
from holdfast.pieces.lora import LoRA
from holdfast.plan import TAGS

if TYPE_CHECKING:
    from torch import Tensor, nn

    from holdfast.anatomy import Anatomy

Factors = tuple["Tensor", "Tensor"]
"""B [out, k] and A [k, in]."""
Batches = Iterable[Mapping[str, Any]]


@dataclass(kw_only=True)
class CutOut(LoRA):
    """A :class:`LoRA` per stage, merged, that begins as a part of each weight.

    A layer whose smaller side is below ``rank`` has rows of zeros in A and B, which stay.
    """

    source: str = "general"
    """The source of data that it is calibrated on."""
    examples: int = 256
    """So many of them, one by one."""
    _batches: Batches | None = field(default=None, init=False, repr=False, compare=False)
    _begun: dict[str, Factors] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stages != "merge":
            raise ConfigError(f"'{self.name}' merges each stage's adapter before the next one.")

    def calibrate(self, batches: Batches) -> None:
        """Told as a stage begins, before :meth:`attach`: batches of one example each."""
        self._batches = batches

    @abstractmethod
    def part(self, layer: nn.Module, weight: Tensor, covariance: Tensor) -> Factors:
        """The part of a layer's weight [out, in] that becomes its adapter, at most ``rank`` wide.

        Args:
            covariance: [in, in], the mean over examples of X^T X, X the layer's scaled inputs.
        """

    def attach(self, model: nn.Module, anatomy: Anatomy) -> nn.Module:
        """As :meth:`LoRA.attach`.

        Raises:
            ConfigError: the scope has packed experts, or a layer that the data never reached.
            UsageError: nothing was calibrated.
        """
        only_layers(self, model, anatomy)
        meta = next(model.parameters()).is_meta
        parts = {} if meta else self._parts(model, anatomy)
        attached = super().attach(model, anatomy)
        self._begun = {}
        scale = self.alpha / self.rank
        for path, (b, a) in parts.items():
            layer = attached.get_submodule(f"base_model.model.{path}")
            now_a, now_b = _factors(layer)
            now_a.data = _padded(a / scale**0.5, now_a, 0)
            now_b.data = _padded(b / scale**0.5, now_b, 1)
            begun = now_b.detach().clone(), now_a.detach().clone()
            layer.register_forward_hook(_without(*begun, scale))
            self._begun[path] = begun
        return attached

    def detach(self, model: nn.Module, folder: Path | None) -> nn.Module:
        """Save the change s (B A - B0 A0) as an ordinary adapter of twice the rank, and merge it.

        What is saved belongs on the weights that the stage began with.
        """
        import torch

        if folder is not None:
            self._save_plain(model, folder)
        with torch.no_grad():
            for path, (b0, a0) in self._begun.items():
                layer: Any = model.get_submodule(f"base_model.model.{path}")
                a, b = _factors(layer)
                weight = layer.base_layer.weight
                change = self.alpha / self.rank * (b.float() @ a.float() - b0.float() @ a0.float())
                change = change.T if layer.fan_in_fan_out else change
                weight.data = (weight.float() + change).to(weight.dtype)
                b.zero_()
        self._begun = {}
        return super().detach(model, None)

    def _parts(self, model: nn.Module, anatomy: Anatomy) -> dict[str, Factors]:
        from holdfast.pieces.lora_scope import scope

        if self._batches is None:
            raise UsageError(
                f"'{self.name}' looks at data before it is attached: use holdfast.tune or "
                "'holdfast tune', or call plan.adapt.calibrate(batches) with batches of one "
                "example each before the trainer is made."
            )
        layers = {
            path: model.get_submodule(path) for path in scope(model, anatomy, self.scope).modules
        }
        found = covariances(model, layers, self._batches, self.name)
        self._batches = None
        return {
            path: self.part(layer, _as_linear(layer), found.pop(path))
            for path, layer in layers.items()
        }

    def _save_plain(self, model: nn.Module, folder: Path) -> None:
        import peft
        import torch
        from safetensors.torch import save_file

        state = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
        scale = self.alpha / self.rank
        for path, (b0, a0) in self._begun.items():
            key = f"base_model.model.{path}.lora_"
            a, b = state[f"{key}A.weight"], state[f"{key}B.weight"]
            state[f"{key}A.weight"] = torch.cat([a, a0])
            state[f"{key}B.weight"] = torch.cat([b, -b0], 1) * scale
        config: Any = copy.deepcopy(model.peft_config["default"])  # type: ignore[index]
        config.r = config.lora_alpha = 2 * self.rank
        config.inference_mode = True
        folder.mkdir(parents=True, exist_ok=True)
        held = {name: value.cpu().contiguous() for name, value in state.items()}
        save_file(held, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config.save_pretrained(folder)


def only_layers(adapter: LoRA, model: nn.Module, anatomy: Anatomy) -> None:
    """Raise :class:`ConfigError` if an adapter's scope has packed experts."""
    from holdfast.pieces.lora_scope import scope

    packed = scope(model, anatomy, adapter.scope).parameters
    if packed:
        raise ConfigError(
            f"'{adapter.name}' was given the packed experts '{packed[0]}', which are no single "
            "matrix; leave them out of the scope."
        )


def covariances(
    model: nn.Module, layers: Mapping[str, nn.Module], batches: Batches, name: str
) -> dict[str, Tensor]:
    """The mean over examples of X^T X for each layer, X [tokens, in] divided by its largest entry.

    As in the code of CorDA, which LoRA-Null builds on. The model's mode is left as it was.

    Raises:
        ConfigError: there is no example, or none reaches a layer.
    """
    import torch

    sums: dict[str, Tensor] = {}
    counts = dict.fromkeys(layers, 0)

    def watch(path: str) -> Callable[..., None]:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
            x = inputs[0].detach().flatten(0, -2).float()
            if not len(x):
                return
            x = x / x.max().abs().clamp(min=torch.finfo(torch.float32).tiny)
            product = x.T @ x
            sums[path] = sums[path] + product if path in sums else product
            counts[path] += 1

        return hook

    handles = [layer.register_forward_hook(watch(path)) for path, layer in layers.items()]
    was = model.training
    model.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                model(**{k: v for k, v in batch.items() if k not in (*TAGS, "labels")})
    finally:
        model.train(was)
        for handle in handles:
            handle.remove()
    unseen = [path for path in layers if not counts[path]]
    if unseen:
        raise ConfigError(
            f"'{name}' learns from data which part of a layer to train, and no example reaches "
            f"'{unseen[0]}'{f' and {len(unseen) - 1} more' if len(unseen) > 1 else ''}; give "
            "examples that do, or a scope without it."
        )
    return {path: total / counts[path] for path, total in sums.items()}


def _factors(layer: Any) -> tuple[nn.Parameter, nn.Parameter]:
    """A [r, in] and B [out, r] of PEFT's layer."""
    return layer.lora_A["default"].weight, layer.lora_B["default"].weight


def _as_linear(layer: Any) -> Tensor:
    """A layer's weight as [out, in], in float32; GPT-2's Conv1D keeps it as [in, out]."""
    weight: Tensor = layer.weight.detach().float()
    return weight.T if type(layer).__name__ == "Conv1D" else weight


def _padded(value: Tensor, like: Tensor, dim: int) -> Tensor:
    """``value`` in the dtype and shape of ``like``, with zeros behind it along ``dim``."""
    import torch

    whole = torch.zeros_like(like)
    whole.narrow(dim, 0, value.shape[dim]).copy_(value)
    return whole


def _without(b0: Tensor, a0: Tensor, scale: float) -> Callable[..., Any]:
    """A hook that takes s B0 A0 x off a layer's output."""

    def hook(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        from torch.nn.functional import linear

        if layer.disable_adapters or layer.merged:
            return output
        a, b = (factor.to(output.device) for factor in (a0, b0))
        x = inputs[0].to(a.dtype)
        return output - (scale * linear(linear(x, a), b)).to(output.dtype)

    return hook
