"""Names every parameter of a model by walking its modules along the family table.

Nothing is matched by substring over the whole model: first the towers are found by the
place that the composite's row gives, then each tower's list of blocks, then the leaves of a
block by their exact path.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from holdfast.anatomy.families import COMPOSITES, HEADS, LAYOUTS, WRAPPERS
from holdfast.anatomy.layouts import Composite, Layout, Leaf
from holdfast.anatomy.macs import conv_areas, multiply_adds
from holdfast.anatomy.parts import Part, Rows, Tower
from holdfast.errors import ModelError, nearest

if TYPE_CHECKING:
    from torch import Tensor, nn

_LAYOUT = {t: row for row in LAYOUTS for t in row.types}
_COMPOSITE = {t: row for row in COMPOSITES for t in row.types}
_ADAPTER = re.compile(r"(^|\.)(lora_|ia3_|oft_|boft_|hada_|lokr_|vera_|modules_to_save\.)")


@dataclass(frozen=True)
class TowerPlace:
    """A tower that was found in a model."""

    tower: Tower
    path: str
    """Of the tower's root module, in the names of ``clean``ed parameters."""
    core: str
    """Of the module that holds the blocks."""
    layout: Layout | None
    """None for a vision tower whose insides no row describes."""
    config: Any
    blocks: Mapping[str, int]
    """Path of each block to its index."""


@dataclass(frozen=True)
class Role:
    """What a parameter is, before it is cut into rows."""

    tower: Tower
    block: int | None
    leaf: Leaf
    place: TowerPlace | None = None
    reason: str = ""
    expert: bool = False


def name_parts(model: nn.Module) -> tuple[str, tuple[TowerPlace, ...], list[Part]]:
    """The family, the towers and the parts of ``model``.

    The parts cover every element of every parameter exactly once. Raises
    :class:`holdfast.errors.ModelError` for a family that is not in the table.
    """
    root, prefix = unwrap(model)
    family = model_type(root)
    composite = _COMPOSITE.get(family)
    towers = _towers(root, family, composite)
    parts: list[Part] = []
    for parameter, aliases, tensor in _parameters(model):
        roles = [
            _role(clean(name, prefix), root, towers, composite) for name in (parameter, *aliases)
        ]
        parts += _cut(parameter, aliases, tensor, roles, root, prefix)
    if any(p.unit == "conv" for p in parts):
        parts = _scale_to_area(parts, root, prefix)
    return family, towers, parts


def _scale_to_area(parts: list[Part], root: nn.Module, prefix: str) -> list[Part]:
    """A convolution works at every place of its output, not once for each input pixel."""
    areas = conv_areas(root)
    modules = (p.parameter.removeprefix(prefix).rpartition(".")[0] for p in parts)
    return [
        replace(p, macs=p.macs * areas.get(m, 1.0)) for p, m in zip(parts, modules, strict=True)
    ]


def unwrap(model: nn.Module) -> tuple[nn.Module, str]:
    """The model inside PEFT, DDP and compile wrappers, and the prefix of its names in them."""
    prefix = ""
    while True:
        children = dict(model.named_children())
        if hasattr(model, "peft_config") and "base_model" in children:
            model, prefix = (
                children["base_model"].get_submodule("model"),
                prefix + "base_model.model.",
            )
        elif set(children) == {"module"} or set(children) == {"_orig_mod"}:
            (name,) = children
            model, prefix = children[name], f"{prefix}{name}."
        else:
            return model, prefix


def clean(name: str, prefix: str) -> str:
    """A parameter's name without the wrappers around its model and around single layers."""
    inner = name.removeprefix(prefix)
    return ".".join(c for c in inner.split(".") if c not in ("base_layer", "original_module"))


def model_type(model: nn.Module) -> str:
    """``config.model_type``. Raises :class:`ModelError` if there is none or no row has it."""
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if not isinstance(kind, str):
        raise ModelError(
            f"{type(model).__name__} has no config.model_type, which says what family a model "
            "is of; give a transformers model, or set model.config.model_type yourself."
        )
    if kind not in _COMPOSITE and kind not in _LAYOUT:
        raise ModelError(unknown_family(kind))
    return kind


def unknown_family(kind: str) -> str:
    """The message about a ``model_type`` that the table lacks."""
    known = sorted({*_COMPOSITE, *_LAYOUT})
    return (
        f"the model family '{kind}' is not known, so its weights cannot be named"
        f"{nearest(kind, known)} A family is one row in holdfast/anatomy/families.py."
    )


def _towers(root: nn.Module, family: str, row: Composite | None) -> tuple[TowerPlace, ...]:
    if row is None:
        only = _LAYOUT[family]
        return (_place(root, "", only.tower, root.config, only),)
    found = []
    kinds: tuple[tuple[Tower, tuple[str, ...]], ...] = (
        ("vision", row.vision),
        ("language", row.language),
    )
    for tower, paths in kinds:
        path = _first(root, paths)
        if path is not None:
            config = _tower_config(root, path, tower)
            layout = _tower_layout(config, tower, family)
            found.append(_place(root, path, tower, config, layout))
    if not found:
        raise ModelError(
            f"{type(root).__name__} says that it is of the family '{family}' but has none of its "
            f"towers ({', '.join((*row.vision, *row.language))})."
        )
    return tuple(found)


def _first(root: nn.Module, paths: tuple[str, ...]) -> str | None:
    """The first of ``paths`` that exists in ``root`` or in its ``model``."""
    for inside in ("", "model."):
        for path in paths:
            if _module(root, inside + path) is not None:
                return inside + path
    return None


def _module(root: nn.Module, path: str) -> nn.Module | None:
    try:
        return root.get_submodule(path)
    except AttributeError:
        return None


def _tower_config(root: nn.Module, path: str, tower: Tower) -> Any:
    own = getattr(root.get_submodule(path), "config", None)
    if own is not None and hasattr(own, "model_type"):
        return own
    return getattr(root.config, "text_config" if tower == "language" else "vision_config", None)


def _tower_layout(config: Any, tower: Tower, family: str) -> Layout | None:
    kind = getattr(config, "model_type", "")
    suffix = "text" if tower == "language" else "vision"
    for name in (kind, f"{kind}_{suffix}", f"{kind}_{suffix}_model"):
        if name in _LAYOUT:
            return _LAYOUT[name]
    if tower == "vision":
        return None
    raise ModelError(f"the language model inside this '{family}': {unknown_family(kind)}")


def _place(
    root: nn.Module, path: str, tower: Tower, config: Any, layout: Layout | None
) -> TowerPlace:
    if layout is None:
        return TowerPlace(tower, path, path, None, config, {})
    own = getattr(root.get_submodule(path), "base_model_prefix", "")
    for inside in (*WRAPPERS, own):
        core = _join(path, inside)
        for pattern in layout.blocks:
            blocks = dict(_blocks(root, core, pattern))
            if blocks:
                return TowerPlace(tower, path, core, layout, config, blocks)
    where = _join(path, layout.blocks[0])
    raise ModelError(
        f"{type(root).__name__} is of a known family, but its list of blocks is not at '{where}' "
        "nor anywhere else that the table expects; its weights cannot be named safely."
    )


def _join(*pieces: str) -> str:
    return ".".join(p for p in pieces if p)


def _blocks(root: nn.Module, core: str, pattern: str) -> Iterator[tuple[str, int]]:
    """Blocks of the lists that match ``pattern`` below ``core``, numbered through."""
    index = 0
    for path in _expand(root, core, pattern.split(".")):
        for name, _ in root.get_submodule(path).named_children():
            yield f"{path}.{name}", index
            index += 1


def _expand(root: nn.Module, path: str, rest: list[str]) -> Iterator[str]:
    module = _module(root, path)
    if module is None:
        return
    if not rest:
        if all(name.isdigit() for name, _ in module.named_children()):
            yield path
        return
    names = [n for n, _ in module.named_children()] if rest[0] == "*" else [rest[0]]
    for name in names:
        yield from _expand(root, _join(path, name), rest[1:])


def _parameters(model: nn.Module) -> Iterator[tuple[str, tuple[str, ...], Tensor]]:
    """Every parameter once, with the other names under which it appears."""
    names: dict[int, list[str]] = {}
    for name, tensor in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(tensor), []).append(name)
    for name, tensor in model.named_parameters():
        yield name, tuple(n for n in names[id(tensor)] if n != name), tensor


def _role(
    name: str, root: nn.Module, towers: tuple[TowerPlace, ...], composite: Composite | None
) -> Role:
    if _ADAPTER.search(name):
        return Role("other", None, "adapter", reason="put in by an adapter")
    for place in sorted(towers, key=lambda p: -len(p.path)):
        if _below(name, place.path):
            return _role_in_tower(name, place)
    for inside in ("", "model."):
        for path in composite.projector if composite else ():
            if _below(name, inside + path):
                return Role("projector", None, _projector_unit(root, name))
        for path, (unit, reason) in (composite.loose if composite else {}).items():
            if name == inside + path:
                return Role("other", None, unit, reason=reason)
    if name.split(".")[0] in HEADS:
        return Role(_head_tower(towers), None, "head")
    return Role("other", None, "other", reason="outside of every tower that the family has")


def _head_tower(towers: tuple[TowerPlace, ...]) -> Tower:
    kinds = [p.tower for p in towers]
    return "language" if "language" in kinds else kinds[0]


def _below(name: str, path: str) -> bool:
    return not path or name == path or name.startswith(path + ".")


def _role_in_tower(name: str, place: TowerPlace) -> Role:
    tower, layout = place.tower, place.layout
    if layout is None:
        kind = getattr(place.config, "model_type", "?")
        return Role(tower, None, "other", place, f"no row describes a '{kind}' tower")
    for path in layout.projector:
        if _below(name, _join(place.core, path)):
            return Role("projector", None, _projector_unit(None, name), place)
    for path, index in place.blocks.items():
        if name.startswith(path + "."):
            leaf_path = name[len(path) + 1 :]
            leaf = _match(layout, True, leaf_path)
            expert = ".experts." in leaf_path
            if leaf is None:
                return Role(tower, index, "other", place, "unknown in a block of this family")
            return Role(tower, index, leaf, place, expert=expert)
    inner = name[len(place.core) + 1 :] if place.core else name
    leaf = _match(layout, False, inner) if _below(name, place.core) else None
    if leaf is not None:
        return Role(tower, None, leaf, place)
    outside = name[len(place.path) + 1 :] if place.path else name
    if outside.split(".")[0] in HEADS:
        return Role(tower, None, "head", place)
    if place.path:
        return Role(tower, None, "other", place, "unknown in this family")
    return Role("other", None, "other", reason="outside of the tower that the family has")


def _projector_unit(root: nn.Module | None, name: str) -> str:
    return "norm" if re.search(r"(^|[._])(norm|ln|layer_?norm)\w*\.", name + ".") else "linear"


def _match(layout: Layout, in_block: bool, path: str) -> Leaf | None:
    bare = re.sub(r"\.(weight|bias)$", "", path)
    for pattern, leaf in _patterns(layout.types[0], in_block):
        if pattern.fullmatch(bare) or pattern.fullmatch(path):
            return leaf
    return None


@lru_cache(maxsize=256)
def _patterns(kind: str, in_block: bool) -> tuple[tuple[re.Pattern[str], Leaf], ...]:
    layout = _LAYOUT[kind]
    table = layout.leaf if in_block else layout.outer
    return tuple((_regex(pattern), leaf) for pattern, leaf in table.items())


def _regex(pattern: str) -> re.Pattern[str]:
    text = re.escape(pattern).replace(r"\.\*\*", r"\..*").replace(r"\*", r"[^.]+")
    return re.compile(text)


def _cut(
    parameter: str,
    aliases: tuple[str, ...],
    tensor: Tensor,
    roles: list[Role],
    root: nn.Module,
    prefix: str,
) -> Iterator[Part]:
    """The parts of one parameter: one, or one for each unit of a fused weight."""
    role = roles[0]
    leaf = parameter.rpartition(".")[2]
    owner = _owner(root, parameter, prefix)
    bias = bool(re.search(r"(^|_)bias$", leaf))
    units = [r.leaf.partition("@") for r in roles if isinstance(r.leaf, str)]
    unit, _, place = units[0] if units else ("mlp", "", "")
    also = tuple(dict.fromkeys(u for u, _, _ in units[1:] if u != unit))
    config = role.place.config if role.place else None
    costs = [
        multiply_adds(_owner(root, name, prefix), leaf, tensor, u, config, role.expert)
        for name, (u, _, _) in zip((parameter, *aliases), units or [(unit, "", "")], strict=False)
    ]
    part = Part(
        role.tower,
        role.block,
        unit,
        parameter,
        tuple(tensor.shape),
        bias=bias,
        aliases=aliases,
        also=also,
        place=place,
        macs=max(costs),
        reason=role.reason,
    )
    if isinstance(role.leaf, str):
        yield part
        return
    dim = _output_dim(owner, tensor, role.expert, bias)
    size = tensor.shape[dim]
    period, spans = role.leaf.cut(config, size)
    for unit, start, stop in spans:
        rows = Rows(dim, size, start, stop, period)
        share = rows.count / size
        yield replace(part, unit=unit, rows=rows, macs=part.macs * share)


def _owner(root: nn.Module, parameter: str, prefix: str) -> nn.Module | None:
    return _module(root, parameter.removeprefix(prefix).rpartition(".")[0])


def _output_dim(owner: nn.Module | None, tensor: Tensor, expert: bool, bias: bool) -> int:
    """The dimension of a weight that runs over its outputs."""
    if expert:
        return tensor.dim() - 1 if bias or getattr(owner, "is_transposed", False) else 1
    return 1 if type(owner).__name__ == "Conv1D" and not bias else 0
