"""A plan bound to a model: modules attached, the right weights free, everything else frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from holdfast.anatomy import anatomy, select
from holdfast.carried import Anchored
from holdfast.engine.carrying import pieces
from holdfast.engine.forward import Moving, Reference
from holdfast.errors import UsageError
from holdfast.pieces.sharding import fill
from holdfast.plan import Placed, Plan, Teaching, Update, WeightTerm

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class Bound:
    """What a stage trains. Made by :func:`bind` when the stage begins."""

    plan: Plan
    model: nn.Module
    """The model to train: the one given, or what the adapter wrapped it in."""
    trainable: list[str]
    """Names in ``model.named_parameters()`` of what the optimizer moves."""
    touched: list[str]
    """Names, in the model as it was given, of the weights that this stage may change."""
    start: dict[str, Tensor]
    """Values of ``touched`` (by those names) when the stage began; only if something asks."""
    base: dict[str, Tensor]
    """The same when the run began; only if something asks."""
    original: dict[str, str]
    """Name in ``model`` -> name in the model as it was given."""
    updates: tuple[Update, ...] = ()
    scales: dict[str, float] = field(default_factory=dict)
    """Learning-rate factor by name in ``model``, where it is not 1."""
    references: dict[str, Reference] = field(default_factory=dict)
    hollow: nn.Module | None = None
    """Where the model's weights will be spread over processes: what it is made whole in again."""

    def parameters(self) -> dict[str, Tensor]:
        """The trainable weights by name."""
        wanted = set(self.trainable)
        return {n: p for n, p in self.model.named_parameters() if n in wanted}

    @property
    def count(self) -> int:
        """How many numbers the optimizer moves (whole tensors where rows of one are free)."""
        return sum(p.numel() for p in self.parameters().values())

    def detach(self, folder: Path | None = None) -> nn.Module:
        """End of the stage: merge what the adapter merges, then apply the plan's edits.

        Returns the model for evaluation and the next stage, with the names it had at first.
        """
        if self.hollow is not None:
            self.model, self.hollow = fill(self.hollow, self.model), None
        model = self.model
        if self.plan.adapt is not None:
            model = self.plan.adapt.detach(model, folder)
        if self.plan.settle:
            self._settle(model)
        return model

    @torch.no_grad()
    def _settle(self, model: nn.Module) -> None:
        now = {n: p for n, p in model.named_parameters() if n in self.start}
        values: dict[str, Tensor] = {n: p.detach() for n, p in now.items()}
        for edit in self.plan.settle:
            values = edit(values, self.start, self.base)
        for name, parameter in now.items():
            parameter.copy_(values[name])


def bind(
    plan: Plan, model: nn.Module, *, base: Mapping[str, Tensor] | None = None, seed: int = 0
) -> Bound:
    """Attach, select, freeze.

    Args:
        plan: the plan.
        model: the model at the start of the stage.
        base: values that weights had when the run began, for those that earlier stages
            changed; the others are as they are now.
        seed: the stage's, for a choice of weights that is drawn.

    Raises:
        SelectorError: the plan's selector selects nothing in this model.
        UsageError: the plan neither selects weights nor brings modules.
    """
    names = {id(p): n for n, p in model.named_parameters()}
    found = anatomy(model)
    updates = tuple(plan.update)
    for piece in pieces(plan):
        if isinstance(piece, Placed):
            piece.place(found)
    touched: list[str]
    if plan.adapt is not None:
        touched = list(plan.adapt.touches(model, found))
        keep = _snapshot(model, touched) if plan.settle else {}
        attached = plan.adapt.attach(model, found)
        _free(attached, set(plan.adapt.trainable(attached)))
        touched += [
            names[id(p)]
            for p in attached.parameters()
            if p.requires_grad and id(p) in names and names[id(p)] not in touched
        ]
    elif (selection := plan.selection(found, seed)) is not None:
        from holdfast.pieces.rows import KeepRows

        selection.apply(model)
        touched = list(selection.parameters)
        if any(rows is not None for rows in selection.parameters.values()):
            updates = (KeepRows.of(selection, model), *updates)
        attached = model
        keep = _snapshot(model, touched) if plan.settle else {}
    else:
        raise UsageError(
            f"the plan '{plan.name}' says neither which weights train nor which modules to add; "
            "combine it with a recipe, for example: gate-up."
        )
    trainable = [n for n, p in attached.named_parameters() if p.requires_grad]
    bound = Bound(
        plan=plan,
        model=attached,
        trainable=trainable,
        touched=touched,
        start=keep,
        base={n: (base or {}).get(n, v) for n, v in keep.items()},
        original={n: names[id(p)] for n, p in attached.named_parameters() if id(p) in names},
        updates=tuple(sorted(updates, key=lambda u: isinstance(u, Teaching))),
    )
    _scale(bound, model, names)
    _refer(bound, base or {})
    for update in bound.updates:
        if isinstance(update, Anchored):
            update.anchor(bound.parameters())
        if isinstance(update, Teaching):
            bound.references[update.teaches] = Moving(update.weights)
    return bound


def _free(model: nn.Module, trainable: set[str]) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trainable)


def _snapshot(model: nn.Module, names: list[str]) -> dict[str, Tensor]:
    wanted = set(names)
    return {n: p.detach().clone() for n, p in model.named_parameters() if n in wanted}


def _scale(bound: Bound, model: nn.Module, names: Mapping[int, str]) -> None:
    """Learning-rate factors; a part of the model that the plan does not train is left out."""
    if not bound.plan.lr_scale:
        return
    by_original = {v: k for k, v in bound.original.items()}
    for selector, factor in bound.plan.lr_scale:
        chosen = select_or_nothing(model, selector)
        for name in chosen:
            if by_original.get(name) in bound.trainable:
                bound.scales[by_original[name]] = factor


def select_or_nothing(model: nn.Module, selector: str) -> list[str]:
    """Names that a selector selects; none where this model has no such part."""
    from holdfast.errors import SelectorError

    try:
        return list(select(model, selector).parameters)
    except SelectorError:
        return []


def _refer(bound: Bound, base: Mapping[str, Tensor]) -> None:
    """Keep the weights of each reference model that a term asks for."""
    asking = ("reference", "consults")
    wanted = {getattr(t, a, None) for t in bound.plan.learn for a in asking} - {None, "ema"}
    needs_start = any(isinstance(t, WeightTerm) for t in bound.plan.learn)
    if not wanted and not needs_start:
        return
    start = {n: p.detach().clone() for n, p in bound.parameters().items()}
    bound.references["stage"] = Reference(start)
    if "base" in wanted:
        by_original = {original: name for name, original in bound.original.items()}
        earlier = {by_original[n]: v for n, v in base.items() if n in by_original}
        bound.references["base"] = Reference({**start, **earlier})


def no_second_adapter(plan: Plan, kwargs: Mapping[str, Any]) -> None:
    """Refuse a trainer's ``peft_config`` beside a plan. Raises :class:`UsageError`."""
    if kwargs.get("peft_config") is None:
        return
    if plan.adapt is not None:
        raise UsageError(
            f"the plan '{plan.name}' brings its own adapter, and peft_config brings another; "
            "leave out peft_config."
        )
    raise UsageError(
        f"peft_config freezes the whole model, and the plan '{plan.name}' says what trains; "
        "leave out peft_config, or use the method lora with a scope."
    )
