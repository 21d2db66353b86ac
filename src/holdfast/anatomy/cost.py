"""What a selection costs to train: memory, and the training FLOPs that are left.

A matrix of n weights costs n multiply-adds per position forward, n for the gradient of its
input if anything below it trains, and n for its own gradient if it trains itself. With d and
w the shares of the forward for which these two are formed, training costs

    R = (1 + d + w) / 3

of what it costs when both are formed everywhere. Instead of assuming that a backward pass
stops between blocks, the flow of ``requires_grad`` is followed from weight to weight as
autograd does it, so that R is exact inside the lowest trainable block too. A matrix that
trains in part costs its whole gradient: a row mask saves memory nowhere and time nowhere.
Look-ups (embeddings) multiply nothing. Norms, activations and the optimizer are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast.anatomy.flow import Load, class_tokens, flops

if TYPE_CHECKING:
    from holdfast.anatomy.core import Anatomy
    from holdfast.anatomy.selection import Selection

BYTES_MOMENTS = 8
"""AdamW keeps two float32 numbers for each trainable element."""
BYTES_GRADIENT = 4
"""A float32 gradient beside a float32 master weight, which is what mixed precision keeps."""
BYTES_MASTER = 4
BYTES_FROZEN = 2
"""A frozen weight stays in bfloat16."""


@dataclass(frozen=True)
class Memory:
    """Bytes that training needs for weights, gradients and optimizer, without activations.

    The rule is 16 bytes for each element of a trainable parameter (float32 weight, gradient
    and AdamW's two moments) and 2 for each frozen one (bfloat16).
    """

    trainable: int
    """Elements of the parameters that require grad; a row-masked one counts whole."""
    frozen: int

    @property
    def optimizer(self) -> int:
        return BYTES_MOMENTS * self.trainable

    @property
    def gradients(self) -> int:
        return BYTES_GRADIENT * self.trainable

    @property
    def weights(self) -> int:
        return BYTES_MASTER * self.trainable + BYTES_FROZEN * self.frozen

    @property
    def total(self) -> int:
        return self.optimizer + self.gradients + self.weights


def memory(found: Anatomy, chosen: Selection) -> Memory:
    """What :class:`Memory` says of a selection."""
    sizes = {p.parameter: 0 for p in found.parts}
    for p in found.parts:
        sizes[p.parameter] += p.count
    trainable = sum(sizes[name] for name in chosen.parameters)
    return Memory(trainable, sum(sizes.values()) - trainable)


def ratio(found: Anatomy, chosen: Selection, load: Load | None = None) -> float:
    """FLOPs of training ``chosen``, over those of training everything; 1/3 is a forward pass."""
    everything = frozenset(p.parameter for p in found.parts)
    load = load or default_load(found)
    return (
        flops(found, frozenset(chosen.parameters), load).total
        / flops(found, everything, load).total
    )


def default_load(
    found: Anatomy, text: int = 256, image_size: int = 0, scores: bool = False
) -> Load:
    """One image, if the model reads images, and ``text`` tokens.

    The number of patches and of image tokens comes from the configuration, for one tile of
    ``image_size`` pixels along a side: by default the size that it names, or 448 where it
    names none (224 for a convolutional network).
    """
    towers = {place.tower: place.config for place in found.towers}
    if "vision" not in towers:
        return Load(language=text, scores=scores)
    patches, tokens = _image(found.config, towers["vision"], image_size)
    if "language" not in towers:
        return Load(0, patches, 0, 1, scores=scores)
    return Load(text + tokens, patches, tokens, 1, scores=scores)


def _image(config: Any, vision: Any, image_size: int) -> tuple[float, float]:
    """Patches of one image in the vision tower, and the tokens that the language model gets."""
    patch = _number(getattr(vision, "patch_size", None))
    size = image_size or _number(getattr(vision, "image_size", None)) or (448 if patch else 224)
    patches = (size // (patch or 1)) ** 2
    merge = _number(getattr(vision, "spatial_merge_size", None)) or 1
    merge = _number(getattr(config, "spatial_merge_size", None)) or merge
    merge = _number(getattr(config, "scale_factor", None)) or merge
    shrink = float(getattr(config, "downsample_ratio", None) or 1)
    tokens = getattr(config, "mm_tokens_per_image", None) or patches / merge**2 * shrink**2
    return patches + class_tokens(vision), float(tokens)


def _number(value: Any) -> int:
    """An image or patch size that may be given as a pair or as a mapping."""
    if isinstance(value, (list, tuple)):
        value = value[0]
    if isinstance(value, dict):
        value = next(iter(value.values()), 0)
    return int(value or 0)
