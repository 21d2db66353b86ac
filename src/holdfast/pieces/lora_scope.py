"""From a selection of weights to the names by which PEFT finds layers.

PEFT matches the names in a list as *suffixes*, so ``layers.0.self_attn.q_proj`` also finds
``vision.layers.0.self_attn.q_proj``. Here a layer is given by its exact, full name, and
where a name is also the end of another one, by a regular expression that matches only it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn
from transformers.pytorch_utils import Conv1D

from holdfast.errors import SelectorError

if TYPE_CHECKING:
    from holdfast.anatomy import Anatomy, Selection


@dataclass(frozen=True)
class Scope:
    """What gets a low-rank adapter."""

    modules: tuple[str, ...]
    """Full names of linear layers (``nn.Linear``, and GPT-2's ``Conv1D``)."""
    parameters: tuple[str, ...]
    """Full names of packed expert weights, [experts, in, out] or [experts, out, in]."""
    transposed: bool
    """All layers keep their weight as [in, out] (``Conv1D``)."""


def scope(model: nn.Module, anatomy: Anatomy, selector: str) -> Scope:
    """The linear layers among the selected weights; norms, biases, embeddings are passed over.

    Raises:
        SelectorError: the selector takes a part of a fused weight, or no linear layer.
    """
    selection = anatomy.select(selector)
    modules, parameters = [], []
    for name in selection.parameters:
        path, _, leaf = name.rpartition(".")
        layer = model.get_submodule(path)
        linear = leaf == "weight" and isinstance(layer, (nn.Linear, Conv1D))
        packed = (
            not linear and model.get_parameter(name).dim() == 3 and _named_linear(anatomy, name)
        )
        if linear or packed:
            _whole(name, selector, selection)
        if linear:
            modules.append(path)
        elif packed:
            parameters.append(name)
    if not modules and not parameters:
        raise SelectorError(
            f"'{selector}' selects no linear layer, and only these can have a low-rank adapter; "
            f"it selects {_listed(selection.parameters)}. Try language.attn, sa-proj or gate-up."
        )
    transposed = bool(modules) and all(
        isinstance(model.get_submodule(path), Conv1D) for path in modules
    )
    return Scope(tuple(modules), tuple(parameters), transposed)


def whole_modules(model: nn.Module, anatomy: Anatomy, selector: str) -> tuple[str, ...]:
    """Full names of the modules that ``selector`` covers with all of their own weights.

    Raises:
        SelectorError: it takes only some weights of a module, or some rows of one.
    """
    selection = anatomy.select(selector)
    chosen = {name for name, rows in selection.parameters.items() if rows is None}
    modules: dict[str, nn.Module] = {}
    for name in selection.parameters:
        path = name.rpartition(".")[0]
        modules[path] = model.get_submodule(path)
    for path, module in modules.items():
        own = {f"{path}.{leaf}" for leaf, _ in module.named_parameters()}
        left_out = sorted(own - chosen)
        if left_out:
            raise SelectorError(
                f"also_train='{selector}' must cover whole modules, because PEFT saves whole "
                f"modules beside an adapter; of '{path}' it leaves out '{left_out[0]}' or some "
                "rows of it."
            )
    return tuple(path for path in modules if not any(path.startswith(f"{o}.") for o in modules))


def exact(names: Sequence[str], model: nn.Module) -> list[str] | str:
    """``names`` in the form in which PEFT finds these modules of ``model`` and no others."""
    present = (name for name, _ in model.named_modules())
    return expression(names) if caught(names, present) else list(names)


def expression(names: Sequence[str]) -> str:
    """A regular expression that matches exactly ``names``."""
    return "|".join(re.escape(name) for name in names)


def caught(names: Iterable[str], present: Iterable[str]) -> str | None:
    """The first of ``present`` that ends like one of ``names`` and is not one of them."""
    wanted = set(names)
    ends = tuple(f".{name}" for name in wanted)
    return next((p for p in present if p not in wanted and p.endswith(ends)), None)


def _named_linear(anatomy: Anatomy, name: str) -> bool:
    """Whether a bare parameter is a matrix of an MLP or of attention, by its role."""
    return any(
        part.parameter == name and not part.bias and (part.plays("mlp") or part.plays("attn"))
        for part in anatomy.parts
    )


def _whole(name: str, selector: str, selection: Selection) -> None:
    if selection.parameters[name] is None:
        return
    raise SelectorError(
        f"'{selector}' selects only some rows of '{name}', which holds several projections in one "
        "weight. A low-rank adapter changes a weight as a whole: select all of the projections "
        f"in it, or train the rows themselves with train:select='{selector}'."
    )


def _listed(names: Iterable[str]) -> str:
    shown = list(names)
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")
