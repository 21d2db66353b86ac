"""What each block of a language model adds to the residual stream, and on what input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from os.path import commonpath
from typing import Any

from torch import Tensor, nn

from holdfast.anatomy import anatomy
from holdfast.anatomy.naming import unwrap
from holdfast.anatomy.parts import Part
from holdfast.errors import ModelError

KINDS = ("attn", "mlp")
Key = tuple[int, str]
"""A block and one of :data:`KINDS`."""


@dataclass(frozen=True)
class Blocks:
    """The blocks of a model's language tower and the modules whose outputs they add."""

    blocks: Mapping[int, nn.Module]
    writers: Mapping[Key, nn.Module]
    """The last module before the residual addition: o_proj, down_proj, or a norm behind it."""


def blocks_of(model: nn.Module) -> Blocks:
    """Find them by the model's anatomy.

    Raises :class:`holdfast.errors.ModelError` if no block of a language tower is found.
    """
    found = anatomy(model)
    root, prefix = unwrap(model)
    places = [t for t in found.towers if t.tower == "language"]
    paths = {i: path for place in places for path, i in place.blocks.items()}
    mine: dict[int, list[Part]] = {}
    for part in found.parts:
        if part.tower == "language" and part.block is not None:
            mine.setdefault(part.block, []).append(part)
    writers = {}
    for block, parts in mine.items():
        for kind in KINDS:
            path = _writer(parts, kind, prefix, paths.get(block, ""))
            if path is not None:
                writers[block, kind] = root.get_submodule(path)
    if not writers:
        raise ModelError(
            f"no block of a language model is known in {type(model).__name__} ({found.family}), so "
            "its layers cannot be compared; holdfast list families has those that are."
        )
    return Blocks({i: root.get_submodule(p) for i, p in paths.items()}, writers)


def _writer(parts: list[Part], kind: str, prefix: str, block: str) -> str | None:
    """Path of the module whose output the block adds, or None if it has no such unit."""
    norms = {_module(p, prefix) for p in parts if p.plays("norm") and p.place == f"{kind}.out"}
    if norms:
        return min(norms)
    last = {
        _module(p, prefix): p
        for p in parts
        if p.plays("attn.o" if kind == "attn" else "mlp.down") and not p.bias
    }
    if len(last) == 1 and len(next(iter(last.values())).shape) == 2:
        return next(iter(last))
    # several experts: their sum is what the module around all of them gives
    around = ("attn",) if kind == "attn" else ("mlp", "router")
    names = [_module(p, prefix) for p in parts if any(p.plays(u) for u in around)]
    if not last:
        return None
    path = commonpath([n.replace(".", "/") for n in names]).replace("/", ".")
    return path if path != block and path.startswith(block) else None


def _module(part: Part, prefix: str) -> str:
    path = part.parameter.removeprefix(prefix)
    names = path.split(".")
    if "base_layer" in names:  # an adapter's wrapper gives the sum that the block adds
        return ".".join(names[: names.index("base_layer")])
    return ".".join(names[:-1])


def tensor_of(output: Any) -> Tensor:
    """A module's output, the first if it has several."""
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


Tap = Callable[[Key, Tensor], Tensor | None]
"""Gets a writer's output; what it returns, if anything, goes on in its place."""


@contextmanager
def tapped(writers: Mapping[Key, nn.Module], tap: Tap) -> Iterator[None]:
    """Within, ``tap`` sees the output of every writer."""
    with ExitStack() as stack:
        for key, module in writers.items():
            stack.callback(module.register_forward_hook(_hook(key, tap)).remove)
        yield


def _hook(key: Key, tap: Tap) -> Callable[..., Any]:
    def hook(_: nn.Module, inputs: Any, output: Any) -> Any:
        put = tap(key, tensor_of(output))
        if put is None:
            return None
        return (put, *output[1:]) if isinstance(output, tuple) else put

    return hook


@contextmanager
def swapped_in(base: Blocks, tuned: Blocks, see: Callable[[Key, Tensor], None]) -> Iterator[None]:
    """While ``base`` runs, each tuned block is run too, on what the base's block was given.

    ``see`` gets what the tuned block's attention and MLP write. The tuned MLP reads the
    residual stream as the *base's* attention left it, so that its output differs by its own
    weights alone (with its norm's).
    """
    given: dict[int, tuple[Any, dict[str, Any]]] = {}
    wrote: dict[Key, Tensor] = {}

    def keep(block: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            given[block] = (args, kwargs)

        return hook

    def rerun(block: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any, output: Any) -> None:
            mine = {k: m for k, m in tuned.writers.items() if k[0] == block}
            original = dict(wrote)
            with tapped(mine, lambda key, out: _instead(key, out, original, see)):
                inputs, named = given.pop(block)
                tuned.blocks[block].forward(*inputs, **named)

        return hook

    def note(key: Key, output: Tensor) -> None:
        wrote[key] = output

    with ExitStack() as stack:
        stack.enter_context(tapped(base.writers, note))
        for block, module in base.blocks.items():
            pre = module.register_forward_pre_hook(keep(block), with_kwargs=True)
            stack.callback(pre.remove)
            stack.callback(module.register_forward_hook(rerun(block)).remove)
        yield


def _instead(
    key: Key, output: Tensor, original: Mapping[Key, Tensor], see: Callable[[Key, Tensor], None]
) -> Tensor | None:
    see(key, output)
    return original.get(key) if key[1] == "attn" else None
