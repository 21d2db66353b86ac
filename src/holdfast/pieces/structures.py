"""Modules that a tuned model has beyond its base's, rebuilt before its weights load."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from holdfast.errors import ModelError, nearest
from holdfast.pieces import expert_gates, experts, lora, modulation, mora, shared_attention

if TYPE_CHECKING:
    from torch import nn

    from holdfast.anatomy import Anatomy

Rebuild = Callable[["nn.Module", Mapping[str, Any], "Anatomy"], "nn.Module"]

KINDS: dict[str, Rebuild] = {
    "two-experts": experts.rebuild,
    "lora": lora.rebuild,
    "mora": mora.rebuild,
    "l2m": modulation.rebuild,
    "expert-gates": expert_gates.rebuild,
    "sapt": shared_attention.rebuild,
}
"""How each kind of structure (see :meth:`holdfast.plan.Adapter.structure`) is built."""


def rebuild(model: nn.Module, structure: Mapping[str, Any], anatomy: Anatomy) -> nn.Module:
    """``model`` with the modules that ``structure`` describes; all is frozen or as attached.

    Args:
        model: the base model, as it loads.
        structure: what the adapter's ``structure()`` returned, perhaps read back from JSON.
        anatomy: of ``model``.

    Raises:
        ModelError: the kind is not known (a newer version of Holdfast may have written it).
    """
    kind = str(structure.get("kind"))
    if kind not in KINDS:
        raise ModelError(f"there is no structure of kind '{kind}'{nearest(kind, sorted(KINDS))}")
    return KINDS[kind](model, structure, anatomy)
