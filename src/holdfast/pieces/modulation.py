"""A pool of low-rank modulators, one of which is chosen for each sequence by its key.

Schmied et al. 2023 (arXiv 2306.14884). No torch until it is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from holdfast.carried import Ended, State
from holdfast.errors import SelectorError, UsageError
from holdfast.plan import Outputs, Reference

if TYPE_CHECKING:
    from torch import Tensor, nn

    from holdfast.anatomy import Anatomy, Part
    from holdfast.pieces.bank import Reads
    from holdfast.pieces.pool import KeyPool

POOL = "modulation_pool"
"""Where the pool stands in the model."""


@dataclass(kw_only=True)
class ModulationPool:
    """Adapter and loss term in one: P entries, each a key and a low-rank update of every layer.

    The adapter adds to queries and values s B_e A_e x, and to the hidden activation h of each
    MLP, before its nonlinearity, s B_e A_e h. The term is minus the cosine of the chosen key
    and the query, once for each sequence; see :class:`holdfast.pieces.pool.KeyPool`.

    All stages share the pool. How often each entry was chosen is carried from stage to stage.
    """

    entries: int = 30
    rank: int = 8
    alpha: float = 16.0
    scope: str = "language"
    penalty: bool = True
    weight: float = 0.5
    """Of the term."""
    init: Literal["lora", "code"] = "lora"
    """Of A: each by its own inputs, or all as one tensor (:func:`holdfast.pieces.bank.shrink`)."""
    name: str = "l2m"
    fits: bool = field(default=False, init=False, repr=False)
    reference: Reference | None = field(default=None, init=False, repr=False)
    whole_rows: bool = field(default=True, init=False, repr=False)
    """Rows are not packed behind each other: an entry is chosen for each."""
    known: dict[str, Tensor] = field(default_factory=dict, repr=False)
    """``counts`` [P] of the earlier stages; empty in the first."""
    _pool: KeyPool | None = field(default=None, init=False, repr=False, compare=False)

    # The adapter

    def touches(self, model: nn.Module, anatomy: Anatomy) -> Iterable[str]:
        """None: the model's own weights stay as they are."""
        return ()

    def attach(self, model: nn.Module, anatomy: Anatomy) -> nn.Module:
        """Put the pool in, or begin another stage with the one that is there; freeze the rest.

        Raises:
            SelectorError: the scope has no attention and MLP, packed experts or several towers.
        """
        from holdfast.pieces.pool import pools

        self._pool = next((pool for _, pool in pools(model)), None) or self._insert(model, anatomy)
        self._pool.begin_stage(self.known.get("counts"), self.penalty)
        names = set(self.trainable(model))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in names)
        return model

    def _insert(self, model: nn.Module, anatomy: Anatomy) -> KeyPool:
        from holdfast.anatomy import naming
        from holdfast.pieces.bank import first_block, grow, insert, shrink
        from holdfast.pieces.pool import KeyPool

        found = modulated(anatomy.select(self.scope).parts, self.scope)
        block = first_block(anatomy, [part for part, _ in found])
        query = next(p for p, reads in found if p.unit == "attn.q")
        like = model.get_parameter(query.parameter)
        rows = query.rows.dim if query.rows is not None else _dim(model, query)
        pool = KeyPool(self.entries, query.shape[1 - rows], like).train(model.training)
        insert(model, found, self.alpha / self.rank, pool)
        grow(model, self.entries, self.rank)
        if self.init == "code":
            shrink(model)
        setattr(naming.unwrap(model)[0], POOL, pool)
        pool.watch(model, block)
        return pool

    def trainable(self, model: nn.Module) -> Iterable[str]:
        from holdfast.pieces.bank import layers
        from holdfast.pieces.pool import pools

        yield from (f"{path}.keys" for path, _ in pools(model))
        for path, layer in layers(model):
            yield from (f"{path}.updates.{n}" for n, _ in layer.updates.named_parameters())

    def detach(self, model: nn.Module, folder: Path | None) -> nn.Module:
        """The pool stays in the model: what it adds depends on the sequence."""
        return model.requires_grad_(False)

    def structure(self) -> Mapping[str, object]:
        return {
            "kind": "l2m",
            "entries": self.entries,
            "rank": self.rank,
            "alpha": self.alpha,
            "scope": self.scope,
        }

    # The term

    def cosines(self) -> Tensor:
        """[B]: of the chosen keys and the queries in the last training pass, with gradient.

        For a training loop of one's own: loss - weight * cosines().mean().
        """
        pull = self._pool.pull if self._pool is not None else None
        assert pull is not None, "no training pass was made yet"
        return pull

    def positions(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The first answer token of each row."""
        from holdfast.pieces.positions import answer

        wanted = answer(batch)
        return wanted & (wanted.cumsum(1) == 1)

    def __call__(self, outputs: Outputs) -> Tensor:
        """[N]: minus the cosine of each row's key and query.

        Raises:
            UsageError: the tower does not see one sequence for each row (several images).
        """
        if self._pool is None or self._pool.pull is None:
            return outputs.logits.sum(-1) * 0.0
        rows, pull = outputs.rows, self._pool.pull
        if len(rows) and int(rows.max()) >= len(pull):
            raise UsageError(
                f"'{self.name}' chose for {len(pull)} sequences in '{self.scope}' and the batch "
                f"has {int(rows.max()) + 1} rows or more; rows need one image each, or give "
                "scope=language."
            )
        return -pull[rows]

    # From stage to stage, and within one

    def keep(self, ended: Ended) -> dict[str, Tensor]:
        return self.state()

    def recall(self, state: State) -> ModulationPool:
        return replace(self, known=dict(state))

    def state(self) -> dict[str, Tensor]:
        if self._pool is None:
            return dict(self.known)
        counts = self._pool.counts
        return {"counts": counts.clone()}  # type: ignore[operator]

    def load(self, state: State) -> None:
        """Counts of a stage that goes on; its weights stay those that it began with."""
        if self._pool is not None and "counts" in state:
            counts: Any = self._pool.counts
            counts.copy_(state["counts"])


def modulated(parts: Iterable[Part], scope: str) -> list[tuple[Part, Reads]]:
    """The queries, the values and the first layer of each MLP: its gate if it has one.

    Raises:
        SelectorError: there are none.
    """
    weights = [p for p in parts if p.block is not None and not p.bias]
    gated = {(p.tower, p.block) for p in weights if p.unit == "mlp.gate"}
    found: list[tuple[Part, Reads]] = []
    for part in weights:
        first = "mlp.gate" if (part.tower, part.block) in gated else "mlp.up"
        if part.unit in ("attn.q", "attn.v"):
            found.append((part, "input"))
        elif part.unit == first:
            found.append((part, "output"))
    if not any(part.unit == "attn.q" for part, _ in found):
        raise SelectorError(
            f"'{scope}' has no queries of attention to modulate; give blocks of a tower, for "
            "example: language or vision[4:]."
        )
    return found


def _dim(model: nn.Module, part: Part) -> int:
    """The dimension of a weight that counts its outputs."""
    from transformers.pytorch_utils import Conv1D

    layer = model.get_submodule(part.parameter.rpartition(".")[0])
    return 1 if isinstance(layer, Conv1D) else 0


@dataclass(kw_only=True)
class KeepUnchosen:
    """Entries without a gradient at this step stay as they are, to the bit.

    Weight decay and momentum would move them otherwise, in stages that never chose them too.
    A tensor's first dimension counts its entries.
    """

    name: str = "keep-unchosen"
    _kept: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)

    def before_step(self, parameters: Mapping[str, Tensor]) -> None:
        import torch

        self._kept = {}
        for name, parameter in parameters.items():
            if parameter.grad is None:
                continue  # the optimizer passes over it
            moves = parameter.grad.flatten(1).any(1)
            still = torch.where(~moves)[0]
            self._kept[name] = (still, parameter.detach()[still].clone())

    def after_step(self, parameters: Mapping[str, Tensor]) -> None:
        import torch

        with torch.no_grad():
            for name, (still, values) in self._kept.items():
                parameters[name][still] = values
        self._kept = {}


def rebuild(model: nn.Module, structure: Mapping[str, Any], anatomy: Anatomy) -> nn.Module:
    """``model`` with the pool that ``structure`` describes, before weights load."""
    settings = {key: value for key, value in structure.items() if key != "kind"}
    return ModulationPool(**settings).attach(model, anatomy)
