"""A low-rank block for each stage, all of them shared by attention; earlier ones stay (SAPT).

Zhao et al. 2024 (arXiv 2401.08295). No torch until it is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.carried import Ended, State
from holdfast.errors import SelectorError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from holdfast.anatomy import Anatomy, Part
    from holdfast.pieces.attending import Attending

PLACE = "shared_attention"
"""Where keys and query stand in the model."""
_QUERY = ("0.weight", "1.weight", "3.weight", "3.bias")
_READ = 16
"""Prompts at a time, of which only the embeddings are read."""


@dataclass(kw_only=True)
class SharedAttention:
    """Adapter and loss term in one: W x + sum_i a_i s B_i A_i x, one block i for each stage.

    The attention a is :class:`holdfast.pieces.attending.Attending`'s. Block, key and query of
    the stage train; earlier blocks and keys do not. The term is attentive reflection,

        sum_{t < now} mean_x KL(a_t || a(x)),    x: prompts of stage t,

    with a_t the mean attention of stage t's prompts when it ended, 0 for later blocks. All that
    a(x) reads of a prompt is one vector, which does not change as the embeddings are frozen: so
    that vector is what is carried, and not the prompt.
    """

    rank: int = 4
    alpha: float = 32.0
    scope: str = "language.attn.q+v"
    hidden: int = 100
    """Of the query."""
    examples: int = 512
    """Prompts of a stage that are carried, at most."""
    weight: float = 1.0
    """Of the term."""
    through: bool = False
    """Whether gradients flow through earlier blocks to what they read."""
    name: str = "sapt"
    whole_rows: bool = field(default=True, init=False, repr=False)
    """Rows are not packed behind each other: each has an attention of its own."""
    blocks: int = field(default=0, repr=False)
    """How many the model has; kept by ``attach``."""
    known: dict[str, Tensor] = field(default_factory=dict, repr=False)
    """Of each earlier stage t: ``prompts.t`` [M, D] and ``shares.t`` [t]."""
    _attention: Attending | None = field(default=None, init=False, repr=False, compare=False)

    # The adapter

    def touches(self, model: nn.Module, anatomy: Anatomy) -> Iterable[str]:
        """What :meth:`attach` adds and the first stage does not train."""
        from holdfast.anatomy import naming
        from holdfast.pieces.attending import attentions

        _, prefix = naming.unwrap(model)
        blocks = next((len(found.keys) for _, found in attentions(model)), 0)
        yield f"{prefix}{PLACE}.keys.{blocks}"
        if not blocks:
            yield from (f"{prefix}{PLACE}.query.{leaf}" for leaf in _QUERY)

    def attach(self, model: nn.Module, anatomy: Anatomy) -> nn.Module:
        """Add the stage's block and key, and freeze all else.

        Raises:
            SelectorError: the scope has no linear layer of a block, or several towers.
        """
        from holdfast.pieces.bank import grow

        self._attention = self._placed(model, anatomy)
        self._attention.through = self.through
        grow(model, 1, self.rank)
        self._attention.add()
        self.blocks = len(self._attention.keys)
        names = set(self.trainable(model))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in names)
        return model

    def _placed(self, model: nn.Module, anatomy: Anatomy) -> Attending:
        """Keys and query, put in with the banks if the model has none."""
        from holdfast.anatomy import naming
        from holdfast.pieces.attending import Attending, attentions
        from holdfast.pieces.bank import first_block, insert

        for _, found in attentions(model):
            return found
        parts = _linear(anatomy.select(self.scope).parts, self.scope)
        first = first_block(anatomy, parts)
        tower = next(t for t in anatomy.towers if first in t.blocks)
        made = Attending(int(tower.config.hidden_size), self.hidden, self.through)
        made = made.to(next(model.parameters()).device).train(model.training)
        insert(model, [(part, "input") for part in parts], self.alpha / self.rank, made)
        setattr(naming.unwrap(model)[0], PLACE, made)
        made.watch(model, first)
        return made

    def trainable(self, model: nn.Module) -> Iterable[str]:
        """The newest block; beside earlier ones, its key and the query."""
        from holdfast.pieces.attending import attentions
        from holdfast.pieces.bank import layers

        for path, found in attentions(model):
            newest = len(found.keys) - 1
            if newest > 0:
                yield f"{path}.keys.{newest}"
                yield from (f"{path}.query.{name}" for name, _ in found.query.named_parameters())
            for place, layer in layers(model):
                for number, _ in enumerate(layer.updates):
                    yield f"{place}.updates.{number}.downs.{newest}"
                    yield f"{place}.updates.{number}.ups.{newest}"

    def detach(self, model: nn.Module, folder: Path | None) -> nn.Module:
        """The blocks stay in the model: how much of each is added depends on the prompt."""
        return model.requires_grad_(False)

    def structure(self) -> Mapping[str, object]:
        return {
            "kind": "sapt",
            "rank": self.rank,
            "alpha": self.alpha,
            "scope": self.scope,
            "hidden": self.hidden,
            "blocks": self.blocks,
        }

    # The term

    def __call__(self, parameters: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> Tensor:
        """Scalar: the reflection without its weight; 0 in the first stage."""
        import torch

        found = self._attention
        total = torch.zeros((), device=next(iter(parameters.values())).device)
        if found is None or not self.known:
            return total
        for stage in range(1, len(found.keys)):
            prompts, shares = (self.known[f"{k}.{stage}"] for k in ("prompts", "shares"))
            log_a = found.logits(prompts.to(total.device)).log_softmax(-1)
            wanted = shares.to(log_a)  # 0 for later blocks: these add nothing
            apart = torch.xlogy(wanted, wanted) - wanted * log_a[:, : len(wanted)]
            total = total + apart.sum(-1).mean()
        return total

    # From stage to stage

    def keep(self, ended: Ended) -> dict[str, Tensor]:
        """What earlier stages kept, this stage's prompts and their mean attention."""
        import torch

        from holdfast.pieces.attending import attentions

        _, found = next(iter(attentions(ended.model)))
        batches = ended.batches(_READ, self.examples)
        prompts = torch.cat([found.read(ended.model, batch) for batch in batches])
        with torch.no_grad():
            shares = found.logits(prompts).softmax(-1).mean(0)
        stage = len(found.keys)
        return {**self.known, f"prompts.{stage}": prompts, f"shares.{stage}": shares}

    def recall(self, state: State) -> SharedAttention:
        return replace(self, known=dict(state))


def _linear(parts: Iterable[Part], scope: str) -> list[Part]:
    """The projections of blocks among ``parts``.

    Raises:
        SelectorError: there are none.
    """
    kinds = ("attn.", "mlp.")
    found = [p for p in parts if p.block is not None and not p.bias and p.unit.startswith(kinds)]
    if not found:
        raise SelectorError(
            f"'{scope}' selects no projection of a block, and only these can have low-rank "
            "blocks; try language.attn.q+v."
        )
    return found


def rebuild(model: nn.Module, structure: Mapping[str, Any], anatomy: Anatomy) -> nn.Module:
    """``model`` with the blocks that ``structure`` describes, before weights load."""
    settings = {k: v for k, v in structure.items() if k not in ("kind", "blocks")}
    adapter = SharedAttention(**settings)
    for _ in range(int(structure["blocks"])):
        model = adapter.attach(model, anatomy)
    return model.requires_grad_(False)
