"""Slots of MLPs that move only where new data use them and background data do not.

Lin et al. 2025, "Continual learning via sparse memory finetuning". No torch until a step is
taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from holdfast.errors import ModelError
from holdfast.pieces.feeds import draws
from holdfast.pieces.gradient_memory import only
from holdfast.pieces.sparse import largest
from holdfast.plan import NEW, Draw, source_id

if TYPE_CHECKING:
    from torch import Tensor, nn

    from holdfast.anatomy import Anatomy
    from holdfast.carried import Ahead, State


@dataclass(frozen=True)
class Beside:
    """The stage's own data in shuffled epochs, and ``count`` examples of a source in each step."""

    source: str
    count: int
    name: str = "beside"

    @property
    def sources(self) -> tuple[str, ...]:
        """What a stage must have beside its own data."""
        return (self.source,)

    def steps(self, sizes: Mapping[str, int], batch: int, epochs: float) -> int:
        return max(1, math.floor(epochs * sizes[NEW] / batch))

    def __call__(self, sizes: Mapping[str, int], step: int, batch: int, seed: int) -> list[Draw]:
        drawn = [(NEW, i) for i in draws(sizes[NEW], batch, seed, step * batch)]
        order = draws(
            sizes[self.source], self.count, seed + source_id(self.source), step * self.count
        )
        return drawn + [(self.source, i) for i in order]


@dataclass(kw_only=True)
class SlotMask:
    """In each step only the slots move that the step's data use and background data do not.

    A slot is a hidden unit of an MLP: its value is a column of W_down. A token uses the
    ``active`` slots of each layer with the largest |activation|. Slots are ranked by

        c_i / sum_j c_j * log((|B| + 1) / (b_i + 1))

    with c_i how many tokens of the step use slot i, |B| the background batches that were read in
    the stage so far and b_i in how many of them some token used it (the paper's TF-IDF). The
    best ``share`` of each layer's slots keep their gradient, if any token used them; all others
    are as they were after the step, whatever the optimizer's momentum and decay.

    Background examples have no part in the loss and are taken out of the step.

    Args:
        source: of the background examples.
        share: of a layer's slots that may move in a step.
        active: slots that a token uses.
    """

    source: str = "general"
    share: float = 0.05
    active: int = 32
    name: str = "slot-mask"
    _weights: tuple[str, ...] = field(default=(), init=False, repr=False)
    _batches: int = field(default=0, init=False, repr=False)
    _used: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    """By weight [slots]: background batches that used each slot."""
    _moving: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    _kept: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    _linear: dict[str, bool] = field(default_factory=dict, init=False, repr=False)
    """Whether a weight is [out, slots], as a linear layer's, or [slots, out] (GPT-2's)."""

    def place(self, anatomy: Anatomy) -> None:
        """Raises ModelError if the language model's MLPs are packed experts, or there are none."""
        parts = [
            p for p in anatomy.parts
            if p.tower == "language" and p.plays("mlp.down") and not p.bias
        ]  # fmt: skip
        odd = [p.parameter for p in parts if len(p.shape) != 2 or p.rows is not None]
        if odd or not parts:
            what = f"'{odd[0]}' is packed" if odd else "this model has no MLP with a last layer"
            raise ModelError(
                f"'{self.name}' takes the hidden units of an MLP for slots, and {what}; use a "
                "method that trains weights as they are, such as gate-up."
            )
        self._weights, self._batches = tuple(p.parameter for p in parts), 0
        self._used, self._moving, self._kept = {}, {}, {}

    def state(self) -> State:
        """How often the background used each slot."""
        import torch

        return {**self._used, "batches": torch.tensor([self._batches])}

    def load(self, state: State) -> None:
        self._batches = int(state["batches"])
        self._used = {n: v for n, v in state.items() if n != "batches"}

    def look_ahead(self, step: Ahead) -> None:
        """Ranks the slots, and takes the background out of the step."""
        from torch import nn

        names = [n for n in self._weights if n in step.parameters]
        layers = {n: step.model.get_submodule(n.rpartition(".")[0]) for n in names}
        self._linear = {n: isinstance(layer, nn.Linear) for n, layer in layers.items()}
        background = [_of_source(batch, self.source) for batch in step.batches]
        counts = self._counts(step, names, background)
        if any(bool(rows.any()) for rows in background):
            self._batches += 1
            for name in names:
                used = (counts[name][1] > 0).long().cpu()
                self._used[name] = self._used.get(name, 0 * used).cpu() + used
            step.batches[:] = [
                only(batch, ~rows) for batch, rows in zip(step.batches, background, strict=True)
            ]
        self._moving = {n: self._best(n, counts[n][0]) for n in names}

    def _best(self, name: str, counts: Tensor) -> Tensor:
        """[slots] bool: those that may move."""
        scores = counts.double() / counts.sum().clamp(min=1)
        if self._batches:
            used = self._used[name].to(counts.device).double()
            scores = scores * (math.log(self._batches + 1) - (used + 1).log())
        best = largest(scores, max(1, round(self.share * len(scores))))
        return best & (counts > 0)

    def _counts(
        self, step: Ahead, names: Sequence[str], background: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """By weight [2, slots]: tokens of the step, and of the background, that use each."""
        import torch

        found: dict[str, Tensor] = {}
        for batch, rows in zip(step.batches, background, strict=True):
            shape = batch["input_ids"].shape
            mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()
            kinds = (mask & ~rows.to(mask.device)[:, None], mask & rows.to(mask.device)[:, None])

            def seen(name: str, x: Tensor, kinds: Any = kinds, shape: Any = shape) -> None:
                if x.shape[:-1].numel() != shape.numel():
                    raise ModelError(
                        f"'{self.name}' cannot tell whose tokens '{name}' reads: "
                        f"{tuple(x.shape)} for a batch of {tuple(shape)}."
                    )
                values = x.detach().abs().reshape(*shape, x.shape[-1])
                own = torch.stack([self._uses(values[kind]) for kind in kinds])
                found[name] = found[name] + own if name in found else own

            with _watching(step.model, names, seen):
                step.losses([batch])
        return found

    def _uses(self, values: Tensor) -> Tensor:
        """[slots] of [N, slots]: how many of N tokens have each among their largest."""
        slots = values.shape[-1]
        return values.topk(min(self.active, slots), dim=-1).indices.flatten().bincount(
            minlength=slots
        )  # fmt: skip

    def before_step(self, parameters: Mapping[str, Tensor]) -> None:
        for name in self._moving:
            weight = parameters[name]
            if weight.grad is not None:
                weight.grad.mul_(self._along(name))
            self._kept[name] = weight.detach().clone()

    def after_step(self, parameters: Mapping[str, Tensor]) -> None:
        import torch

        with torch.no_grad():
            for name, kept in self._kept.items():
                weight = parameters[name]
                weight.copy_(torch.where(self._along(name), weight, kept))
        self._kept, self._moving = {}, {}

    def _along(self, name: str) -> Tensor:
        """The slots' mask as it lies over W_down: its columns, or rows."""
        moving = self._moving[name]
        return moving[None, :] if self._linear[name] else moving[:, None]


def _of_source(batch: Mapping[str, Any], source: str) -> Tensor:
    import torch

    if "source" not in batch:
        return torch.zeros(len(batch["input_ids"]), dtype=torch.bool)
    rows: Tensor = batch["source"] == source_id(source)
    return rows


@contextmanager
def _watching(model: nn.Module, names: Sequence[str], seen: Any) -> Iterator[None]:
    """Within, ``seen(name, x)`` is told what goes into each weight's layer."""
    handles = []
    for name in names:
        layer = model.get_submodule(name.rpartition(".")[0])
        handles.append(
            layer.register_forward_pre_hook(lambda _, inputs, n=name: seen(n, inputs[0]))
        )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
