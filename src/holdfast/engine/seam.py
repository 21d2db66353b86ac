"""The features of a frozen vision tower, taken out once and put in ever after.

Where the tower alone is frozen, what the projector reads is kept; where the projector is frozen
too, what it writes. The model's own code before, between and after them runs as ever; it sees a
tower output of the right shapes, whose numbers nobody reads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from holdfast.anatomy import naming
from holdfast.cache.keys import code, digest, tensors
from holdfast.engine.keeping import model_inputs
from holdfast.engine.line import NoReuse, changing
from holdfast.engine.prefix import Stop, replaced
from holdfast.engine.rowkeys import IMAGES, image_owners

_APART = "it cannot be told which features belong to which image"


@dataclass(frozen=True)
class Leaf:
    """A tensor of a module's output."""

    rows: Fraction
    """For every unit of the module's input."""
    sizes: tuple[int, ...]
    """Of the other dimensions."""
    dtype: torch.dtype

    @property
    def numbers(self) -> Fraction:
        """How many for a unit."""
        return self.rows * math.prod(self.sizes)


@dataclass(frozen=True)
class Shape:
    """A module's output: a tree of tensors, each with some rows for every unit of its input.

    A unit is a row of what the vision tower reads: an image, a tile of one, or a patch.
    """

    tree: Any
    leaves: tuple[Leaf | None, ...]
    """None where the tree holds None."""

    @classmethod
    def of(cls, output: Any, units: int) -> Shape:
        """Raises :class:`NoReuse` for an output that cannot be cut by units."""
        found, tree = tree_flatten(output)
        leaves: list[Leaf | None] = []
        for value in found:
            if value is not None and not (isinstance(value, Tensor) and value.dim()):
                raise NoReuse(_APART)
            leaves.append(
                None
                if value is None
                else Leaf(Fraction(len(value), units), tuple(value.shape[1:]), value.dtype)
            )
        return cls(tree, tuple(leaves))

    @property
    def tensors(self) -> list[Leaf]:
        return [leaf for leaf in self.leaves if leaf is not None]

    def cut(self, output: Any, counts: Sequence[int]) -> list[Tensor]:
        """One flat tensor for each row of a batch, whose images have ``counts`` units."""
        values = [v for v in tree_flatten(output)[0] if v is not None]
        split = []
        for value, leaf in zip(values, self.tensors, strict=True):
            sizes = [leaf.rows * n for n in counts]
            if any(size.denominator != 1 for size in sizes):
                raise NoReuse(_APART)
            split.append(torch.split(value, [int(size) for size in sizes]))
        return [torch.cat([piece.reshape(-1) for piece in row]) for row in zip(*split, strict=True)]

    def units(self, row: Tensor) -> Fraction:
        """How many units a row's images have."""
        return Fraction(row.numel()) / sum(leaf.numbers for leaf in self.tensors)

    def join(self, rows: Sequence[Tensor]) -> Any:
        """The output for a batch, from its rows' flat tensors."""
        pieces: list[list[Tensor]] = [[] for _ in self.tensors]
        for row in rows:
            counts = [int(leaf.numbers * self.units(row)) for leaf in self.tensors]
            for place, leaf, flat in zip(
                pieces, self.tensors, torch.split(row, counts), strict=True
            ):
                place.append(flat.reshape(-1, *leaf.sizes))
        return self._tree([torch.cat(p) for p in pieces])

    def blank(self, units: Fraction, device: torch.device) -> Any:
        """An output of the right shapes that takes no memory."""
        return self._tree(
            [
                torch.zeros((), dtype=leaf.dtype, device=device).expand(
                    int(leaf.rows * units), *leaf.sizes
                )
                for leaf in self.tensors
            ]
        )

    def _tree(self, values: Sequence[Tensor]) -> Any:
        rest = iter(values)
        return tree_unflatten([None if x is None else next(rest) for x in self.leaves], self.tree)


class Seam:
    """Where features of images enter a model: a :class:`holdfast.engine.keeping.Kind`.

    Args:
        model: inside its wrappers, with ``requires_grad`` set as it will train.
        setting: what else the values depend on: device and precision.

    Raises:
        NoReuse: the tower trains, is not there, or drops at random.
        ModelError: the family is not in the table.
    """

    def __init__(self, model: nn.Module, setting: str) -> None:
        self.model = model
        self.tower, self.projector = _modules(model)
        if any(p.requires_grad for p in self.tower.parameters()):
            raise NoReuse("the vision tower trains, or a projector that lies in it")
        after = () if self.projector is None else tuple(self.projector.parameters())
        self.through = bool(after) and not any(p.requires_grad for p in after)
        """Whether the projector is frozen as well."""
        kept = [self.tower, *([self.projector] if self.projector and self.through else [])]
        held = nn.ModuleList(kept)
        reason = changing(held.named_modules())
        if reason is not None:
            raise NoReuse(f"dropout or the like is active in the vision tower: {reason}")
        named = (*held.named_parameters(), *held.named_buffers())
        self.scope = digest(code(model), tensors(named), f"{setting} seam")
        self._seen: Shape | None = None
        self._tower: Shape | None = None

    needs_images = True

    def saves(self, inputs: Mapping[str, Any]) -> bool:
        return inputs.get("pixel_values") is not None

    def marks(self, batch: Mapping[str, Any]) -> list[bytes]:
        return [b""] * len(batch["input_ids"])

    @torch.no_grad()
    def compute(self, batch: Mapping[str, Any]) -> list[Tensor]:
        """What crosses the seam for the images of each row, flat; empty for a row without."""
        counts = self.counts(batch)
        if not sum(counts):
            return [torch.zeros(0)] * len(counts)
        crossed: list[Any] = []

        def stop(value: Any) -> None:
            crossed.append(value)
            raise Stop

        with suppress(Stop), self.watching(stop):
            self.model(**model_inputs(batch), use_cache=False)
        return self.cut(crossed, batch)

    def cut(self, crossed: Sequence[Any], inputs: Mapping[str, Any]) -> list[Tensor]:
        """The value of each row, from what crossed the seam in a pass over ``inputs``."""
        counts = self.counts(inputs)
        if len(crossed) != 1:
            raise NoReuse("the vision tower does not run once in a pass")
        return Shape.of(crossed[0], sum(counts)).cut(crossed[0], counts)

    @torch.no_grad()
    def counts(self, batch: Mapping[str, Any]) -> list[int]:
        """How many units the tower reads for each row.

        Raises :class:`NoReuse` if it cannot be told.
        """
        counts = [0] * len(batch["input_ids"])
        pixels = batch.get("pixel_values")
        if "pixel_values_videos" in batch:
            raise NoReuse("videos are not kept")
        if pixels is None:
            return counts
        owners = image_owners(batch, self.model.config)
        if owners is None:
            raise NoReuse(_APART)
        grid = batch.get("image_grid_thw")
        if grid is not None:
            each = grid.prod(-1).tolist()
        elif pixels.dim() == 4:
            each = [1] * len(pixels)
        else:
            each = [self._units(batch, i) for i in range(len(pixels))]
        for owner, units in zip(owners, each, strict=True):
            counts[owner] += units
        return counts

    def _units(self, batch: Mapping[str, Any], image: int) -> int:
        """Units of one image, shown by the model's own code as it hands them to the tower."""
        seen: list[int] = []

        def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen.append(len(args[0] if args else kwargs["pixel_values"]))
            raise Stop

        one = {k: batch[k][image : image + 1] for k in IMAGES if batch.get(k) is not None}
        handle = self.tower.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            with suppress(Stop):
                self.model(input_ids=batch["input_ids"][:1], **one, use_cache=False)
        finally:
            handle.remove()
        return seen[0]

    @contextmanager
    def watching(self, see: Callable[[Any], None]) -> Iterator[None]:
        """Within, ``see`` is called with what crosses the seam."""

        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            leaves, tree = tree_flatten(output)
            see(tree_unflatten(leaves, tree))  # models go on to write into the object itself

        def before(module: nn.Module, args: tuple[Any, ...]) -> None:
            see(args[0])

        if self.projector is None or self.through:
            handle = (self.projector or self.tower).register_forward_hook(after)
        else:
            handle = self.projector.register_forward_pre_hook(before)
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def learning(self, inputs: Mapping[str, Any]) -> Iterator[None]:
        """Within, a plain pass shows the shapes of what the tower returns and of what crosses."""
        units = sum(self.counts(inputs))

        def tower(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._tower = Shape.of(output, units)

        def crossed(value: Any) -> None:
            self._seen = Shape.of(value, units)

        handle = self.tower.register_forward_hook(tower)
        try:
            with self.watching(crossed):
                yield
        finally:
            handle.remove()

    @contextmanager
    def passing(
        self, rows: Sequence[Tensor], inputs: Mapping[str, Any], packed: bool
    ) -> Iterator[None]:
        """Within, the tower does nothing and the rows' values cross the seam."""
        assert self._seen is not None, "learning comes first"
        assert self._tower is not None
        device = inputs["input_ids"].device
        rows = [row.to(device) for row in rows if row.numel()]
        value = self._seen.join(rows) if rows else None
        units = sum((self._seen.units(row) for row in rows), Fraction(0))
        blank = self._tower.blank(units, device)
        with ExitStack() as undo:
            if self.projector is None:
                undo.enter_context(replaced(self.tower, lambda *a, **k: value))
            else:
                undo.enter_context(replaced(self.tower, lambda *a, **k: blank))
            if self.projector is not None and self.through:
                undo.enter_context(replaced(self.projector, lambda *a, **k: value))
            elif self.projector is not None:
                handle = self.projector.register_forward_pre_hook(lambda m, a: (value, *a[1:]))
                undo.callback(handle.remove)
            yield


def _modules(model: nn.Module) -> tuple[nn.Module, nn.Module | None]:
    """The vision tower and the projector behind it, if it has one that is not inside."""
    root, prefix = naming.unwrap(model)
    _, towers, parts = naming.name_parts(model)
    place = next((t for t in towers if t.tower == "vision"), None)
    if place is None or all(t.tower != "language" for t in towers):
        raise NoReuse("this model reads no images")
    tower = root.get_submodule(place.path)
    names = [naming.clean(p.parameter, prefix) for p in parts if p.tower == "projector"]
    outside = [n for n in names if not n.startswith(f"{place.path}.")]
    if not outside:
        return tower, None
    shared = _common([n.split(".")[:-1] for n in outside])
    return tower, root.get_submodule(shared)


def _common(paths: Sequence[list[str]]) -> str:
    """The path of the module that holds all of ``paths``."""
    depth = 0
    while all(len(p) > depth for p in paths) and len({p[depth] for p in paths}) == 1:
        depth += 1
    return ".".join(paths[0][:depth])
