"""Gradients that may not raise the loss on remembered examples. No torch until a step is taken."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from holdfast.carried import MEMORY, Ahead, Ended, State
from holdfast.pieces.gradient_memory import only
from holdfast.pieces.rehearse import Policy, Rehearse
from holdfast.plan import Draw, source_id

if TYPE_CHECKING:
    from torch import Tensor, nn

Gradients = dict[str, "Tensor"]
"""By weight."""


@dataclass(frozen=True, kw_only=True)
class RehearseEach(Rehearse):
    """Each step reads ``each`` remembered examples of every earlier stage, beside its own.

    Args:
        each: drawn without repetition within a step; None: all that are remembered.
    """

    each: int | None = None
    policy: Policy = "balanced"
    name: str = "rehearse-each"

    def counts(self, batch: int, memory: int) -> tuple[int, int]:
        by_stage = self._by_stage(memory)
        return batch, sum(len(own) if self.each is None else min(self.each, len(own))
                          for own in by_stage)  # fmt: skip

    def __call__(self, sizes: Mapping[str, int], step: int, batch: int, seed: int) -> list[Draw]:
        drawn = super().__call__({**sizes, MEMORY: 0}, step, batch, seed)
        for stage, own in enumerate(self._by_stage(sizes.get(MEMORY, 0))):
            chosen: Sequence[int] = own
            if self.each is not None and self.each < len(own):
                chosen = random.Random(f"{seed}-{step}-{stage}").sample(own, self.each)
            drawn += [(MEMORY, i) for i in chosen]
        return drawn

    def _by_stage(self, memory: int) -> list[list[int]]:
        """Places in the memory by stage; one stage where they are not known yet (a preview)."""
        if len(self.places) != memory:
            return [list(range(memory))] if memory else []
        stages = sorted({stage for stage, _ in self.places})
        return [[i for i, (s, _) in enumerate(self.places) if s == stage] for stage in stages]


@dataclass(kw_only=True)
class Constrained:
    """Projects a step's gradient g onto what does not raise the loss on remembered examples.

    With g_k the gradient of the mean cross-entropy on the remembered examples of stage k (or,
    ``each=False``, of all of them together: k = 1), if any g . g_k < 0 then

        g <- g + sum_k v_k g_k,    v = argmin_{v >= 0} |g + sum_k v_k g_k|^2

    which is the nearest gradient with g . g_k >= 0 for all k (Lopez-Paz and Ranzato 2017,
    equations 8 to 11). For one constraint, v = -g . g_1 / |g_1|^2 (Chaudhry et al. 2019,
    A-GEM, equation 11). Otherwise g stays as it is, to the bit. Remembered examples have no part
    in g, and are taken out of the step.

    Args:
        margin: added to each v once one constraint is broken.
        code_compat: as the code of Lopez-Paz and Ranzato: v >= margin in the minimisation
            instead, and 0.001 added to each |g_k|^2.
    """

    each: bool = True
    margin: float = 0.0
    code_compat: bool = False
    name: str = "constrained"
    stages: tuple[int, ...] = field(default=(), repr=False)
    """The stage of each remembered example."""
    _references: list[Gradients] = field(default_factory=list, init=False, repr=False)

    def look_ahead(self, step: Ahead) -> None:
        """Takes the remembered examples' gradients, and these examples out of the step."""
        self._references = []
        if not all("source" in batch for batch in step.batches):
            return
        old = [batch["source"] == source_id(MEMORY) for batch in step.batches]
        if not any(bool(rows.any()) for rows in old):
            return
        for group in self._groups():
            mine = [
                only(batch, rows & self._among(batch["example"], group))
                for batch, rows in zip(step.batches, old, strict=True)
                if bool((rows & self._among(batch["example"], group)).any())
            ]
            if mine:
                reference = answer_gradient(step.model, step.parameters, mine)
                step.clear(reference)
                self._references.append(reference)
        step.batches[:] = [only(b, ~rows) for b, rows in zip(step.batches, old, strict=True)]

    def _groups(self) -> list[int | None]:
        """The stages that have a constraint of their own; None: all remembered examples."""
        return list(sorted(set(self.stages))) if self.each and self.stages else [None]

    def _among(self, examples: Tensor, stage: int | None) -> Tensor:
        import torch

        if stage is None:
            return torch.ones_like(examples, dtype=torch.bool)
        of_stage = torch.tensor(self.stages, device=examples.device) == stage
        return of_stage[examples.clamp(max=len(of_stage) - 1)]

    def before_step(self, parameters: Mapping[str, Tensor]) -> None:
        import torch

        references, self._references = self._references, []
        if not references:
            return
        own = {n: p.grad for n, p in parameters.items() if p.grad is not None}
        dots = torch.stack([_dot(own, reference) for reference in references])
        if bool((dots >= 0).all()):
            return
        gram = torch.stack([torch.stack([_dot(a, b) for b in references]) for a in references])
        v = multipliers(gram, dots, margin=self.margin, code_compat=self.code_compat)
        for name, parameter in parameters.items():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            for share, reference in zip(v.tolist(), references, strict=True):
                parameter.grad.add_(reference[name].to(parameter.grad.dtype), alpha=share)

    def after_step(self, parameters: Mapping[str, Tensor]) -> None:
        """Nothing."""

    def keep(self, ended: Ended) -> dict[str, Tensor]:
        """Of which stage each example is that the next one can replay."""
        import torch

        return {"stages": torch.tensor([s for s, _ in ended.memory], dtype=torch.int64)}

    def recall(self, state: State) -> Constrained:
        stages = tuple(int(s) for s in state["stages"].tolist()) if state else ()
        return replace(self, stages=stages)


def multipliers(
    gram: Tensor, dots: Tensor, *, margin: float = 0.0, code_compat: bool = False
) -> Tensor:
    """[K] v of the nearest gradient, see :class:`Constrained`; the dual problem of GEM.

    Solved as non-negative least squares, min |A v - b| with A^T A = gram and A^T b = -dots.

    Args:
        gram: [K, K], g_j . g_k.
        dots: [K], g . g_k.
    """
    import numpy as np
    import torch
    from scipy.optimize import nnls

    products, right = gram.double().cpu().numpy(), dots.double().cpu().numpy()
    least = margin if code_compat else 0.0
    if code_compat:
        products = products + 1e-3 * np.eye(len(products))
        right = right + least * products.sum(1)
    values, vectors = np.linalg.eigh((products + products.T) / 2)
    kept = values > values.max() * 1e-12 if values.max() > 0 else np.zeros_like(values, bool)
    if not kept.any():
        return torch.full(dots.shape, least, dtype=torch.float64)
    roots = np.sqrt(values[kept])
    solved, _ = nnls(roots[:, None] * vectors[:, kept].T, -(vectors[:, kept].T @ right) / roots)
    return torch.from_numpy(solved) + (least if code_compat else margin)


def answer_gradient(
    model: nn.Module, parameters: Mapping[str, Tensor], batches: Sequence[Mapping[str, Any]]
) -> Gradients:
    """The gradient of the mean of -log p over all answer tokens of some batches.

    A weight that it does not depend on has 0.
    """
    import torch

    from holdfast.pieces.importance import log_likelihood
    from holdfast.pieces.positions import answer

    found = {n: torch.zeros_like(p) for n, p in parameters.items()}
    count = sum(int(answer(batch).sum()) for batch in batches)
    for batch in batches:
        with torch.enable_grad():
            loss = -log_likelihood(model, batch).sum() / max(1, count)
            slopes = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for name, slope in zip(parameters, slopes, strict=True):
            if slope is not None:
                found[name] += slope
    return found


def _dot(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
    """sum over the weights of both, in float64."""
    import torch

    parts = [(v.double() * b[n].double()).sum() for n, v in a.items() if n in b]
    return torch.stack(parts).sum() if parts else torch.zeros((), dtype=torch.float64)
