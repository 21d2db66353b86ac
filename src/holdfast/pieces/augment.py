"""Changed views of encoded examples: of their images, and of their prompts' tokens."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from holdfast.data.images import load_image
from holdfast.data.records import ImageRef
from holdfast.plan import view, viewed

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


@dataclass(frozen=True)
class Shown(Sequence[Mapping[str, "Tensor"]]):
    """The views of a stage's own examples. View ``view(i, 0)`` is example i as it is.

    Args:
        examples: encoded records; images are changed where it is a
            :class:`holdfast.data.counting.EncodedSet`, which knows its records.
        seed: with a view's index it settles how the view is changed.
        image: ``colour`` (brightness, contrast ...), ``rand`` (RandAugment's list, which also
            turns, shears and moves), or ``none``.
        operations: on an image, one after the other.
        strength: of each, 0 to 1.
        mask: the probability that a text token of the prompt is replaced by another of its
            tokens; of a text without a prompt, any token. Labels stay as they are.
    """

    examples: Sequence[Any]
    seed: int
    image: str = "colour"
    operations: int = 2
    strength: float = 0.5
    mask: float = 0.15

    def __len__(self) -> int:
        return view(len(self.examples), 0)

    def __getitem__(self, index: Any) -> Any:
        example, number = viewed(range(len(self))[index])
        if number == 0:
            return self.examples[example]
        drawn = random.Random(f"{self.seed}-{index}")
        known: Any = self.examples
        record = known.records[example] if hasattr(known, "records") else None
        if record is not None and record.images and self.image != "none":
            changed = tuple(self._changed(image, drawn) for image in record.images)
            features = dict(known.encoder(replace(record, images=changed)))
        else:
            features = dict(self.examples[example])
        features["input_ids"] = self._replaced(features, drawn)
        return features

    def size(self, index: int) -> tuple[int, int]:
        """Tokens of a view, and how many the loss reads: those of its example."""
        from holdfast.data.aligned import count_tokens

        example, _ = viewed(index)
        counted = getattr(self.examples, "size", None)
        size: tuple[int, int] = (
            counted(example) if counted is not None else count_tokens(self.examples[example])
        )
        return size

    def _changed(self, image: ImageRef, drawn: random.Random) -> ImageRef:
        picture = load_image(image)
        known = list((COLOUR | SHAPE if self.image == "rand" else COLOUR).values())
        for operation in drawn.choices(known, k=self.operations):
            picture = operation(picture, self.strength * drawn.choice((-1, 1)))
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG")
        return ImageRef(data=buffer.getvalue())

    def _replaced(self, features: Mapping[str, Tensor], drawn: random.Random) -> Tensor:
        ids = features["input_ids"].clone()
        special = self._special()
        kinds = features.get("mm_token_type_ids", ids * 0).tolist()
        text = [t for t, i in enumerate(ids.tolist()) if kinds[t] == 0 and i not in special]
        prompt = [t for t in text if features["labels"][t] == -100] or text
        values = [int(ids[t]) for t in prompt]
        for t in prompt:
            if drawn.random() < self.mask:
                ids[t] = drawn.choice(values)
        return ids

    def _special(self) -> frozenset[int]:
        """Tokens that stand for images, turns and ends; never replaced."""
        encoder = getattr(self.examples, "encoder", None)
        if encoder is None:
            return frozenset()
        mark = getattr(encoder.processor, "image_token_id", None)
        return frozenset(
            [*encoder.tokenizer.all_special_ids, *([mark] if mark is not None else [])]
        )


Operation = Callable[["Image", float], "Image"]
"""``operation(picture, strength)``, strength from -1 to 1; the size stays."""


def _enhance(name: str) -> Operation:
    def change(picture: Image, strength: float) -> Image:
        from PIL import ImageEnhance

        made: Image = getattr(ImageEnhance, name)(picture).enhance(1 + 0.9 * strength)
        return made

    return change


def _operate(name: str, *levels: float) -> Operation:
    """An operation of PIL's ImageOps, whose argument goes from one level to another."""

    def change(picture: Image, strength: float) -> Image:
        from PIL import ImageOps

        if not levels:
            made: Image = getattr(ImageOps, name)(picture)
            return made
        weak, strong = levels
        made = getattr(ImageOps, name)(picture, round(weak + abs(strength) * (strong - weak)))
        return made

    return change


def _affine(place: int, most: float, *, pixels: bool = False) -> Operation:
    """Shear or move: one of the six numbers of an affine map."""

    def change(picture: Image, strength: float) -> Image:
        from PIL import Image

        numbers = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
        numbers[place] = strength * most * (picture.size[place // 3] if pixels else 1)
        return picture.transform(
            picture.size, Image.Transform.AFFINE, tuple(numbers), fillcolor=(128, 128, 128)
        )

    return change


def _turn(picture: Image, strength: float) -> Image:
    return picture.rotate(30 * strength, fillcolor=(128, 128, 128))


COLOUR: dict[str, Operation] = {
    "colour": _enhance("Color"),
    "contrast": _enhance("Contrast"),
    "brightness": _enhance("Brightness"),
    "sharpness": _enhance("Sharpness"),
    "posterize": _operate("posterize", 8, 4),
    "solarize": _operate("solarize", 256, 0),
    "autocontrast": _operate("autocontrast"),
    "equalize": _operate("equalize"),
}
"""Operations that leave everything where it is."""
SHAPE: dict[str, Operation] = {
    "rotate": _turn,
    "shear-x": _affine(1, 0.3),
    "shear-y": _affine(3, 0.3),
    "move-x": _affine(2, 0.45, pixels=True),
    "move-y": _affine(5, 0.45, pixels=True),
}
"""The others of RandAugment (Cubuk et al. 2020, arXiv 1909.13719)."""
