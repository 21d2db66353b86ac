"""The freeze line: the lowest block that a gradient has to reach, and what lies below it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from torch import Tensor, nn

from holdfast.anatomy import naming
from holdfast.anatomy.parts import Part
from holdfast.errors import UsageError


class NoReuse(UsageError):
    """Nothing can be looked up instead of computed; the message says why."""


@dataclass(frozen=True)
class Line:
    """Where the frozen lower part of a model ends.

    Everything that runs before block ``index`` of the language model gives the same output
    whenever it gets the same input: embeddings, vision tower, projector and the blocks below.
    """

    root: nn.Module
    """The model inside its wrappers."""
    blocks: tuple[nn.Module, ...]
    """All blocks of the language model, in the order in which they run."""
    index: int
    """The first block that trains; ``len(blocks)`` if only what follows them trains."""
    above: tuple[nn.Module, ...]
    """The modules that follow the blocks: final norm and head."""
    returns: dict[int, int] = field(default_factory=dict)
    """Block -> how many values it returns; 0: its hidden states, bare."""

    def below(self) -> Iterator[tuple[str, nn.Module]]:
        """Every module below the line, by name; containers of modules above it are among them."""
        upper = {id(m) for b in (*self.blocks[self.index :], *self.above) for m in b.modules()}
        return ((n, m) for n, m in self.root.named_modules() if id(m) not in upper)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Parameters and buffers below the line, by name, each once."""
        seen: set[int] = set()
        for name, module in self.below():
            own = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
            for leaf, value in own:
                if id(value) not in seen:
                    seen.add(id(value))
                    yield f"{name}.{leaf}", value


def find_line(model: nn.Module) -> Line:
    """The freeze line of ``model``, read off which of its parameters require a gradient.

    Raises:
        NoReuse: a weight below the blocks trains (embeddings, projector, vision tower), or the
            model has no language model with blocks.
        ModelError: the family is not in the table of :mod:`holdfast.anatomy`.
    """
    root, prefix = naming.unwrap(model)
    blocks = blocks_of(model)
    _, _, parts = naming.name_parts(model)
    follow = tuple(root.get_submodule(name) for name in sorted(_following(parts, prefix)))
    # a weight that is tied to the embeddings lies below, whatever else it is
    tied = {id(model.get_parameter(p.parameter)) for p in parts if p.plays("embed")}
    late = {id(p) for module in follow for p in module.parameters()} - tied
    owner = {id(p): i for i, block in enumerate(blocks) for p in block.parameters()}
    free = [
        (n, id(p)) for n, p in model.named_parameters() if p.requires_grad and id(p) not in late
    ]
    low = [name for name, which in free if which not in owner]
    if low:
        named = ", ".join(low[:2]) + (", ..." if len(low) > 2 else "")
        raise NoReuse(f"the weights of {named} train, and they lie below every block")
    first = min((owner[which] for _, which in free), default=len(blocks))
    return Line(root, blocks, first, follow)


def blocks_of(model: nn.Module) -> tuple[nn.Module, ...]:
    """The blocks of the language model, in order. Raises as :func:`find_line` does."""
    root, _ = naming.unwrap(model)
    _, towers, _ = naming.name_parts(model)
    place = next((t for t in towers if t.tower == "language" and t.blocks), None)
    if place is None:
        raise NoReuse("this model has no language model with a list of blocks")
    return tuple(root.get_submodule(path) for path in place.blocks)


def _following(parts: Iterable[Part], prefix: str) -> set[str]:
    """Names of the modules of the language model that follow its blocks."""
    return {
        naming.clean(name, prefix).rpartition(".")[0]
        for part in parts
        for name in (part.parameter, *part.aliases)
        if part.tower == "language" and part.block is None and _follows(part)
    }


def _follows(part: Part) -> bool:
    return part.plays("head") or (part.unit == "norm" and part.place != "embed")


def changing(modules: Iterator[tuple[str, nn.Module]]) -> str | None:
    """What makes the output of ``modules`` in training differ from one call to the next.

    Dropout of any kind (modules, rates held as numbers, dropped layers) and norms that follow
    the batch. None if there is nothing of the kind.
    """
    for name, module in modules:
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            return f"{name} is a batch norm in training mode"
        if isinstance(module, nn.modules.dropout._DropoutNd):
            if module.p > 0:
                return f"{name} drops with probability {module.p:g}"
            continue
        for key, value in vars(module).items():
            if "drop" in key and isinstance(value, float) and value > 0:
                return f"{name}.{key} is {value:g}"
    return None
