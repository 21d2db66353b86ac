"""How many multiply-adds a weight costs in the forward pass, for one position of its tower.

A position is a token of the language model, a patch of a vision transformer, an image token
of the projector, and a pixel of a convolutional network's input.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

_MATRICES = ("attn", "mlp", "router", "linear", "conv", "head")


def multiply_adds(
    owner: nn.Module | None, name: str, tensor: Tensor, unit: str, config: Any, expert: bool
) -> float:
    """Multiply-adds per position of a whole parameter; 0 if it enters no matrix product.

    Args:
        owner: the module that holds the parameter.
        name: the parameter's last name in ``owner``.
        unit: its role, which decides for a bare parameter whether it multiplies anything.
        config: of its tower; has ``num_experts_per_tok`` where ``expert``.
    """
    from torch import nn

    if name.endswith("bias") or tensor.dim() < 2 or isinstance(owner, nn.Embedding):
        return 0.0
    if expert:
        return tensor.numel() * int(config.num_experts_per_tok) / tensor.shape[0]
    if isinstance(owner, nn.MultiheadAttention) and name == "in_proj_weight":
        return tensor.numel() * 2 / 3  # a pooling head has one query for all keys and values
    if isinstance(owner, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return float(tensor.numel())
    if type(owner).__name__ == "Conv1D" or unit.split(".")[0] in _MATRICES:
        return float(tensor.numel())
    return 0.0


def conv_areas(tower: nn.Module) -> dict[str, float]:
    """Output positions per input pixel of every convolution of a residual network.

    Layers of a residual block run one after another; a shortcut starts at the block's input.
    """
    from torch import nn

    areas: dict[str, float] = {}
    area, block, entry = 1.0, "", 1.0
    for name, module in tower.named_modules():
        if isinstance(module, nn.MaxPool2d):
            area /= _stride(module.stride)
        if not isinstance(module, nn.Conv2d):
            continue
        path, _, rest = name.rpartition(".layers.")
        here = f"{path}.{rest.split('.')[0]}" if path else ""
        if here != block:
            block, entry = here, area
        if ".shortcut." in name:
            areas[name] = entry / _stride(module.stride)
        else:
            area /= _stride(module.stride)
            areas[name] = area
    return areas


def _stride(stride: Any) -> int:
    return math.prod(stride) if isinstance(stride, tuple) else int(stride) ** 2
