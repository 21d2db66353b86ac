"""Sparse training: weights, gradients and examples that are left out while a stage goes on.

Wang et al. 2022, "SparCL: Sparse Continual Learning on the Edge", arXiv 2209.09476.
No torch until a step is taken.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from holdfast.errors import SelectorError
from holdfast.plan import NEW, Outputs, Reference, source_id

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from holdfast.anatomy import Anatomy
    from holdfast.carried import Ahead, State


@dataclass(kw_only=True)
class SparseSteps:
    """Task-aware dynamic masks of weights, and masks of gradients.

    Every ``period`` steps the weights of each chosen matrix are pruned to a low density and
    grown to a higher one by zeros drawn at random: in a stage's first update from 1 - s to
    1 - s + d (room for the new task), in the following ones from 1 - s - d to 1 - s, and at
    update ``updates`` to 1 - s, where they stay. Pruned is what has the least

        importance = |w| + factor * |dL/dw|        (|w| alone in the first update)

    Every ``refresh`` steps each matrix keeps the 1 - q of its entries with the largest masked
    gradient; until the next refresh only these move. After each step masked weights are 0, to
    the bit, and entries without a gradient are as they were, whatever the optimizer's momentum
    and decay. Keeps a copy of the chosen weights. For one process, or whole weights in each.

    Args:
        select: a selector of matrices; norms and biases among them are passed over.
        sparsity: s, the share of zeros; 0 leaves the weights alone.
        margin: d.
        period, updates, refresh: see above, in steps.
        gradient_sparsity: q, of all entries of a matrix; 0 leaves the gradients alone.
        factor: of the gradient in the importance.
        seed: of what grows.
    """

    select: str
    sparsity: float = 0.75
    margin: float = 0.01
    period: int = 100
    updates: int = 9
    gradient_sparsity: float = 0.8
    refresh: int = 30
    factor: float = 0.5
    seed: int = 0
    name: str = "sparse-steps"
    _chosen: set[str] = field(default_factory=set, init=False, repr=False)
    _step: int = field(default=0, init=False, repr=False)
    _masks: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    _moving: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    _kept: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    def place(self, anatomy: Anatomy) -> None:
        """Raises SelectorError if the selector takes a part of a fused weight, or no matrix."""
        selection = anatomy.select(self.select)
        parted = [name for name, rows in selection.parameters.items() if rows is not None]
        if parted:
            raise SelectorError(
                f"'{self.select}' selects only some rows of '{parted[0]}'; a mask is of a whole "
                "weight. Select all of the projections in it."
            )
        matrices = {p.parameter for p in selection.parts if len(p.shape) > 1}
        if not matrices:
            raise SelectorError(f"'{self.select}' selects no matrix, and only these are masked.")
        self._chosen, self._step = matrices, 0
        self._masks, self._moving, self._kept = {}, {}, {}

    def state(self) -> State:
        """The masks and the number of steps."""
        import torch

        held = {f"weight.{n}": m for n, m in self._masks.items()}
        held |= {f"gradient.{n}": m for n, m in self._moving.items()}
        return {**held, "step": torch.tensor([self._step])}

    def load(self, state: State) -> None:
        self._step = int(state["step"])
        for kind, into in (("weight", self._masks), ("gradient", self._moving)):
            into |= {
                n.removeprefix(f"{kind}."): m.bool() for n, m in state.items() if n.startswith(kind)
            }

    def densities(self, update: int) -> tuple[float, float]:
        """What update ``update`` (from 0) prunes to, and what it grows to."""
        density = 1 - self.sparsity
        if update == 0:
            return density, min(1.0, density + self.margin)
        if update < self.updates:
            return max(0.0, density - self.margin), density
        return density, density

    def before_step(self, parameters: Mapping[str, Tensor]) -> None:
        for name, weight in self._mine(parameters):
            assert weight.grad is not None
            if self.sparsity:
                self._renew(name, weight)
                weight.grad.mul_(self._masks[name])
            if self.gradient_sparsity:
                if self._step % self.refresh == 0 or name not in self._moving:
                    count = round((1 - self.gradient_sparsity) * weight.numel())
                    self._moving[name] = largest(weight.grad.abs(), count)
                self._moving[name] = self._moving[name].to(weight.device)
                weight.grad.mul_(self._moving[name])
                self._kept[name] = weight.detach().clone()
        self._step += 1

    def after_step(self, parameters: Mapping[str, Tensor]) -> None:
        import torch

        with torch.no_grad():
            for name, weight in self._mine(parameters):
                if name in self._kept:
                    weight.copy_(torch.where(self._moving[name], weight, self._kept.pop(name)))
                if name in self._masks:
                    weight.mul_(self._masks[name])

    def _mine(self, parameters: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
        return [(n, p) for n, p in parameters.items() if n in self._chosen and p.grad is not None]

    def _renew(self, name: str, weight: Tensor) -> None:
        """The mask for this step, on the weight's device."""
        import torch

        update, rest = divmod(self._step, self.period)
        if name in self._masks:
            self._masks[name] = self._masks[name].to(weight.device)
            if rest or update > self.updates:
                return
        assert weight.grad is not None
        low, high = (round(d * weight.numel()) for d in self.densities(update))
        importance = weight.detach().abs()
        if update and name in self._masks:
            importance = importance + self.factor * weight.grad.abs()
            importance = importance.masked_fill(~self._masks[name], -1.0)
        kept = largest(importance, low)
        generator = torch.Generator().manual_seed(
            zlib.crc32(f"{self.seed} {name} {update}".encode())
        )
        drawn = torch.rand(weight.shape, generator=generator).to(weight.device)
        self._masks[name] = kept | largest(drawn.masked_fill(kept, -1.0), high - low)


def largest(values: Tensor, count: int) -> torch.Tensor:
    """Bool of the shape of ``values``: True on exactly ``count`` of the largest."""
    import torch

    mask = torch.zeros(values.numel(), dtype=torch.bool, device=values.device)
    mask[values.flatten().topk(count).indices] = True
    return mask.view(values.shape)


@dataclass(kw_only=True)
class EasyLeftOut:
    """Dynamic data removal: a stage reads ever fewer of its own examples.

    A term that adds nothing to the loss, and sees what the model says. For each example the
    changes from right to wrong are counted, between the times that it is read; one that was
    never right counts as infinitely many. Every ``period`` steps, ``times`` times, the examples
    with the lowest counts are left out of all later passes, and the counts begin anew. An
    example is right if every token of its answer is the most likely one.

    A pass that would have none left keeps one. What is not read is not computed, which saves
    time on any hardware; where a pass has images, only the loss leaves the examples out.

    Args:
        share: of the stage's examples that are left out in the end.
    """

    share: float = 0.3
    times: int = 4
    period: int = 100
    name: str = "easy-left-out"
    weight: float = field(default=0.0, init=False, repr=False)
    fits: bool = field(default=False, init=False, repr=False)
    reference: Reference | None = field(default=None, init=False, repr=False)
    _step: int = field(default=0, init=False, repr=False)
    _gone: set[int] = field(default_factory=set, init=False, repr=False)
    _right: dict[int, bool] = field(default_factory=dict, init=False, repr=False)
    _lost: dict[int, float] = field(default_factory=dict, init=False, repr=False)
    _met: set[int] = field(default_factory=set, init=False, repr=False)

    def place(self, anatomy: Anatomy) -> None:
        self._step = 0
        for kept in (self._gone, self._right, self._lost, self._met):
            kept.clear()

    def state(self) -> State:
        """The step, what is left out, and each example's [number, right, count]."""
        import torch

        rows = [[i, float(self._right[i]), self._lost[i]] for i in sorted(self._right)]
        return {
            "step": torch.tensor([self._step]),
            "gone": torch.tensor(sorted(self._gone), dtype=torch.int64),
            "met": torch.tensor(sorted(self._met), dtype=torch.int64),
            "counts": torch.tensor(rows, dtype=torch.float64).reshape(-1, 3),
        }

    def load(self, state: State) -> None:
        self._step = int(state["step"])
        self._gone, self._met = set(state["gone"].tolist()), set(state["met"].tolist())
        rows = state["counts"].tolist()
        self._right = {int(i): bool(right) for i, right, _ in rows}
        self._lost = {int(i): lost for i, _, lost in rows}

    def positions(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Those of the stage's own answers."""
        from holdfast.pieces.positions import answer, of_source

        known = "source" in batch  # a trainer of the user's own does not say it
        return of_source(answer(batch), batch, NEW if known else None)

    def __call__(self, outputs: Outputs) -> Tensor:
        """[N] zeros; notes which examples are right."""
        import torch

        if outputs.examples is not None and outputs.sources is not None and torch.is_grad_enabled():
            own = outputs.sources == source_id(NEW)
            right = outputs.logits.argmax(-1) == outputs.targets
            for row in dict.fromkeys(outputs.rows[own].tolist()):
                here = outputs.rows == row
                self._note(int(outputs.examples[here][0]), bool(right[here].all()))
        return outputs.logits.new_zeros(len(outputs.targets))

    def _note(self, example: int, right: bool) -> None:
        self._met.add(example)
        before = self._right.get(example, False)
        if right and self._lost.get(example) == math.inf:
            self._lost[example] = 0.0
        self._lost.setdefault(example, 0.0 if right else math.inf)
        if before and not right:
            self._lost[example] += 1
        self._right[example] = right

    def look_ahead(self, step: Ahead) -> None:
        """Takes what is left out from the step's passes."""
        turn, rest = divmod(self._step, self.period)
        if turn and not rest and turn <= self.times:
            self._leave_out(turn)
        self._step += 1
        if self._gone:
            step.batches[:] = [self._left(batch) for batch in step.batches]

    def _leave_out(self, turn: int) -> None:
        wanted = round(self.share * len(self._met) * turn / self.times)
        easy = sorted(self._lost.keys() - self._gone, key=lambda i: (self._lost[i], i))
        self._gone |= set(easy[: max(0, wanted - len(self._gone))])
        self._right, self._lost = {}, {}

    def _left(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        import torch

        own = (batch["source"] == source_id(NEW)).tolist()
        gone = [
            mine and example in self._gone
            for mine, example in zip(own, batch["example"].tolist(), strict=True)
        ]
        out = torch.tensor(gone, device=batch["labels"].device)
        if not out.any():
            return batch
        if batch.keys() - _TEXT:  # whose images are whose cannot be told here
            return {**batch, "labels": batch["labels"].masked_fill(out[:, None], -100)}
        out[0] &= not out.all()
        return {k: v[~out.to(v.device)] for k, v in batch.items()}


_TEXT = {"input_ids", "attention_mask", "labels", "token_type_ids", "source", "example"}
